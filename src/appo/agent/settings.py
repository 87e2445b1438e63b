"""How an agent is asked: what the user gives, else what the model was trained with, else the defaults of training.

Left out on purpose: the questions (`agent.py`), and what a model says of itself (`appo.models.usage`).
"""

import math
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, get_args, get_type_hints

from appo.config import read_mapping
from appo.engines.base import ENGINES
from appo.engines.settings import check_sampling, check_url
from appo.errors import UserError, did_you_mean
from appo.evaluation.eval_config import PROTOCOLS
from appo.models.usage import Usage

# Of what neither the user nor the model says, as in `APPOConfig`.
DEFAULTS = {
    "max_completion_length": 4096, "tool_timeout": 30.0, "max_tool_result_chars": 8192, "temperature": 1.0,
    "top_p": 1.0, "top_k": 0,
}  # fmt: skip
LEAST = {"max_completion_length": 1, "batch_size": 1, "seed": 0, "top_k": 0, "max_tool_calls": 0,
         "max_tool_calling_iterations": 0, "max_tool_result_chars": 16}  # fmt: skip
KINDS: dict[type, tuple[type, str]] = {
    str: (str, "a text"), bool: (bool, "True or False"), int: (Integral, "a whole number"), float: (Real, "a number"),
}  # fmt: skip


@dataclass
class AgentSettings:
    """What is asked for; None where it is to be as in the model's training.

    Raises:
        UserError: for values that make no sense.
    """

    system_prompt: str | None = field(default=None, metadata={"help": 'The system message, "" for none.'})
    temperature: float | None = field(default=None, metadata={"help": "Of sampling; 0 takes the likeliest token."})
    top_p: float | None = field(default=None, metadata={"help": "Share of probability that is sampled from."})
    top_k: int | None = field(default=None, metadata={"help": "Likeliest tokens that are sampled from; 0 for all."})
    min_p: float | None = field(
        default=None, metadata={"help": "Least probability of a token, as a share of the likeliest one's."}
    )
    max_completion_length: int | None = field(
        default=None, metadata={"help": "Tokens after the prompt, tool results included."}
    )
    max_tool_calls: int | None = field(
        default=None, metadata={"help": "Calls in an answer; a further one is refused."}
    )
    max_tool_calling_iterations: int | None = field(
        default=None, metadata={"help": "Turns with calls; asking for one more ends the answer."}
    )
    max_tool_result_chars: int | None = field(
        default=None, metadata={"help": "Characters of a tool's result; a longer one is cut in the middle."}
    )
    tool_timeout: float | None = field(default=None, metadata={"help": "Seconds that one call may take."})
    tool_protocol: str | None = field(
        default=None, metadata={"help": "How calls are written: chat_template or tags (docs/protocols.md)."}
    )
    result_format: str | None = field(default=None, metadata={"help": "A tool's result in tags, with one {}."})
    add_tools: bool | None = field(
        default=None, metadata={"help": "Whether tools are added to a chat template that has none."}
    )
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "What the chat template is given besides, as a mapping."}
    )
    engine: str = field(
        default="transformers", metadata={"help": f"What writes: one of {', '.join(ENGINES)} (docs/eval.md)."}
    )
    server_url: str | None = field(default=None, metadata={"help": "Of engine vllm_server: http://host:port."})
    vllm_gpu_memory_utilization: float = field(
        default=0.9, metadata={"help": "Of engine vllm: share of the GPU's memory for weights and cache."}
    )
    batch_size: int = field(default=32, metadata={"help": "Questions that are answered at once."})
    seed: int = field(default=0, metadata={"help": "Of the answers: each question has random numbers of its own."})

    def __post_init__(self) -> None:
        self._check_kinds()
        self.chat_template_kwargs = read_mapping("chat_template_kwargs", self.chat_template_kwargs)
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} must be at least {least}, got {value}.")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature must be a finite number from 0 on, got {self.temperature}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p must lie in (0, 1], got {self.top_p}.")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min_p must lie in [0, 1], got {self.min_p}.")
        if self.tool_timeout is not None and not 0 < self.tool_timeout < math.inf:
            raise UserError(f"tool_timeout must be a positive number of seconds, got {self.tool_timeout}.")
        for name, value, known in (
            ("tool_protocol", self.tool_protocol, (None, *PROTOCOLS)),
            ("engine", self.engine, ENGINES),
        ):
            if value not in known:
                raise UserError(f"{name} must be one of {', '.join(filter(None, known))}, got {value!r}.")
        if (self.engine == "vllm_server") != (self.server_url is not None):
            raise UserError("engine vllm_server and server_url belong together; give both or neither.")
        check_url("server_url", self.server_url)
        if self.engine != "transformers":
            check_sampling(self.temperature or 0.0)

    def _check_kinds(self) -> None:
        """
        Raises:
            UserError: for a value that is not of its field's type; a mapping is looked at where it is read.
        """
        for name, hint in get_type_hints(type(self)).items():
            value, kinds = getattr(self, name), get_args(hint) or (hint,)
            if (value is None and type(None) in kinds) or any(kind not in (*KINDS, type(None)) for kind in kinds):
                continue
            kind, called = KINDS[kinds[0]]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise UserError(f"{name} must be {called}, got {value!r}.")

    def over(self, usage: Usage) -> "AgentSettings":
        """These settings, with the model's own and then the defaults in place of None."""
        found: dict[str, Any] = {}
        for name in [f.name for f in fields(self) if getattr(self, f.name) is None]:
            own = getattr(usage, name, None)
            found[name] = DEFAULTS.get(name) if own is None else own
        return replace(self, **found)


def read_settings(options: dict[str, Any]) -> AgentSettings:
    """
    Raises:
        UserError: for options that there are not, too.
    """
    names = [f.name for f in fields(AgentSettings)]
    for name in options:
        if name not in names:
            hint = did_you_mean(name, names, f"there are {', '.join(names)}.")
            raise UserError(f"Agent has no option {name}; {hint}")
    return AgentSettings(**options)
