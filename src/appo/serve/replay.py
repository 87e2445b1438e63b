"""`Branch`: replay branching, which branches an agent that is a program of its own, at any token that was sampled.

The agent's task is run again under a new key. Its requests are answered from the record of the finished rollout while
the tokens of their prompts are identical; at the chosen turn the first tokens of the record are forced, and the policy
samples on from there. The agent need not know, nor be copied; it has to do the same again where it reads the same. One
that does not (it asks the clock, or a tool gives another answer) sends other tokens: that is noticed at once, the
branch ends in an error that clients do not try again, and its cause is counted.

    opening     the first prompt is another one
    results     what came back from tools or the user is
    history     what the agent tells of earlier turns is
    settings    the prompt is the same, and another temperature, bound or stop was asked for
    unreached   the agent ended before it came to the chosen turn

    keys.open("rollout-7-branch-2", Branch(book, turn=3, position=17))

Left out on purpose: where to branch, which is a method's to choose, and running the agent again, which is a trainer's.
"""

from dataclasses import dataclass
from typing import Any, Literal

from appo.serve.book import Book, WrittenTurn

Cause = Literal["opening", "results", "history", "settings", "unreached"]
ALTERNATIVES = 5  # tokens that are told of a branch's place
CAUSES: tuple[Cause, ...] = ("opening", "results", "history", "settings", "unreached")


class Diverged(Exception):
    """The agent did not do the same again; `cause` says how."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(f"this branch is over: the agent's request is not the one of its record ({cause}).")
        self.cause = cause


@dataclass(frozen=True)
class Step:
    """How a request of a branch is answered.

    Args:
        number: The turn of the record that the request is the same as.
        turn: That turn.
        forced: How many of its tokens are forced before the policy writes on; None for the whole turn as it was.
    """

    number: int
    turn: WrittenTurn
    forced: int | None


class Branch:
    """A branch of a rollout.

    Args:
        record: What the rollout wrote, all of it.
        turn: Number of the turn that is branched.
        position: How many of its sampled tokens are kept; the next one is written anew.
        seed: Makes its random numbers others than the record's, where the agent asks for a seed.

    Attributes:
        reached: Whether the chosen turn has been written on.
        written: The number of that turn in the branch's own book, once it is there.
        alternatives: The likeliest tokens in the place of the one that was written anew, as `Turn.alternatives`.
        diverged: Why the branch is to be left out, or None.

    Raises:
        ValueError: for a turn or a token that the record has not.
    """

    def __init__(self, record: Book, turn: int, position: int, seed: int = 0) -> None:
        if turn not in record.turns:
            raise ValueError(f"turn must be one of the record's {len(record.turns)}, got {turn}.")
        if not 0 <= position < len(record.turns[turn].token_ids):
            raise ValueError(
                f"position must lie in [0, {len(record.turns[turn].token_ids)}), as turn {turn} has that many tokens, "
                f"got {position}."
            )
        self.turn, self.position, self.seed = turn, position, seed
        self.reached = False
        self.written: int | None = None
        self.alternatives: list[tuple[int, float]] | None = None
        self.diverged: Cause | None = None
        self._record = {number: one for number, one in record.turns.items() if number <= turn}
        self._continued = {one.previous for one in record.turns.values()}
        self._left = list(self._record)

    def meet(self, prompt_ids: list[int], settings: dict[str, Any]) -> Step | None:
        """How a request is answered; None where the policy is free. What fails afterwards has to be given `back`.

        Raises:
            Diverged: where the record knows of no such request.
        """
        if self.diverged is not None:
            raise Diverged(self.diverged)
        asked = [number for number in self._left if self._record[number].prompt_ids == prompt_ids]
        alike = [number for number in asked if self._record[number].settings == settings]
        if not alike:
            if self.reached and not asked:
                return None
            raise self._diverge("settings" if asked else self._cause(prompt_ids))
        # Asked twice, as an answer was lost: the agent went on from the one that it got.
        number = min(alike, key=lambda one: (one not in self._continued, one))
        self._left.remove(number)
        self.reached |= number == self.turn
        return Step(number, self._record[number], self.position if number == self.turn else None)

    def back(self, step: Step) -> None:
        """A request that was not answered after all, as its client went away: it may come again."""
        self._left = sorted([*self._left, step.number])
        if step.number == self.turn:
            self.reached = False

    @property
    def outcome(self) -> Cause | None:
        """Why a branch whose agent has ended is to be left out; None for a good one."""
        return self.diverged if self.diverged or self.reached else "unreached"

    def _diverge(self, cause: Cause) -> Diverged:
        self.diverged = cause
        return Diverged(cause)

    def _cause(self, prompt_ids: list[int]) -> Cause:
        if len(self._left) == len(self._record):
            return "opening"
        answered = [turn.prompt_ids for number, turn in self._record.items() if number not in self._left]
        left = [self._record[number] for number in self._left]
        before = next((turn for turn in left if turn.prompt_ids not in answered), left[0]).previous
        known = self._record[before].ids if before is not None else None
        return "results" if known is not None and prompt_ids[: len(known)] == known else "history"
