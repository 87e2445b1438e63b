"""`appo serve MODEL`: serves a model to whatever speaks OpenAI's API, asked as it was trained to be.

    appo serve runs/kinship/model                       on http://127.0.0.1:8000/v1
    appo serve runs/x/model --port 9000 --temperature 0
    appo serve smollm2 --add_tools true

How calls are written, the system prompt, the chat template's arguments, the sampling and the bound of an answer are
those of the training (`appo.json` beside the model); what is given here wins, and a request's own system message,
temperature, bound and stop win over both. Tools run where the client runs.

Left out on purpose: several models, and TLS (a proxy's).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import transformers

from appo.agent.settings import AgentSettings
from appo.cli.fields import FLAGS, head, read_dataclasses, split_flags
from appo.cli.loading import check_source
from appo.cli.mistakes import RecipeError
from appo.engines.opening import open_engine
from appo.environments.prompts import system_prompt
from appo.errors import MissingPackage, UserError, did_you_mean
from appo.evaluation.policy import Policy, load_policy
from appo.models.usage import Usage, read_usage
from appo.protocols.tags import TagProtocol
from appo.tools.schema_tool import SchemaTool

# Of an agent that runs its own tools.
NOT_HERE = ("max_tool_calls", "max_tool_calling_iterations", "max_tool_result_chars", "tool_timeout")
SECRET = "APPO_API_KEY"
KEPT_TURNS, KEPT_KEYS = 512, 64  # of conversations, so that a server's memory has a bound


@dataclass(kw_only=True)
class ServeSettings(AgentSettings):
    """What `appo serve` takes."""

    model: str = field(metadata={"help": "Model directory or hub name, a LoRA adapter's directory, or smollm2."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen at; others than loopback need a key."})
    port: int = field(default=8000, metadata={"help": "Port to listen at; 0 for any that is free."})
    api_key: str | None = field(
        default=None, metadata={"help": f"Secret that each request has to have; by default ${SECRET}, if it is set."}
    )
    name: str | None = field(default=None, metadata={"help": "How clients name the model; by default MODEL."})
    max_requests: int = field(default=256, metadata={"help": "Requests that are open at once; more are refused."})
    request_timeout: float = field(default=600.0, metadata={"help": "Seconds in which a request is answered."})
    max_body_mib: int = field(default=4, metadata={"help": "MiB of a request; a longer one is refused."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("port", 0), ("max_requests", 1), ("max_body_mib", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.port > 65535:
            raise UserError(f"port must be at most 65535, got {self.port}.")
        if not 0 < self.request_timeout < float("inf"):
            raise UserError(f"request_timeout must be a positive number of seconds, got {self.request_timeout}.")


def read_flags(arguments: list[str]) -> ServeSettings:
    """
    Raises:
        RecipeError: for unknown flags and wrong values, in one sentence.
    """
    if arguments[0].startswith("-"):
        raise RecipeError("serve needs a model before its flags, for example: appo serve runs/kinship/model")
    flags = split_flags(arguments[1:])[0]
    names = [f.name for f in fields(ServeSettings) if f.name != "model" and f.name not in NOT_HERE]
    for name in map(head, flags):
        if name in NOT_HERE:
            raise RecipeError(f"--{name} is about tools that run here, but a client runs its own; leave it out.")
        if name not in names:
            hint = did_you_mean(name, names, "see `appo serve --help`.", "--{}")
            raise RecipeError(f"unknown option --{name}; {hint}")
    settings = read_dataclasses((ServeSettings,), {"model": arguments[0]}, flags, FLAGS)[0]
    return replace(settings, api_key=settings.api_key or os.environ.get(SECRET) or None)


def open_endpoint(settings: ServeSettings, own_thread: bool = True) -> Any:
    """The endpoint of a model (`appo.serve.endpoint.Endpoint`); its thread is to be closed.

    Args:
        own_thread: Whether its engine has one; else whoever calls this has to step it (`EngineThread.drive`).

    Raises:
        UserError: for what cannot be loaded, or does not fit.
    """
    from appo.serve.bounds import MIB, Bounds
    from appo.serve.chat import Chat
    from appo.serve.endpoint import Endpoint, ServedModel
    from appo.serve.engine_thread import EngineThread
    from appo.serve.keys import Keys

    usage = read_usage(settings.model)
    asked = settings.over(usage)
    assert asked.max_completion_length is not None and asked.temperature is not None  # by `over`
    policy = _load(settings.model, asked)
    # Each request brings its temperature, 0 too, which an engine of temperature 0 could not leave.
    engine = open_engine(
        replace(asked, temperature=1.0), policy.model, policy.tokenizer, policy.eos_token_ids, asked.batch_size
    )
    if asked.engine == "vllm":
        engine.load(policy.model.named_parameters())
    known = [bound for bound in (policy.context_length, engine.context_length) if bound is not None]
    served = ServedModel(
        settings.name or settings.model,
        policy.tokenizer,
        policy.model.config.get_text_config().vocab_size,
        min(known, default=None),
        asked.max_completion_length,
        asked.temperature,
        {"top_p": asked.top_p, "top_k": asked.top_k, "min_p": asked.min_p},
    )
    bounds = Bounds(
        body_bytes=settings.max_body_mib * MIB, seconds=settings.request_timeout, requests=settings.max_requests,
        requests_per_key=max(1, settings.max_requests // 2), turns_per_key=KEPT_TURNS, keys=KEPT_KEYS, forgets=True,
    )  # fmt: skip
    keys = Keys(bounds, anyone=True, seed=settings.seed)
    return Endpoint(served, EngineThread(engine, own_thread), Chat(*_speech(policy, asked, usage)), keys)


def _load(model: str, settings: AgentSettings) -> Policy:
    kwargs = settings.chat_template_kwargs
    assert not isinstance(kwargs, str)
    options = {} if settings.result_format is None else {"result_format": settings.result_format}
    return load_policy(model, settings.tool_protocol, {}, "", kwargs, settings.engine, options)


def _speech(policy: Policy, settings: AgentSettings, usage: Usage) -> tuple[Any, Any]:
    """How the policy is talked to: its dialects, and its system message."""
    from appo.serve.dialects import dialects

    assert not isinstance(settings.chat_template_kwargs, str)
    tags = isinstance(policy.protocol, TagProtocol)
    speech = dialects(
        policy.tokenizer,
        policy.eos_token_ids,
        "tags" if tags else "chat_template",
        chat_template_kwargs=settings.chat_template_kwargs,
        add_tools=bool(settings.add_tools),
        result_format=settings.result_format,
        trained_tools=usage.tools or (),
        plain_prompts=usage.prompts == "text",
    )

    def system(tools: Sequence[SchemaTool]) -> str:
        if settings.system_prompt is not None:
            return settings.system_prompt
        # A model that says nothing of itself has to be told of tags.
        return system_prompt([tool.__name__ for tool in tools]) if tags and usage.prompts is None and tools else ""

    return speech, system


def serve(arguments: list[str]) -> int:
    """Serves until it is interrupted.

    Args:
        arguments: The model, then flags.

    Raises:
        UserError: for whatever is wrong with the flags and what they name.
    """
    settings = read_flags(arguments)
    try:
        from appo.serve.app import make_app
        from appo.serve.server import Server, check_host
    except ModuleNotFoundError as error:
        raise MissingPackage(f"appo serve needs {error.name}; pip install 'appo[serve]'.") from None
    check_host(settings.host, settings.api_key)
    check_source(settings.model)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    server = Server(settings.host, settings.port)  # before the model is read, which may take minutes
    try:
        endpoint = open_endpoint(settings, own_thread=False)
        secret = "; with a key" if settings.api_key else ""
        print(f"{endpoint.model.name} at {server.url}/v1{secret}; Ctrl-C ends", flush=True)
        server.run(make_app(endpoint, settings.api_key), endpoint.thread.drive)
    finally:
        server.close()
    return 0
