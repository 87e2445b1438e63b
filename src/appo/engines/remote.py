"""An engine whose turns are written elsewhere, one request a turn: what servers have in common.

A server knows nothing of a stop string that began in the context, and its own stops look at text, which may end a turn
where the protocol does not. So the first token that ends the turn is found here; what the server wrote behind it is
dropped, and where it stopped too early it is asked again.

A subclass says how one request is sent (`submit`). Left out on purpose: streaming, which would save the tokens behind
a stop that the server does not see; they are counted (`RemoteEngine.dropped`).
"""

import abc
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from appo.engines.base import Stop, Turn
from appo.engines.sequences import Sequence, SequenceEngine

WAIT = 0.01  # seconds that a step waits for an answer: results of tools may come meanwhile


@dataclass(frozen=True)
class Question:
    """What a server is asked for.

    Args:
        token_ids: The context.
        max_tokens: Bound on new tokens.
        seed: Below 2**63.
        stop: The strings are a hint where to stop; a server may ignore them.
        top_alternatives: How many of the likeliest first tokens are told.
        temperature: As in `Request`.
        top_logprobs: How many of the likeliest tokens are told in the place of each.
    """

    token_ids: list[int]
    max_tokens: int
    seed: int
    stop: Stop
    top_alternatives: int = 0
    temperature: float | None = None
    top_logprobs: int = 0


@dataclass(frozen=True)
class Answer:
    """What a server wrote: at least one token, with its log-probability in nats at the sampling temperature.

    Args:
        alternatives: As in `Turn`, where they were asked for; there may be more.
        cached_tokens: Tokens of the context that were in the server's cache, if it tells.
        top_logprobs: Per token, the likeliest ones in its place, where they were asked for; there may be more.
    """

    token_ids: list[int]
    logprobs: list[float]
    alternatives: list[tuple[int, float]] | None = None
    cached_tokens: int | None = None
    top_logprobs: list[list[tuple[int, float]]] | None = None


class RemoteEngine(SequenceEngine):
    """
    Args:
        eos_token_ids: Tokens that end a turn.
        tokenizer: For stop strings; may be None where no request has any.
        context_length: Tokens that a sequence may have, or None.

    Attributes:
        patience: Seconds that a step waits for an answer; None, until there is one.
        dropped: Tokens that a server wrote behind the end of a turn.
        asked_again: Turns' requests beyond the first.
        read, cached: Tokens of contexts, and how many of them were in the server's cache.
    """

    def __init__(
        self,
        *,
        eos_token_ids: Collection[int],
        tokenizer: PreTrainedTokenizerBase | None = None,
        context_length: int | None = None,
    ) -> None:
        super().__init__(eos_token_ids, tokenizer, context_length)
        self.patience: float | None = WAIT
        self.dropped = self.asked_again = self.read = self.cached = 0
        self._running: dict[Future[Answer], Sequence] = {}

    @abc.abstractmethod
    def submit(self, question: Question) -> Future[Answer]:
        """Sends a request; what goes wrong is raised by the future."""

    @abc.abstractmethod
    def load(self, weights: Any) -> None:
        """See `Engine`."""

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def close(self, id: int) -> None:
        for future in [future for future, sequence in self._running.items() if sequence.id == id]:
            del self._running[future]
            future.cancel()
        super().close(id)

    def abandon(self) -> None:
        for future in self._running:
            future.cancel()
        self._running.clear()
        self._sequences.clear()

    def rest(self) -> bool:
        return False

    def step(self) -> list[Turn]:
        """Takes the answers that have come; waits for the first for `patience` seconds."""
        done, _ = wait(self._running, timeout=self.patience, return_when=FIRST_COMPLETED)
        turns = []
        for future in sorted(done, key=lambda future: self._running[future].id):
            sequence = self._running.pop(future)
            reason = self._take(sequence, future.result())
            if reason:
                turns.append(sequence.end_turn(reason))
            else:
                self.asked_again += 1
                self.ask(sequence)
        return turns

    def ask(self, sequence: Sequence) -> None:
        self.read += len(sequence.ids)
        alternatives = 0 if sequence.logprobs else sequence.top_alternatives
        question = Question(
            list(sequence.ids), sequence.budget, sequence.next_seed(), sequence.matcher.stop, alternatives,
            sequence.temperature, sequence.top_count,
        )  # fmt: skip
        self._running[self.submit(question)] = sequence

    def _take(self, sequence: Sequence, answer: Answer) -> Any:
        if not answer.token_ids:
            raise RuntimeError(f"the server wrote no token for sequence {sequence.id}; it has to write at least one.")
        self.cached += answer.cached_tokens or 0
        if sequence.top_alternatives and answer.alternatives is not None and not sequence.logprobs:
            sequence.alternatives = answer.alternatives[: sequence.top_alternatives]
        for count, (token, logprob) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True), 1):
            reason = sequence.take(token, logprob, answer.top_logprobs[count - 1] if answer.top_logprobs else ())
            if reason:
                self.dropped += len(answer.token_ids) - count
                return reason
        return None
