"""`Endpoint`: a request answered, from its messages to its message, without HTTP.

Messages become a prompt (`chat.py`), the engine writes (`engine_thread.py`) or a record answers (`replay.py`), and
what was written is entered in the key's book. Long texts are worked on in threads, so that they hold up nobody; a
short one takes less time than the way to another thread.

Left out on purpose: the API's JSON (`api.py`, `answers.py`).
"""

import asyncio
import time
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
from appo.serve.dialect import Message
from appo.serve.engine_thread import EngineFailed, EngineThread, Writing, request_of
from appo.serve.keys import Account, Held, Keys
from appo.serve.replay import ALTERNATIVES, Diverged, Step
from appo.serve.wanted import Wanted

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
        any_name: Whether clients may name it as they like, as agents that were written for another one do.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    vocabulary: int
    context_length: int | None = None
    max_completion_length: int = 4096
    temperature: float = 1.0
    sampling: dict[str, Any] = field(default_factory=dict)
    any_name: bool = False


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
        messages = [said.as_message() for said in request.messages]
        try:
            prompt = await self._prompt(account, request, messages, size)
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
            prompt.ids, self._limit(account, prompt.ids, limit),
            temperature_of(request.temperature, self.model.temperature), stop, cuts, request.seed, request.likeliest,
            prompt, messages, request.tool_choice not in (None, "auto", "none"),
        )  # fmt: skip

    async def _prompt(self, account: Account, request: ChatRequest, messages: list[Message], size: int) -> Prompt:
        tools = [tool.function.as_tool() for tool in request.tools or ()]
        reads_calls = request.tool_choice != "none"
        short = size < SHORT and self.chat.is_ready(tools, reads_calls)
        return await aside(short, self.chat.prompt, account.book, messages, tools, reads_calls)

    def wanted_by_tokens(self, account: Account, request: GenerateRequest) -> Wanted:
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
            request.token_ids, self._limit(account, request.token_ids, params.max_tokens),
            temperature_of(params.temperature, self.model.temperature), stop, stop.strings, params.seed,
            params.logprobs or 0,
        )  # fmt: skip

    def check_model(self, name: str) -> None:
        """
        Raises:
            ApiError: 404, for a model that is not served.
        """
        if name != self.model.name and not self.model.any_name:
            raise ApiError(
                404,
                f"the model {name[:100]!r} is not served here; there is {self.model.name!r} (appo serve --name).",
                "model",
                "model_not_found",
            )  # fmt: skip

    def _limit(self, account: Account, ids: list[int], asked: int | None) -> int:
        """Tokens of an answer: as many as are asked for, and have room in the model and in the account's rollout."""
        limit, context, owner = asked or self.model.max_completion_length, self.model.context_length, "the model's"
        if account.rollout is not None and account.rollout.longest is not None:
            longest = account.book.start_of(ids) + account.rollout.longest
            if context is None or longest < context:
                context, owner = longest, "its first prompt and the rollout's max_completion_length,"
        if context is None:
            return limit
        if len(ids) >= context:
            account.refused += 1
            raise ApiError(
                400,
                f"the prompt has {len(ids)} tokens and leaves no room for an answer in {owner} {context}; send a "
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
                # As it was, its message too; nothing of it is sampled here.
                turn = replace(step.turn, forced=len(step.turn.token_ids))
                self._enter(account, turn)
                return turn
            forced = 0 if step is None else step.forced or 0
            sampled = await self._sample(account, wanted, step.turn if step and forced else None, forced, listener)
            turn = await self._read(account, wanted, sampled, forced)
            number = self._enter(account, turn)
            if account.rollout is not None:
                account.held[number] = Held(sampled.id, wanted.lasting)
                if account.taken:  # meanwhile
                    self.let_go(account)
            if step is not None and account.branch is not None:
                account.branch.written, account.branch.alternatives = number, sampled.alternatives
            return turn
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

        try:
            writing = self._begin(account, wanted, start, on_tokens)
            begin = time.perf_counter()
            try:
                turn = await asyncio.wait_for(asyncio.wrap_future(writing.turn), self.bounds.seconds)
            finally:
                account.engine_seconds += time.perf_counter() - begin
                self.thread.leave(writing)
        except TimeoutError:
            raise ApiError(408, f"the answer took more than {self.bounds.seconds:g} seconds; ask for less.") from None
        except EngineFailed as error:
            raise ApiError(500, str(error), code="engine_failed") from error
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        return turn if record is None else self._with_forced(turn, record, forced)

    def _begin(self, account: Account, wanted: Wanted, start: list[int], on_tokens: Listener | None) -> Writing:
        """Has a turn written: by the sequence that wrote the turn before it, where that is kept, else by a new one."""
        before = account.book.continued_by(wanted.ids)
        held = account.held.pop(before, None) if before is not None and not start else None
        if held is not None and before is not None:
            if held.settings == wanted.lasting:
                read = len(account.book.turns[before].ids)
                return self.thread.resume(held.id, wanted.ids[read:], wanted.limit, on_tokens)
            self.thread.let_go(held.id)
        at_place = account.branch is not None and account.branch.reached and account.branch.written is None
        request = request_of(
            wanted.ids + start, wanted.limit - len(start), account.seed(wanted.seed, wanted.ids),
            stop=wanted.stop, turn_tokens=len(start), temperature=wanted.temperature, top_logprobs=wanted.likeliest,
            top_alternatives=ALTERNATIVES if at_place else 0,
        )  # fmt: skip
        return self.thread.write(request, on_tokens, keep=account.rollout is not None)

    def let_go(self, account: Account) -> None:
        """Closes what an account keeps open: it asks no more."""
        while account.held:
            self.thread.let_go(account.held.popitem()[1].id)

    def _with_forced(self, turn: Turn, record: WrittenTurn, forced: int) -> Turn:
        start, likeliest = record.token_ids[:forced], None
        if turn.top_logprobs is not None:
            known = record.likeliest[:forced] if record.likeliest else [[] for _ in start]
            likeliest = known + turn.top_logprobs
        return replace(
            turn, token_ids=start + turn.token_ids, logprobs=record.logprobs[:forced] + turn.logprobs,
            top_logprobs=likeliest,
        )  # fmt: skip

    async def _read(self, account: Account, wanted: Wanted, turn: Turn, forced: int) -> WrittenTurn:
        written = WrittenTurn(
            wanted.ids, turn.token_ids, turn.logprobs, turn.reason, wanted.settings, likeliest=turn.top_logprobs,
            forced=forced,
        )  # fmt: skip
        if not self.bounds.forgets:
            written.messages = wanted.messages
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
        return written

    def _enter(self, account: Account, turn: WrittenTurn) -> int:
        number = account.book.add(turn)
        self.counts[turn.kind] += 1
        return number


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
