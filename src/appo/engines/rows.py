"""The embedded engine's book-keeping: what each sequence has come to, and which row of the cache is whose.

Rows that run are kept together at the front, so that a forward reads few that do not. Left out on purpose: tensors
(`kv_cache.py`), and when anything happens (`transformers_engine.py`).
"""

from typing import Any

from appo.engines.base import Request, Turn
from appo.engines.kv_cache import SlotCache
from appo.engines.sampler import Uniforms
from appo.engines.stops import StopMatcher

RUNNING, WAITING, CLOSED = "running", "waiting", "closed"  # waiting: for a tool


class Row:
    """A sequence.

    Attributes:
        ids: All its tokens; the first `cached` of them are in the cache.
        slot: Its row of the cache; -1 for none.
        turn_start: Where its present turn begins.
        watched: Tokens that may end a turn; None for any.
        entered: The step at which it got its row or was resumed.
        held: Whether it waits for others to be read with.
    """

    __slots__ = (
        "alternatives", "budget", "cached", "context", "drawn", "entered", "held", "id", "ids", "logprobs", "matcher",
        "numbers", "slot", "state", "temperature", "top_alternatives", "top_count", "top_logprobs", "turn_start",
        "uniforms", "watched",
    )  # fmt: skip

    def __init__(self, request: Request, matcher: StopMatcher, watched: frozenset[int] | None) -> None:
        self.id, self.ids = request.id, list(request.token_ids)
        self.cached, self.slot, self.state, self.entered, self.held = 0, -1, RUNNING, 0, False
        self.context = tuple(self.ids[:-1])
        self.turn_start = len(self.ids) - request.turn_tokens
        self.logprobs: list[float] = []
        self.budget = request.max_new_tokens
        self.uniforms, self.drawn = Uniforms(request.seed), 0
        self.numbers: list[float] = []  # those drawn so far
        self.matcher, self.watched = matcher, watched
        self.top_alternatives = request.top_alternatives
        self.alternatives: list[tuple[int, float]] | None = None
        self.temperature, self.top_count = request.temperature, request.top_logprobs
        self.top_logprobs: list[list[tuple[int, float]]] = []

    @property
    def unread(self) -> int:
        """Known tokens that are not in the cache, without the last one, from which the next is sampled."""
        return len(self.ids) - 1 - self.cached

    def number(self) -> float:
        """The uniform number for the token that is to be sampled."""
        if self.drawn == len(self.numbers):
            self.numbers += self.uniforms.block()
        return self.numbers[self.drawn]

    def resume(self, token_ids: list[int], budget: int) -> None:
        """Begins another turn behind these tokens."""
        self.ids += token_ids
        self.budget, self.state, self.turn_start = budget, RUNNING, len(self.ids)

    def end_turn(self, reason: Any) -> Turn:
        """The turn that ended now."""
        written, logprobs = self.ids[len(self.ids) - len(self.logprobs) :], self.logprobs
        alternatives, self.alternatives = self.alternatives, None
        likeliest, self.top_logprobs = self.top_logprobs, []
        self.logprobs, self.state = [], WAITING
        return Turn(self.id, written, logprobs, reason, alternatives, likeliest if self.top_count else None)


class Slots:
    """Who has which row of the cache.

    Args:
        count: Rows that there may be.

    Attributes:
        running: Sequences that have a row and write.
        used: Rows of the cache up to the last that is used.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.running: dict[Row, None] = {}  # in the order of entering
        self._paused: dict[Row, None] = {}  # in the order of pausing
        self._at: list[Row | None] = []
        self._closed: list[int] = []  # rows of sequences that have ended
        self._known: dict[tuple[int, ...], Row] = {}  # contexts in the cache, also of ended sequences

    @property
    def used(self) -> int:
        return len(self._at)

    @property
    def free(self) -> int:
        """Rows that may be given away."""
        return self.count - len(self.running) - len(self._paused)

    def enter(self, row: Row, step: int) -> None:
        """Gives a row to a sequence that has none."""
        if self._closed:
            row.slot = self._closed.pop()
            self._forget(self._at[row.slot])
            self._at[row.slot] = row
        else:
            row.slot = len(self._at)
            self._at.append(row)
        self.run(row, step)

    def trim(self) -> None:
        """Forgets rows behind the last that is used by a sequence that is open."""
        while self._at and ((row := self._at[-1]) is None or row.state == CLOSED):
            self._forget(row)
            self._at.pop()
        self._closed = [slot for slot in self._closed if slot < len(self._at)]

    def run(self, row: Row, step: int) -> None:
        self._paused.pop(row, None)
        self.running[row] = None
        row.entered = step

    def pause(self, row: Row, step: int) -> None:
        del self.running[row]
        self._paused[row] = None
        row.entered = step

    def close(self, row: Row) -> None:
        """What it has read stays until its row is given away."""
        row.state = CLOSED
        if row.slot >= 0:
            self._paused.pop(row, None)
            self.running.pop(row, None)
            self._closed.append(row.slot)

    def give_up(self, wanted: int, step: int) -> None:
        """Takes rows from sequences that have been waiting for their tool since before this step, the longest first,
        until `wanted` are free."""
        for row in list(self._paused):
            if self.free >= wanted or row.entered > step:
                return
            del self._paused[row]
            self._closed.append(row.slot)
            self._forget(row)

    def _forget(self, row: Row | None) -> None:
        if row is None or row.slot < 0:
            return
        self._at[row.slot] = None
        row.slot, row.cached = -1, 0
        if self._known.get(row.context) is row:
            del self._known[row.context]

    def readers(self, reading: list[Row], new: list[Row]) -> tuple[list[Row], list[tuple[Row, Row]]]:
        """Who of `reading` reads for itself, and who of them and of `new` copies from whom: a context that is in the
        cache, or is read now, is not read again."""
        readers, copies = [], []
        for row in reading:
            whole = not row.cached and len(row.context) == len(row.ids) - 1
            if not whole:
                readers.append(row)
            elif row.context not in self._known:
                readers.append(row)
                self._known[row.context] = row
        mine = set(readers)
        for row in dict.fromkeys([*reading, *new]):
            if row not in mine and len(row.context) == len(row.ids) - 1 and row.context in self._known:
                copies.append((row, self._known[row.context]))
        for row, _ in copies:
            self._known[row.context] = row  # the latest one keeps it the longest
        return readers, copies

    def window(self, share: float, cache: SlotCache) -> list[Row | None]:
        """The rows up to the last that runs, moved together where fewer than `share` of them run."""
        count = len(self.running)
        last = max((row.slot for row in self.running), default=-1) + 1
        if count < share * last:
            self._move_together(count, cache)
            last = count
        return self._at[:last]

    def _move_together(self, count: int, cache: SlotCache) -> None:
        """Moves rows that run to the front, in exchange for those there that do not."""
        holes = [slot for slot in range(count) if (row := self._at[slot]) is None or row.state != RUNNING]
        behind = [row.slot for row in self.running if row.slot >= count]
        pairs = list(zip(holes, behind, strict=True))
        both = [self._at[slot] for pair in pairs for slot in pair]
        columns = max(row.cached for row in both if row is not None)
        if columns:
            cache.copy_rows([*holes, *behind], [*behind, *holes], columns)
        places = dict(pairs) | {other: hole for hole, other in pairs}
        for hole, other in pairs:
            self._at[hole], self._at[other] = self._at[other], self._at[hole]
        for slot in places:
            if (row := self._at[slot]) is not None:
                row.slot = slot
        self._closed = [places.get(slot, slot) for slot in self._closed]
