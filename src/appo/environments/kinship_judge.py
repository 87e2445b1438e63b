"""What each decision of a kinship rollout was worth: the chance of success after it minus that before it.

A decision is the third word of `plan <last> <next>`. A wrong one is final (nothing that follows brings the right
entity back), but for a needless `retry`, which gives the same entity again and costs nothing. So with `r` relations to
go a policy that decides rightly with chance `skill` succeeds with V(r), which a line of recursion gives.

Left out on purpose: other words that may go wrong. Where a search does not ask what was planned about the entity that
was found, the rollout is off its way from there on, and nothing that it decides then is worth anything.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from appo.rollout.decisions import Decision


def judge(row: dict[str, Any], words: Sequence[str], skill: float, *, weak_share: float) -> list[Decision]:
    """`Task.judge` of all styles of the testbed.

    Args:
        row: The question; its `prompt` is read.
        words: The completion's tokens.
        skill: Chance of a right decision, in (0, 1].
        weak_share: Share of the searches whose first result is a weak one.
    """
    _, *relations, entity = row["prompt"].split()
    found, left, weak, on_way = entity, len(relations), False, True
    judged = []
    for position, decision, query, result in _turns(words):
        onward = relations[-left] if left else "done"
        right = "retry" if weak else onward
        before = chance(left, weak, skill, weak_share)
        harmless = decision == "retry" and not weak and left < len(relations)
        if not on_way:
            judged.append(Decision(position, 0.0, True))
        elif decision == right:
            judged.append(Decision(position, before / skill - before, True))
        else:
            judged.append(Decision(position, 0.0 if harmless else -before, harmless))
        on_way &= harmless or decision == right
        if decision == "retry" and left < len(relations):
            asked = (relations[-left - 1], entity)
        else:
            asked, entity, left = (decision, found), found, max(0, left - 1)
        # What it asked is what it had planned, about what it had found.
        on_way &= decision == "done" or tuple(query) == asked
        found, weak = (result or [""])[-1], result[-2:-1] == ["weak"]
    return judged


def chance(left: int, weak: bool, skill: float, weak_share: float) -> float:
    """V: the chance of success before a decision, with `left` relations to go, after a weak result or not."""
    if weak:
        return skill * chance(left, False, skill, weak_share)
    if not left:
        return skill
    certain, doubtful = (chance(left - 1, weak, skill, weak_share) for weak in (False, True))
    return skill * ((1 - weak_share) * certain + weak_share * doubtful)


def _turns(words: Sequence[str]) -> Iterator[tuple[int, str, list[str], list[str]]]:
    """Position and word of each decision, the words of the search that follows, and those of its result."""
    places = [i + 2 for i, word in enumerate(words[:-2]) if word == "plan"]
    for place, end in pairwise([*places, len(words)]):
        turn = list(words[place:end])
        yield place, words[place], _between(turn, "search"), _between(turn, "result")


def _between(words: list[str], tag: str) -> list[str]:
    if f"<{tag}>" not in words:
        return []
    inner = words[words.index(f"<{tag}>") + 1 :]
    return inner[: inner.index(f"</{tag}>")] if f"</{tag}>" in inner else inner
