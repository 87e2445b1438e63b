"""`Endpoint`: a request answered, from its messages to its message, without HTTP.

Messages become a prompt (`chat.py`), the engine writes (`engine_thread.py`) or a record answers (`replay.py`), and
what was written is entered in the key's book. Long texts are worked on in threads, so that they hold up nobody; a
short one takes less time than the way to another thread.

Left out on purpose: the API's JSON (`api.py`, `answers.py`).
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from appo.engines.base import Stop, Turn
from appo.errors import UserError
from appo.serve.api import (
    ApiError,
    ChatRequest,
    GenerateRequest,
    Sampling,
    check_heeded,
    cut,
    stops_of,
    temperature_of,
)
from appo.serve.book import Kind, WrittenTurn
from appo.serve.bounds import Bounds
from appo.serve.chat import Chat, Prompt
from appo.serve.engine_thread import EngineFailed, EngineThread, request_of
from appo.serve.keys import Account, Keys
from appo.serve.replay import Diverged, Step

Listener = Callable[[list[int]], None]
Result = TypeVar("Result")
SHORT = 16_384  # bytes of a request
SHORT_TURN = 512  # tokens
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class ServedModel:
    """What is served.

    Args:
        name: As clients name it.
        tokenizer: Its.
        vocabulary: Token ids are below it.
        context_length: Tokens of a prompt and its answer together, or None.
        max_completion_length: Tokens of an answer, where the client names no bound.
        temperature: Of sampling, where the client names none.
        sampling: top_p, top_k and min_p of the engine.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    vocabulary: int
    context_length: int | None = None
    max_completion_length: int = 4096
    temperature: float = 1.0
    sampling: dict[str, Any] = field(default_factory=dict)


@dataclass
class Wanted:
    """What a request comes to.

    Args:
        ids: The tokens of its prompt.
        limit: Bound on new tokens.
        temperature: 0 for the likeliest tokens.
        stop: What ends the turn, the client's stop texts among it.
        cuts: Those texts, which the client does not want to see.
        seed: The client's, or None.
        likeliest: Alternatives that are told of each token.
        prompt: Of a conversation; None for token ids.
        must_call: Whether the client wants a call for certain.
    """

    ids: list[int]
    limit: int
    temperature: float
    stop: Stop
    cuts: tuple[str, ...] = ()
    seed: int | None = None
    likeliest: int = 0
    prompt: Prompt | None = None
    must_call: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """What a record has to agree in, besides the prompt."""
        return {"limit": self.limit, "temperature": self.temperature, "stop": sorted(self.stop.strings),
                "stop_token_ids": sorted(self.stop.token_ids)}  # fmt: skip


class Endpoint:
    """
    Args:
        model: What is served.
        thread: Writes; its engine samples at temperature 1 where a request names none.
        chat: Makes prompts of messages.
        keys: Who asks.

    Attributes:
        counts: Turns of all keys, by kind.
        unheeded: Answers without a call, where the client wanted one for certain; the policy was not forced.
    """

    def __init__(self, model: ServedModel, thread: EngineThread, chat: Chat, keys: Keys) -> None:
        self.model, self.thread, self.chat, self.keys = model, thread, chat, keys
        self.unheeded = 0
        self.counts: Counter[Kind] = Counter()

    @property
    def bounds(self) -> Bounds:
        return self.keys.bounds

    async def wanted_by_chat(self, account: Account, request: ChatRequest, size: int) -> Wanted:
        """What a chat completion wants.

        Args:
            size: Bytes of the request.

        Raises:
            ApiError: for what cannot be heeded, or does not fit into the model's context.
        """
        self.check_model(request.model)
        check_heeded(request, self.model.sampling)
        try:
            prompt = await self._prompt(account, request, size)
        except UserError as error:
            raise ApiError(400, str(error), "messages") from None
        except TemplateError as error:  # such as roles that do not alternate
            raise ApiError(400, f"messages: the model's chat template refuses them ({error}).", "messages") from None
        except RecursionError:
            raise ApiError(400, "the request is nested too deeply.") from None
        cuts = stops_of(request.stop)
        stop = Stop(prompt.dialect.stop.token_ids, (*prompt.dialect.stop.strings, *cuts))
        limit = request.max_completion_tokens or request.max_tokens
        return Wanted(
            prompt.ids, self._limit(prompt.ids, limit), temperature_of(request.temperature, self.model.temperature),
            stop, cuts, request.seed, request.likeliest, prompt, request.tool_choice not in (None, "auto", "none"),
        )  # fmt: skip

    async def _prompt(self, account: Account, request: ChatRequest, size: int) -> Prompt:
        messages = [said.as_message() for said in request.messages]
        tools = [tool.function.as_tool() for tool in request.tools or ()]
        reads_calls = request.tool_choice != "none"
        short = size < SHORT and self.chat.is_ready(tools, reads_calls)
        return await aside(short, self.chat.prompt, account.book, messages, tools, reads_calls)

    def wanted_by_tokens(self, request: GenerateRequest) -> Wanted:
        """What a request with token ids wants.

        Raises:
            ApiError: as for a chat, and for ids that are no tokens.
        """
        if request.model is not None:
            self.check_model(request.model)
        params: Sampling = request.sampling_params
        check_heeded(params, self.model.sampling)
        if max(request.token_ids) >= self.model.vocabulary:
            raise ApiError(
                400,
                f"token_ids: {max(request.token_ids)} is no token; there are {self.model.vocabulary}.",
                "token_ids",
            )
        stop = Stop(frozenset(params.stop_token_ids or ()), stops_of(params.stop))
        return Wanted(
            request.token_ids, self._limit(request.token_ids, params.max_tokens),
            temperature_of(params.temperature, self.model.temperature), stop, stop.strings, params.seed,
            params.logprobs or 0,
        )  # fmt: skip

    def check_model(self, name: str) -> None:
        """
        Raises:
            ApiError: 404, for a model that is not served.
        """
        if name != self.model.name:
            raise ApiError(
                404, f"the model {name[:100]!r} is not served here; there is {self.model.name!r}.", "model",
                "model_not_found",
            )  # fmt: skip

    def _limit(self, ids: list[int], asked: int | None) -> int:
        limit, context = asked or self.model.max_completion_length, self.model.context_length
        if context is None:
            return limit
        if len(ids) >= context:
            raise ApiError(
                400,
                f"the prompt has {len(ids)} tokens and leaves no room for an answer in the model's {context}; send a "
                "shorter one.",
                "messages",
                "context_length_exceeded",
            )
        return min(limit, context - len(ids))

    async def write(self, account: Account, wanted: Wanted, listener: Listener | None = None) -> WrittenTurn:
        """Answers, and enters the answer in the book. Who is cancelled leaves the engine.

        Args:
            listener: Called in the event loop's thread with the tokens so far.

        Raises:
            ApiError: 408 where it takes too long, 400 where a branch has diverged, 500 where the engine fails.
        """
        step = self._replayed(account, wanted)
        try:
            if step is not None and step.forced is None:
                turn = replace(step.turn)  # as it was, its message too
                self._enter(account, turn)
                return turn
            forced = 0 if step is None else step.forced or 0
            written = await self._sample(account, wanted, step.turn if step and forced else None, forced, listener)
            return await self._entered(account, wanted, written, forced)
        except BaseException:
            if step is not None and account.branch is not None:
                account.branch.back(step)
            raise

    def _replayed(self, account: Account, wanted: Wanted) -> Step | None:
        if account.branch is None:
            return None
        try:
            return account.branch.meet(wanted.ids, wanted.settings)
        except Diverged as error:
            raise ApiError(400, str(error), code="branch_diverged") from None

    async def _sample(
        self, account: Account, wanted: Wanted, record: WrittenTurn | None, forced: int, listener: Listener | None
    ) -> Turn:
        """A turn, with the record's first `forced` tokens before those that are sampled."""
        loop = asyncio.get_running_loop()
        start = record.token_ids[:forced] if record else []
        on_tokens = None
        if listener is not None:

            def on_tokens(ids: list[int]) -> None:
                loop.call_soon_threadsafe(listener, start + ids)

        request = request_of(
            wanted.ids + start, wanted.limit - forced, account.seed(wanted.seed), stop=wanted.stop,
            turn_tokens=forced, temperature=wanted.temperature, top_logprobs=wanted.likeliest,
        )  # fmt: skip
        try:
            writing = self.thread.write(request, on_tokens)
            try:
                turn = await asyncio.wait_for(asyncio.wrap_future(writing.turn), self.bounds.seconds)
            finally:
                self.thread.leave(writing)
        except TimeoutError:
            raise ApiError(408, f"the answer took more than {self.bounds.seconds:g} seconds; ask for less.") from None
        except EngineFailed as error:
            raise ApiError(500, str(error), code="engine_failed") from error
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        if record is None:
            return turn
        likeliest = None
        if turn.top_logprobs is not None:
            known = record.likeliest[:forced] if record.likeliest else [[] for _ in start]
            likeliest = known + turn.top_logprobs
        return replace(
            turn, token_ids=start + turn.token_ids, logprobs=record.logprobs[:forced] + turn.logprobs,
            top_logprobs=likeliest,
        )  # fmt: skip

    async def _entered(self, account: Account, wanted: Wanted, turn: Turn, forced: int) -> WrittenTurn:
        written = WrittenTurn(
            wanted.ids, turn.token_ids, turn.logprobs, turn.reason, wanted.settings, likeliest=turn.top_logprobs,
            forced=forced,
        )  # fmt: skip
        prompt = wanted.prompt
        if prompt is not None:
            short, bounded = len(turn.token_ids) < SHORT_TURN, turn.reason == "length"
            message = await aside(short, prompt.dialect.message, turn.token_ids, wanted.ids, bounded)
            written_text = message["content"]
            message["content"] = cut(written_text, wanted.cuts)
            stops = [stop for stop in wanted.cuts if written_text.startswith(stop, len(message["content"]))]
            for place, call in enumerate(message.get("tool_calls", ())):
                call["id"] = call_id(account.book.next_number, place)
            written.message, (written.said, written.told) = message, prompt.names_of(message)
            put_back = ({**message, "content": message["content"] + stop} for stop in stops)
            written.also = tuple(name for one in put_back for name in prompt.names_of(one))
            written.unknown_answer, written.retold = prompt.unknown_answer, prompt.retold
            self.unheeded += wanted.must_call and "tool_calls" not in message
        self._enter(account, written)
        return written

    def _enter(self, account: Account, turn: WrittenTurn) -> None:
        account.book.add(turn)
        self.counts[turn.kind] += 1


async def aside(short: bool, work: Callable[..., Result], *given: Any) -> Result:
    """What the work comes to, which is done in a thread unless it is short."""
    return work(*given) if short else await asyncio.to_thread(work, *given)


def call_id(number: int, place: int) -> str:
    """The id of a call, the same whenever a rollout is replayed; nine letters and digits, as some templates want."""
    count, text = 64 * number + place, ""
    while count:
        count, digit = divmod(count, 36)
        text = DIGITS[digit] + text
    return "call" + text.rjust(5, "0")
