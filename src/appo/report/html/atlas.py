"""The decision atlas: where a run branched, and what came of it, pooled over all of its tasks.

A branch redraws a token of its parent and is written on to its own end: that its reward differs says that the token
mattered. Pooled by token, by place, by part, by entropy and by score, these are the paper's pilot figures; besides
them, entropy inside and outside of calls, and the words of high entropy against those of high score. Every figure has
its count and a 95 % interval by a bootstrap over tasks (`resample.py`).

Left out on purpose: credit (`credit.py`); evaluations, which have no branches.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from appo.report.html.clusters import Clusters
from appo.report.html.columns import ANSWER, CALLED, RESULT, THOUGHT, Part
from appo.report.html.resample import Resampled
from appo.report.html.summary import parent_rows

# Shapes: R rollouts of a part, P tokens of all of them, V picks (branches with a reward, as has their parent).

LEAST = 10  # picks of a token, and tokens of a word, below which a mean says nothing
TOKENS_SHOWN, WORDS_SHOWN = 60, 30
PLACES, BINS = 10, 8
PART_NAMES = {THOUGHT: "thought", CALLED: "call", ANSWER: "answer"}
EDGES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # of the histograms of entropy, in nats


@dataclass
class Picks:
    """Branches by what was redrawn; arrays (V,)."""

    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, **values: np.ndarray) -> None:
        for name, array in values.items():
            self.columns.setdefault(name, []).append(array)

    def all(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate(parts) for name, parts in self.columns.items()}


class Atlas:
    """Gathers picks and words of a run, part by part.

    Args:
        texts: The text of each token id; tokens of one text are one.
    """

    def __init__(self, texts: dict[int, str]) -> None:
        self._texts = texts
        self._picks = Picks()
        self._rows: dict[Any, int] = {}  # clusters: a data row, or a task where there is none
        self._words: dict[str, dict[int, np.ndarray]] = {}  # per token id: sum and count of entropies, and of scores
        self._entropy: dict[bool, Picks] = {True: Picks(), False: Picks()}
        self._clusters = Clusters()
        self._histogram = {True: np.zeros(len(EDGES)), False: np.zeros(len(EDGES))}

    def add(self, part: Part, parts_P: np.ndarray, numbers_R: np.ndarray) -> None:
        """A part of the training records.

        Args:
            part: Whole trees.
            parts_P: As `columns.parts_of` says.
            numbers_R: The numbers of its rollouts in the report; -1: not in it.
        """
        keys = zip(part.values("row"), part.values("task"), strict=True)
        cluster_R = np.array([self._rows.setdefault(row or (task,), len(self._rows)) for row, task in keys], int)
        self._add_picks(part, parts_P, cluster_R, numbers_R)
        for name, column in (("entropy", "entropies"), ("score", "score")):
            if column in part.tokens:
                self._add_words(name, part.ids_P, part.tokens[column])
        if "entropies" in part.tokens:
            self._add_entropies(part, parts_P, cluster_R)

    def _add_picks(self, part: Part, parts_P: np.ndarray, cluster_R: np.ndarray, numbers_R: np.ndarray) -> None:
        reward_R, position_R = part.numbers("reward"), part.numbers("branch_position", -1).astype(int)
        parent_R = parent_rows(part, part.numbers("parent", -1).astype(int))
        rows = np.flatnonzero((parent_R >= 0) & (position_R >= 0) & np.isfinite(reward_R))
        rows = rows[np.isfinite(reward_R[parent_R[rows]]) & (position_R[rows] < part.lengths_R[parent_R[rows]])]
        parents = parent_R[rows]
        places = part.starts_R[parents] + position_R[rows]
        nothing = np.full(len(part.ids_P), np.nan)
        self._clusters.add(part, rows, reward_R[rows] - reward_R[parents], numbers_R[rows])
        self._picks.add(
            cluster=cluster_R[rows],
            token=part.ids_P[places],
            place=position_R[rows] / np.maximum(part.lengths_R[parents] - 1, 1),
            part=parts_P[places],
            difference=reward_R[rows] - reward_R[parents],
            reward=reward_R[rows],
            entropy=part.tokens.get("entropies", nothing)[places].astype(float),
            score=part.numbers("branch_score")[rows],
            rollout=numbers_R[rows],
        )

    def _add_words(self, name: str, ids_P: np.ndarray, values_P: np.ndarray) -> None:
        known = np.isfinite(values_P)
        ids, place = np.unique(ids_P[known], return_inverse=True)  # any int32: too many for a table
        sums, counts = np.bincount(place, values_P[known], len(ids)), np.bincount(place, minlength=len(ids))
        words = self._words.setdefault(name, {})
        for token, added in zip(ids.tolist(), np.stack([sums, counts], axis=1), strict=True):
            words[token] = words[token] + added if token in words else added

    def _add_entropies(self, part: Part, parts_P: np.ndarray, cluster_R: np.ndarray) -> None:
        values = part.tokens["entropies"]
        cluster_P = cluster_R[part.rows_P]
        known = np.isfinite(values) & (parts_P != RESULT)
        for inside in (True, False):
            chosen = known & ((parts_P == CALLED) == inside)
            clusters, place = np.unique(cluster_P[chosen], return_inverse=True)
            sums = np.bincount(place, values[chosen], len(clusters)) if clusters.size else np.zeros(0)
            counts = np.bincount(place, minlength=len(clusters)) if clusters.size else np.zeros(0)
            self._entropy[inside].add(cluster=clusters, sum=sums, count=counts)
            bins = np.searchsorted(EDGES, values[chosen], side="right") - 1
            self._histogram[inside] += np.bincount(np.maximum(bins, 0), minlength=len(EDGES))

    # ---- the outcome ----

    def summary(self) -> dict[str, Any] | None:
        """The atlas as JSON; None where a run has neither branches nor entropies."""
        picks = self._picks.all() if self._picks.columns else {}
        count = len(picks.get("cluster", ()))
        words = {name: self._top_words(name) for name in self._words}
        if not count and not words:
            return None
        return {
            "picks": count,
            "level": 0.95,
            "resampled_over": "tasks",
            **(self._of_picks(picks) if count else {}),
            "entropy_inside": self._inside(),
            "words": words,
            "clusters": self._clusters.summary(),
        }

    def _of_picks(self, picks: dict[str, np.ndarray]) -> dict[str, Any]:
        everything = np.zeros(len(picks["cluster"]), int)
        texts = [self._text(token) for token in picks["token"].tolist()]
        names, by_text = np.unique(np.array(texts, dtype=object), return_inverse=True)
        parts = [part for part in PART_NAMES if (picks["part"] == part).any()]
        by_part = np.array([parts.index(part) if part in parts else -1 for part in picks["part"].tolist()])
        places = np.minimum((picks["place"] * PLACES).astype(int), PLACES - 1)
        overall = _outcomes(picks, everything, 1)[0]
        tokens = [
            {"token": int(picks["token"][by_text == c][0]), "text": str(names[c]), **row}
            for c, row in enumerate(_outcomes(picks, _frequent(by_text), len(names)))
            if row["n"]
        ]
        return {
            "changed": {"share": overall["changed"], **overall},
            "by_token": sorted(tokens, key=lambda row: (-row["n"], row["text"]))[:TOKENS_SHOWN],
            "by_place": [{"bin": c, **row} for c, row in enumerate(_outcomes(picks, places, PLACES))],
            "by_part": [
                {"part": PART_NAMES[part], **row}
                for part, row in zip(parts, _outcomes(picks, by_part, len(parts)), strict=True)
            ],
            "by_entropy": _by_value(picks, "entropy"),
            "by_score": _by_value(picks, "score"),
        }

    def _inside(self) -> dict[str, Any] | None:
        found: dict[str, Any] = {}
        for inside, name in ((True, "inside_calls"), (False, "outside")):
            columns = self._entropy[inside].all() if self._entropy[inside].columns else {}
            if not len(columns.get("cluster", ())):
                continue
            sums, counts = columns["sum"], columns["count"]
            total = Resampled(columns["cluster"], np.zeros(len(sums), int), 1)
            mean, low, high = total.ratios(sums, counts)
            histogram = self._histogram[inside]
            found[name] = {
                "mean": mean, "low": low, "high": high, "n": int(counts.sum()), "tasks": int(total.tasks[0]),
                "edges": list(EDGES), "shares": (histogram / histogram.sum()).round(6).tolist(),
            }  # fmt: skip
        return found or None

    def _top_words(self, name: str) -> list[dict[str, Any]]:
        totals: dict[str, list[float]] = {}
        for token, (added, count) in sorted(self._words[name].items()):
            total = totals.setdefault(self._text(token), [0.0, 0.0])
            total[0] += float(added)
            total[1] += float(count)
        rows: list[dict[str, Any]] = [
            {"text": t, "n": int(n), "mean": s / n} for t, (s, n) in totals.items() if n >= LEAST
        ]
        rows.sort(key=_by_mean)
        return rows[:WORDS_SHOWN]

    def _text(self, token: int) -> str:
        return self._texts.get(token) or f"token {token}"


def _by_mean(row: dict[str, Any]) -> tuple[float, str]:
    return -row["mean"], row["text"]


def _frequent(categories: np.ndarray) -> np.ndarray:
    """Categories with too few members become none."""
    counts = np.bincount(categories)
    return np.where(counts[categories] >= LEAST, categories, -1)


def _outcomes(picks: dict[str, np.ndarray], categories: np.ndarray, count: int) -> list[dict[str, Any]]:
    """What branches of each category did, against their parents."""
    difference = picks["difference"]
    over = Resampled(picks["cluster"], categories, count)
    changed = over.means(difference != 0, share=True)
    mean = over.means(difference)
    reward = over.means(picks["reward"])
    better, worse = over.means(difference > 0, share=True), over.means(difference < 0, share=True)
    return [
        {
            "n": int(over.n[c]), "tasks": int(over.tasks[c]),
            "changed": _number(changed[0][c]), "low": _number(changed[1][c]), "high": _number(changed[2][c]),
            "better": _number(better[0][c]), "better_low": _number(better[1][c]), "better_high": _number(better[2][c]),
            "worse": _number(worse[0][c]), "worse_low": _number(worse[1][c]), "worse_high": _number(worse[2][c]),
            "mean_difference": _number(mean[0][c]), "mean_low": _number(mean[1][c]), "mean_high": _number(mean[2][c]),
            "reward": _number(reward[0][c]), "reward_low": _number(reward[1][c]), "reward_high": _number(reward[2][c]),
        }
        for c in range(count)
    ]  # fmt: skip


def _by_value(picks: dict[str, np.ndarray], name: str) -> list[dict[str, Any]]:
    """Outcomes by bins that hold about as many picks each; picks without the value are left out."""
    values = picks[name]
    known = np.isfinite(values)
    if not known.any():
        return []
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, BINS + 1)))
    bins = np.full(len(values), -1)
    bins[known] = np.clip(np.searchsorted(edges, values[known], side="right") - 1, 0, max(len(edges) - 2, 0))
    count = max(len(edges) - 1, 1)
    return [
        {"low_edge": float(edges[c]), "high_edge": float(edges[min(c + 1, len(edges) - 1)]), **row}
        for c, row in enumerate(_outcomes(picks, bins, count))
    ]


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
