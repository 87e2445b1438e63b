"""`Agent`: runs a trained model with its tools, as training ran it.

    import appo

    agent = appo.Agent("runs/tickets/model", tools=[look_up])
    answer = agent("Where is my parcel?")
    print(answer)                                   # the answer alone
    for call in answer.calls:
        print(call.name, call.arguments, call.result, call.error, call.seconds)

    answers = agent.batch(["Where is ..?", "When ..?"])   # many at once
    talk = agent.conversation()                     # several turns: talk("..."), talk("and then?"), talk.reset()

How calls are written, the system prompt, the bounds and the sampling are those of the training, which wrote them
beside the model (`appo.json`); what is given here wins. A question is a text, messages, or a row as in training, where
an environment's `reset` takes more than the prompt.

Left out on purpose: rewards, branches, and memory between questions (`conversation.py`).
"""

import inspect
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from appo.agent.answer import AgentAnswer, answer_of
from appo.agent.conversation import Conversation
from appo.agent.live import Listener, Live
from appo.agent.question import Asked, Question, check_seed, row_of, several
from appo.agent.settings import AgentSettings, read_settings
from appo.engines.opening import open_engine
from appo.environments.prompts import system_prompt
from appo.errors import UserError
from appo.evaluation.eval_tools import check_schema
from appo.evaluation.policy import Policy, load_policy
from appo.models.usage import Usage, read_usage
from appo.protocols.calls import ReadableText
from appo.protocols.tags import TagProtocol
from appo.rollout.arguments import check_environments, check_factory, tool_list
from appo.rollout.environments import EnvironmentPool, as_texts
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.prompts import starting_prompt
from appo.rollout.types import Rollout
from appo.rollout.unknown_words import UnknownWords, text_of
from appo.tools.runner import ToolRunner


class Agent:
    """A model with its tools.

    It may be asked from several threads: they are answered one after the other, where `batch` answers at once. A
    conversation belongs to one thread.

    Args:
        model: Directory of a model or of a LoRA adapter, a name on the hub, or `smollm2`.
        tools: Functions that it may call. With an empty list it has none, though it was trained with some.
        environment_factory: As in `APPOTrainer`: each question gets an environment, whose methods are tools.
        options: Fields of `AgentSettings`: `temperature` (0: the likeliest tokens), `max_completion_length`,
            `system_prompt`, ...

    Raises:
        UserError: in one sentence, where the model cannot be loaded or used so, and for tools that it was trained
            with and that are not given.
    """

    def __init__(
        self,
        model: str,
        tools: Sequence[Callable[..., Any]] | None = None,
        *,
        environment_factory: Any = None,
        **options: Any,
    ) -> None:
        given = read_settings(options)
        self.model, self.usage = str(model), read_usage(str(model))
        self.settings = given.over(self.usage)
        check_factory(environment_factory)
        self.pool = EnvironmentPool(tool_list(tools), environment_factory)
        check_environments(self.pool)
        self.tools = self.pool.all_tools()
        for name, tool in self.tools.items():
            check_schema(tool, name)
        _check_tools(self.model, self.usage, self.tools, tools is None and environment_factory is None)
        self.policy = _load(self.model, self.settings, self.tools)
        self.policy.system_prompt = self._system(self.policy)
        self.is_tags = isinstance(self.policy.protocol, TagProtocol)
        # Where prompts were plain texts, or the tokenizer knows of no messages, a question is continued as it is.
        self.has_messages = self.usage.prompts != "text" and self.policy.tokenizer.chat_template is not None
        timeout, chars = self.settings.tool_timeout, self.settings.max_tool_result_chars
        assert timeout is not None and chars is not None  # by `over`
        self._runner = ToolRunner(timeout=timeout, max_result_chars=chars)
        self._loop = self._make_loop()
        self._random = np.random.default_rng(self.settings.seed)
        self._unknown = UnknownWords(self.policy.tokenizer, "questions")
        # Engine, loop and environments hold what is being written: one thread at a time. A listener's is the writer's.
        self._lock = threading.RLock()

    def _system(self, policy: Policy) -> str:
        if self.settings.system_prompt is not None:
            return self.settings.system_prompt
        # A model that says nothing of itself has to be told of tags.
        untold = self.usage.prompts is None and isinstance(policy.protocol, TagProtocol) and bool(self.tools)
        return system_prompt(self.tools) if untold else ""

    def _make_loop(self) -> AgentLoop:
        policy, settings = self.policy, self.settings
        engine = open_engine(settings, policy.model, policy.tokenizer, policy.eos_token_ids, settings.batch_size)
        if settings.engine == "vllm":
            engine.load(policy.model.named_parameters())
        bounds = [bound for bound in (policy.context_length, engine.context_length) if bound is not None]
        assert settings.max_completion_length is not None
        return AgentLoop(
            engine,
            policy.protocol,
            self._runner,
            max_completion_length=settings.max_completion_length,
            max_tool_calling_iterations=settings.max_tool_calling_iterations,
            context_length=min(bounds, default=None),
            max_tool_calls=settings.max_tool_calls,
            keep_snapshots=False,
        )

    def __call__(
        self, question: Question, *, seed: int | None = None, listener: Listener | None = None
    ) -> AgentAnswer:
        """Answers a question.

        Args:
            question: A text, messages, or a row with a `prompt`, which an environment is reset with.
            seed: Of its random numbers; by default another one for each question, from the agent's.
            listener: Is told of text and calls as they come.

        Raises:
            UserError: for a question that is none, or leaves no room for an answer; for a wrong seed.
        """
        check_seed(seed)
        asked = self.open(question)
        try:
            return self.write([asked], [seed], listener)[0]
        finally:
            self.close([asked])

    def batch(self, questions: Iterable[Question], *, seed: int | None = None) -> list[AgentAnswer]:
        """Answers many questions, `batch_size` at once, in their order.

        Args:
            seed: Of all their random numbers.

        Raises:
            UserError: as for one question, and for one alone.
        """
        check_seed(seed)
        asked: list[Asked] = []
        try:
            asked += (self.open(question) for question in several(questions))
            seeds: list[int | None] = [None] * len(asked)
            if seed is not None:
                seeds = [int(one) for one in np.random.SeedSequence(seed).generate_state(len(asked), np.uint64)]
            return self.write(asked, seeds)
        finally:
            self.close(asked)

    def conversation(self) -> Conversation:
        """A conversation of several turns.

        Raises:
            UserError: for a model whose prompts are plain texts.
        """
        if not self.has_messages:
            raise UserError(f"model = {self.model!r} continues plain texts, which have no turns; ask agent(question).")
        return Conversation(self)

    # ---- the parts of an answer ----

    def open(self, question: Question) -> Asked:
        """The prompt of a question, in an environment of its own."""
        row = row_of(question)
        with self._lock:
            self._check_reset(row)
            environment, observation = self.pool.open(row)
        return Asked(self._with_system(as_texts(starting_prompt(row, observation))), environment)

    def _check_reset(self, row: dict[str, Any]) -> None:
        """
        Raises:
            UserError: where `reset` of the row's environment takes what the row has not.
        """
        if not self.pool.factories:
            return
        name, environments = self.pool.name_of(row), dict(zip(self.pool.factories, self.pool.probe(), strict=True))
        given = {key: value for key, value in row.items() if not (self.pool.by_name and key == "environment")}
        try:
            inspect.signature(environments[name].reset).bind(**given)
        except TypeError as error:
            raise UserError(
                f"reset of {type(environments[name]).__name__}: {error}; ask with a row as in training, such as "
                '{"prompt": "..", "seed": 7}; in `appo chat`, /example asks one.'
            ) from None

    def _with_system(self, prompt: Any) -> Any:
        system = self.policy.system_prompt
        if not self.has_messages:
            if not isinstance(prompt, str):
                raise UserError(f"model = {self.model!r} continues plain texts; ask with a text, not with messages.")
            text = f"{system}\n\n{prompt}" if system else prompt
            return text if self.usage.prompts == "text" else f"{text}\n"
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system}, *messages]
        return messages

    def _start(self, asked: Asked, seed: int | None) -> Start:
        tools = self.pool.tools_of(asked.environment)
        if isinstance(asked.prompt, str):
            ids = self.policy.tokenizer(asked.prompt)["input_ids"]
        else:
            ids = self.policy.render(asked.prompt, tools)[1]
        self._unknown.look([text_of(asked.prompt)], [ids])
        self._unknown.tell()
        room = self._loop.context_length
        if room is not None and len(ids) >= room:
            raise UserError(
                f"the question has {len(ids)} tokens with all that stands before it, and leaves no room for an answer "
                f"in the model's {room}; ask a shorter one, or begin a new conversation."
            )
        drawn = int(self._random.integers(2**63)) if seed is None else seed
        return Start(Rollout(ids, asked.prompt, environment=asked.environment), tools, drawn)

    def write(
        self, asked: Sequence[Asked], seeds: Sequence[int | None], listener: Listener | None = None
    ) -> list[AgentAnswer]:
        """Answers to what was opened; with a listener, of one question alone."""
        with self._lock:
            return self._write(asked, seeds, listener)

    def _write(
        self, asked: Sequence[Asked], seeds: Sequence[int | None], listener: Listener | None
    ) -> list[AgentAnswer]:
        starts = [self._start(one, seed) for one, seed in zip(asked, seeds, strict=True)]
        live: Callable[[], None] = lambda: None  # noqa: E731
        if listener is not None:
            read = ReadableText(self.policy.tokenizer, self.tools)
            live = Live(starts[0].rollout, self._loop.engine, 0, read, listener)
        try:
            rollouts = self._loop.run(starts, 0, on_step=live)
        except BaseException:  # a tool of the user's may raise, or the user may stop it
            self._loop.abandon()
            raise
        return [answer_of(rollout, self.policy.protocol) for rollout in rollouts]

    def close(self, asked: Iterable[Asked]) -> None:
        """Takes environments back."""
        with self._lock:
            self.pool.release(self._runner, [one.environment for one in asked if one.environment is not None])


def _load(model: str, settings: AgentSettings, tools: dict[str, Callable[..., Any]]) -> Policy:
    kwargs = settings.chat_template_kwargs
    assert not isinstance(kwargs, str)
    options = {} if settings.result_format is None else {"result_format": settings.result_format}
    add = bool(settings.add_tools)
    return load_policy(model, settings.tool_protocol, tools, "", kwargs, settings.engine, options, add)


def _check_tools(model: str, usage: Usage, tools: dict[str, Any], nothing_given: bool) -> None:
    """
    Raises:
        UserError: where the model was trained with tools and the user says nothing of any.
    """
    missing = [name for name in usage.tools or () if name not in tools]
    if missing and nothing_given:
        raise UserError(
            f"model = {model!r} was trained with the tools {', '.join(missing)}; give tools=[..] or "
            "environment_factory=.., or tools=[] to do without."
        )
    if missing and tools:
        warnings.warn(
            f"{model} was trained with the tools {', '.join(usage.tools or ())}, of which {', '.join(missing)} "
            "are not given.",
            stacklevel=3,
        )
