"""The numbers behind a rollout's tokens: entropy, Omega, the score that chose branch points, and the advantage with
its factors.

Left out on purpose: what an equation makes of rewards (docs/algorithm.md).
"""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from appo.report.text.plain_text import number, quoted
from appo.report.text.recorded_tasks import Record, RecordedTask
from appo.report.text.segments import token_parts
from appo.report.text.transcript import Transcript
from appo.rollout.record_columns import FACTORS, FIXED

Values = Sequence[float | None]

TOP = 8  # tokens that are shown where not all are asked for
FIRST, LAST = ("entropies", "omega", "score"), "advantages"  # of the columns; factors stand before the last
LABELS = {
    "entropies": "entropy",
    "advantages": "advantage",
    "logprobs": "log p",
    "behaviour_logprobs": "log p then",  # under the policy that wrote the token
}
LOGPROBS = ("behaviour_logprobs", "logprobs")
PLACE, TOKEN, NUMBER = 6, 16, 11  # characters


class TokenTable:
    """
    Args:
        task, record: The rollout.
        texts: Of each token.
        parts: Of each token, as `token_parts` gives them.
        console: Where to.
        left_out: Columns that are not shown.
    """

    def __init__(
        self,
        task: RecordedTask,
        record: Record,
        texts: Sequence[str],
        parts: Sequence[str],
        console: Console,
        left_out: Sequence[str] = (),
    ) -> None:
        self._record, self._texts, self._parts, self._console = record, texts, parts, console
        self._written = [place for place, one in enumerate(record["policy_mask"]) if one]
        self._branches: dict[int, list[str]] = {}
        for branch in task.branches_of(record.get("rollout", 0)):
            outcome = f"{branch['rollout']}: {number(branch.get('reward'))}"
            self._branches.setdefault(branch["branch_position"], []).append(outcome)
        columns = [(LABELS.get(name, name), values) for name, values in _columns(record) if name not in left_out]
        # What is one number throughout, as the base mostly is, is told once.
        self._fixed = [(label, values) for label, values in columns if self._is_one(values)]
        self._shown = [(label, values) for label, values in columns if not self._is_one(values)]

    @property
    def is_empty(self) -> bool:
        """Whether no number was written down, or no token written."""
        return not self._written or not (self._fixed or self._shown)

    def largest(self, name: str, *, absolute: bool = False) -> list[int]:
        """Positions of the tokens with the largest values, in descending order; none where they are all the same."""
        values = self._record.get(name)
        if values is None or self._is_one(values):
            return []
        known = [(value, place) for place, value in enumerate(values) if value is not None and not math.isnan(value)]
        order = sorted(known, key=lambda one: (-(abs(one[0]) if absolute else one[0]), one[1]))
        return [place for _, place in order[:TOP]]

    def show(self, positions: Sequence[int], title: str) -> None:
        """Prints the rows of some tokens, and below them what is the same at all."""
        head = f"{'at':>{PLACE}}  {'token':{TOKEN}} {'part':8}"
        self._console.print(Text(title, style="bold"))
        self._console.print(Text(f"{head}{''.join(_cell(label) for label, _ in self._shown)}  branches", style="bold"))
        for place in positions:
            cells = "".join(_cell(number(values[place]), label) for label, values in self._shown)
            token = f"{place:>{PLACE}}  {quoted(self._texts[place], TOKEN - 2):{TOKEN}} {self._parts[place]:8}"
            self._console.print(Text(f"{token}{cells}  {', '.join(self._branches.get(place, []))}".rstrip()))
        if self._fixed:
            told = ", ".join(f"{label} {number(values[self._written[0]])}" for label, values in self._fixed)
            self._console.print(Text(f"{'':{PLACE}}  at every token: {told}"))
        self._console.print()

    def _is_one(self, values: Values) -> bool:
        return len({values[place] for place in self._written}) == 1


def _columns(record: Record) -> list[tuple[str, Values]]:
    """What is per token, by name, in the order of the table."""
    measured = {name: v for name, v in record.items() if name not in FIXED and isinstance(v, list)}
    first = {name: measured.pop(name) for name in FIRST if name in measured}
    last = {LAST: measured.pop(LAST)} if LAST in measured else {}
    factors = [(name, values) for name, values in (record.get(FACTORS) or {}).items() if values is not None]
    return [*first.items(), *measured.items(), *factors, *last.items()]


def _cell(text: str, label: str | None = None) -> str:
    return f"{text:>{max(NUMBER, len(label or text) + 1)}}"


def show_tokens(task: RecordedTask, record: Record, transcript: Transcript, *, every: bool) -> None:
    """Prints the numbers of every token, or of those with the largest advantages and of the highest scores.

    Where all advantages are equal and there are no scores, those of the highest entropy are shown.
    """
    texts = transcript.texts(record)
    parts = token_parts(record, texts, tags=transcript.tags)
    table = TokenTable(task, record, texts, parts, transcript.console, () if every else LOGPROBS)
    if table.is_empty:
        transcript.console.print("no advantages were written down for this rollout's tokens")
    elif every:
        table.show(range(len(texts)), "every token")
    else:
        weighty, scored = table.largest("advantages", absolute=True), table.largest("score")
        if weighty:
            table.show(weighty, "the largest advantages, of either sign")
        if scored:
            table.show(scored, "the highest scores, where branches are drawn")
        if not weighty and not scored:
            table.show(table.largest("entropies"), "the highest entropies")
        transcript.console.print("--tokens shows every token, with its log-probabilities")
