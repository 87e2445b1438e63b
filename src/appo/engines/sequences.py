"""What an engine with a cache of its own keeps of a sequence: its tokens, and the turn that is being written.

Such an engine (vLLM, in process or as a server) is asked anew for each turn, with all tokens so far, and finds what it
has in its cache by itself. Its own stops are not enough: they are blind to a string that began in the context, so that
a branch within a closing tag would never stop. `Sequence.take` looks at each token that comes back and says where the
turn ends.

`SequenceEngine` is what such engines have in common. Left out on purpose: how tokens come (`vllm.py`, `remote.py`).
"""

import abc
from collections.abc import Collection
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from appo.engines.base import Request, Stop, Turn
from appo.engines.stops import StopMatcher


class Sequence:
    """One open sequence.

    Args:
        request: What was asked for.
        matcher: Its `Stop`.
        eos_token_ids: Tokens that end a turn.

    Attributes:
        ids: All tokens so far, those of the present turn included.
        budget: Tokens that the present turn may still have.
    """

    def __init__(self, request: Request, matcher: StopMatcher, eos_token_ids: frozenset[int]) -> None:
        self.id, self.seed, self.matcher, self.eos_token_ids = request.id, request.seed, matcher, eos_token_ids
        self.ids, self.budget = list(request.token_ids), request.max_new_tokens
        self.top_alternatives = request.top_alternatives
        self.alternatives: list[tuple[int, float]] | None = None
        self.temperature, self.top_count = request.temperature, request.top_logprobs
        self.top_logprobs: list[list[tuple[int, float]]] = []
        self.logprobs: list[float] = []
        self.turn = self.part = 0
        self._turn_start = len(self.ids) - request.turn_tokens

    def resume(self, token_ids: list[int], budget: int) -> None:
        """Begins another turn behind these tokens."""
        self.ids += token_ids
        self.budget, self._turn_start = budget, len(self.ids)
        self.turn, self.part, self.top_alternatives = self.turn + 1, 0, 0

    def next_seed(self) -> int:
        """The seed of the next request, below 2**63: one of its own for each, as with the same one a continuation
        would draw the same numbers again."""
        entropy = [self.seed, self.turn, self.part]
        self.part += 1
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)

    def take(self, token: int, logprob: float, likeliest: list[tuple[int, float]] | tuple[()] = ()) -> Any:
        """Adds a token, with the likeliest ones in its place where they were asked for; the reason why the turn ends
        with it, or None."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        if self.top_count:
            self.top_logprobs.append(list(likeliest[: self.top_count]))
        self.budget -= 1
        if token in self.eos_token_ids:
            return "eos"
        if self.matcher.ended(self.ids[max(self._turn_start, len(self.ids) - self.matcher.window) :]):
            return "stop"
        return None if self.budget > 0 else "length"

    def end_turn(self, reason: Any) -> Turn:
        """The turn that ended now."""
        written, logprobs = self.ids[len(self.ids) - len(self.logprobs) :], self.logprobs
        alternatives, self.alternatives = self.alternatives, None
        likeliest, self.top_logprobs = self.top_logprobs, []
        self.logprobs = []
        return Turn(self.id, written, logprobs, reason, alternatives, likeliest if self.top_count else None)


class SequenceEngine(abc.ABC):
    """Opens, resumes and closes sequences; a subclass asks for their turns.

    Args:
        eos_token_ids: Tokens that end a turn.
        tokenizer: For stop strings; may be None where no request has any.
        context_length: Tokens that a sequence may have, or None.
    """

    def __init__(
        self,
        eos_token_ids: Collection[int],
        tokenizer: PreTrainedTokenizerBase | None,
        context_length: int | None,
    ) -> None:
        self.eos_token_ids, self.tokenizer = frozenset(eos_token_ids), tokenizer
        self.context_length = context_length
        self._matchers: dict[Stop, StopMatcher] = {}
        self._sequences: dict[int, Sequence] = {}

    @abc.abstractmethod
    def ask(self, sequence: Sequence) -> None:
        """Asks for the turn, or the rest of the turn, that a sequence has to write."""

    @property
    def is_open(self) -> bool:
        """Whether there are sequences that are not closed."""
        return bool(self._sequences)

    def start(self, request: Request) -> None:
        check_context(request, self.context_length)
        if request.stop not in self._matchers:
            self._matchers[request.stop] = StopMatcher(request.stop, self.tokenizer)
        sequence = Sequence(request, self._matchers[request.stop], self.eos_token_ids)
        self._sequences[request.id] = sequence
        self.ask(sequence)

    def resume(self, id: int, token_ids: list[int], max_new_tokens: int) -> None:
        sequence = self._sequences[id]
        sequence.resume(token_ids, max_new_tokens)
        self.ask(sequence)

    def so_far(self, id: int) -> list[int]:
        sequence = self._sequences.get(id)
        return [] if sequence is None else sequence.ids[len(sequence.ids) - len(sequence.logprobs) :]

    def close(self, id: int) -> None:
        del self._sequences[id]

    def check_closed(self) -> None:
        """
        Raises:
            RuntimeError: while sequences are open.
        """
        if self._sequences:
            raise RuntimeError("new weights came while sequences are open; close them first.")


def check_context(request: Request, context_length: int | None) -> None:
    """
    Raises:
        ValueError: for a request without tokens, or with more than an engine takes.
    """
    if not request.token_ids:
        raise ValueError(f"request {request.id} has no tokens to continue; a prompt needs at least one.")
    if context_length is not None and len(request.token_ids) + request.max_new_tokens > context_length:
        raise ValueError(
            f"request {request.id} has {len(request.token_ids)} tokens and may write {request.max_new_tokens} more, "
            f"but the engine takes {context_length} in all; shorten the prompt, or raise vllm_max_model_length."
        )
