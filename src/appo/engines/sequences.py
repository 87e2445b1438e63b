"""What an engine with a cache of its own keeps of a sequence: its tokens, and the turn that is being written.

Such an engine (vLLM, in process or as a server) is asked anew for each turn, with all tokens so far, and finds what it
has in its cache by itself. Its own stops are not enough: they are blind to a string that began in the context, so that
a branch within a closing tag would never stop. `Sequence.take` looks at each token that comes back and says where the
turn ends.

Left out on purpose: how tokens come (`vllm.py`, `remote.py`).
"""

from typing import Any

import numpy as np

from appo.engines.base import Request, Turn
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

    def take(self, token: int, logprob: float) -> Any:
        """Adds a token; the reason why the turn ends with it, or None."""
        self.ids.append(token)
        self.logprobs.append(logprob)
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
        self.logprobs = []
        return Turn(self.id, written, logprobs, reason, alternatives)
