"""`Book`: what one key wrote, turn by turn, in the token ids that were sampled.

A turn continues an earlier one where its prompt begins with all of that one's tokens; a chain of such turns is a
segment, which is what is trained on. How each turn came about is counted:

    opened      a conversation begins
    continued   the prompt holds an earlier turn, as it was sampled, and what was added to it
    repeated    the same prompt once more, as after a client's time-out
    rewritten   the agent sends back another history than was sampled: a new segment begins
    retold      the same history, which the chat template writes otherwise than it was sampled (old thoughts left out)

Left out on purpose: HTTP, text, and what a reward is.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["opened", "continued", "repeated", "rewritten", "retold"]
KINDS: tuple[Kind, ...] = ("opened", "continued", "repeated", "rewritten", "retold")


@dataclass
class WrittenTurn:
    """A request and what was sampled for it.

    Args:
        prompt_ids: All that stood before the turn.
        token_ids: Sampled tokens, the one that ended the turn included.
        logprobs: Per token, log-probability in nats at the sampling temperature.
        reason: "eos", "stop" or "length".
        settings: What was asked for besides the prompt.
        message: What the client was told; None where it asked with token ids.
        messages: What the client sent, where that is kept (`Bounds.forgets`).
        said: Names the conversation up to and with this turn (`chat.py`); None where there are no messages.
        told: Names the message alone.
        also: Further such names, with a stop text that was cut off and that the client may put back.
        unknown_answer: Whether the last message of the assistant in the request is none that was written for this key.
        retold: Whether the template writes what was sampled otherwise.
        likeliest: Per token, the likeliest ones in its place as (id, log-probability), where they were asked for.
        forced: How many of the first tokens were not sampled here but taken over from the turn that is branched.
        kind: See above; set by the book.
        previous: Number of the turn that it continues, or None; set by the book.
    """

    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    reason: Literal["eos", "stop", "length"]
    settings: dict[str, Any] = field(default_factory=dict)
    message: dict[str, Any] | None = None
    messages: list[dict[str, Any]] | None = None
    said: str | None = None
    told: str | None = None
    also: tuple[str, ...] = ()
    unknown_answer: bool = False
    retold: bool = False
    likeliest: list[list[tuple[int, float]]] | None = None
    forced: int = 0
    kind: Kind = "opened"
    previous: int | None = None

    @property
    def finish_reason(self) -> str:
        """As the API names it."""
        if self.reason == "length":
            return "length"
        return "tool_calls" if (self.message or {}).get("tool_calls") else "stop"

    @property
    def names(self) -> list[str]:
        """All that name it."""
        return [name for name in (self.said, self.told, *self.also) if name is not None]

    @property
    def ids(self) -> list[int]:
        """The prompt and what was written."""
        return self.prompt_ids + self.token_ids


class Book:
    """
    Args:
        room: Turns that are kept: the oldest is forgotten for a further one. None for all.

    Attributes:
        turns: By number, in the order in which they ended.
        counts: Turns by kind, forgotten ones too.
        next_number: Of the turn that ends next.
    """

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.turns: dict[int, WrittenTurn] = {}
        self.counts: Counter[Kind] = Counter()
        self.next_number = 0
        self._named: dict[str, int] = {}

    def add(self, turn: WrittenTurn) -> int:
        """Writes a turn down, says what kind it is, and returns its number."""
        turn.previous = self.continued_by(turn.prompt_ids)
        turn.kind = self._kind(turn)
        self._share_messages(turn)
        number, self.next_number = self.next_number, self.next_number + 1
        self.turns[number] = turn
        self.counts[turn.kind] += 1
        for name in turn.names:
            self._named[name] = number
        if self.room is not None and len(self.turns) > self.room:
            self._forget(next(iter(self.turns)))
        return number

    def _share_messages(self, turn: WrittenTurn) -> None:
        """Keeps messages that the turn before has as well only once: each request sends the whole conversation."""
        before = None if turn.previous is None else self.turns[turn.previous].messages
        for place, (own, known) in enumerate(zip(turn.messages or (), before or (), strict=False)):
            if turn.messages is not None and own == known:
                turn.messages[place] = known

    def copy(self) -> "Book":
        """The same turns, in a book that nobody else writes in."""
        other = Book(self.room)
        other.turns, other.counts, other.next_number = dict(self.turns), Counter(self.counts), self.next_number
        other._named = dict(self._named)
        return other

    def _forget(self, number: int) -> None:
        turn = self.turns.pop(number)
        for name in turn.names:
            if self._named.get(name) == number:
                del self._named[name]

    def _kind(self, turn: WrittenTurn) -> Kind:
        prompt = turn.prompt_ids
        if any(earlier.prompt_ids == prompt for earlier in self.turns.values()):
            return "repeated"
        if turn.unknown_answer and self.turns:
            return "rewritten"
        if turn.retold:
            return "retold"
        if turn.previous is not None:
            return "continued"
        same_opening = any(_begins(prompt, earlier.prompt_ids) for earlier in self.turns.values())
        return "rewritten" if same_opening else "opened"

    def continued_by(self, prompt_ids: list[int]) -> int | None:
        """The number of the longest turn that a prompt holds whole, the latest of those; or None."""
        found = [(len(turn.ids), number) for number, turn in self.turns.items() if _holds(prompt_ids, turn)]
        return max(found)[1] if found else None

    def start_of(self, prompt_ids: list[int]) -> int:
        """Tokens of the prompt that opened the conversation which a prompt continues; its own where it opens one."""
        number, length = self.continued_by(prompt_ids), len(prompt_ids)
        while number is not None:
            turn = self.turns[number]
            number, length = turn.previous, len(turn.prompt_ids)
        return length

    def find(self, name: str) -> WrittenTurn | None:
        """The latest turn whose conversation, or whose message, has this name."""
        number = self._named.get(name)
        return None if number is None else self.turns[number]

    def segments(self) -> list[list[int]]:
        """Numbers of turns in chains: each continues the one before it; every turn that is kept is in one chain.

        Where two turns continue the same one, the later begins a chain whose prompt holds that turn.
        """
        chains: list[list[int]] = []
        ends: dict[int, list[int]] = {}
        for number, turn in self.turns.items():
            chain = ends.pop(turn.previous, None) if turn.previous is not None else None
            if chain is None:
                chains.append(chain := [])
            chain.append(number)
            ends[number] = chain
        return chains


def _begins(prompt_ids: list[int], start: list[int]) -> bool:
    return len(prompt_ids) >= len(start) and prompt_ids[: len(start)] == start


def _holds(prompt_ids: list[int], turn: WrittenTurn) -> bool:
    """Whether a prompt begins with all tokens of a turn; compared from behind, where turns of one chain differ."""
    start, end = len(turn.prompt_ids), len(turn.prompt_ids) + len(turn.token_ids)
    return end <= len(prompt_ids) and prompt_ids[start:end] == turn.token_ids and prompt_ids[:start] == turn.prompt_ids
