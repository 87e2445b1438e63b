"""Two runs, or two evaluations of one, compared where they met the same data row: the difference and its interval.

A row is the same where its content is (`row_key`), whatever its place in the data. Its rollouts are averaged first, so
that a row counts once, however often it came. Left out on purpose: several seeds of a method, without which no method
is better than another (`appo study`).
"""

import json
from collections import defaultdict
from typing import Any

import numpy as np

from appo.files import fingerprint
from appo.report.html.columns import Part
from appo.report.html.resample import Resampled
from appo.report.html.run import evaluation_order

MOSTLY = 0.9  # of what both evaluations were asked; below, their rows are no sample of them
TRAINING = None  # the group of the training's rollouts; others are named as their evaluation


class RowSuccess:
    """Mean success of a run on each data row, in training and in each evaluation; branches are left out.

    Args:
        success_reward: Least reward that counts as success.
    """

    def __init__(self, success_reward: float) -> None:
        self._success_reward = success_reward
        self._keys: dict[tuple[str | None, str | None], str | None] = {}
        self.sums: dict[str | None, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))

    def add(self, part: Part, group: str | None = TRAINING) -> None:
        rows = zip(
            part.values("row"), part.values("prompt"), part.values("parent"), part.values("reward"), strict=True
        )
        for row, prompt, parent, reward in rows:
            key = self.key(row, prompt)
            if key is not None and parent is None and reward is not None:
                total = self.sums[group][key]
                total[0] += reward >= self._success_reward
                total[1] += 1

    def key(self, row: str | None, prompt: str | None) -> str | None:
        """What a data row is told by: 16 digits of its content, or its prompt's; None where there is neither."""
        if (row, prompt) not in self._keys:
            text = row if row is not None else prompt
            self._keys[row, prompt] = None if text is None else fingerprint(json.loads(text))
        return self._keys[row, prompt]


def compare(a: RowSuccess, b: RowSuccess) -> dict[str, Any]:
    """Both runs on the rows that both have, in training and in the evaluations of one name."""
    names = [name for name in a.sums if name is not TRAINING and name in b.sums]
    names.sort(key=evaluation_order)
    return {
        "train": _paired(a.sums.get(TRAINING, {}), b.sums.get(TRAINING, {})),
        "evaluations": [{"key": name, **_paired(a.sums[name], b.sums[name])} for name in names],
    }


def gain(rows: RowSuccess, evaluations: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What a run has gained from its first evaluation to its last one; None where there is only one.

    Args:
        rows: Of the run.
        evaluations: As `Evaluations.summary` has them.

    Returns:
        `first` and `last`, their keys; `difference`, `low`, `high` and `n` rows, paired by data row, every question
        counted; all None where the records do not hold `MOSTLY` the same questions of both. The interval is a
        bootstrap over rows, None where all rows agree, as no draw differs then.
    """
    done = sorted((e for e in evaluations if e.get("success") is not None), key=lambda e: evaluation_order(e["key"]))
    if len(done) < 2:
        return None
    found: dict[str, Any] = {"first": done[0]["key"], "last": done[-1]["key"]}
    found |= dict.fromkeys(("difference", "low", "high", "n"))
    a, b = (rows.sums.get(e["key"], {}) for e in (done[0], done[-1]))
    both = [key for key in a if key in b]
    counted = [sum(of[key][1] for key in both) for of in (a, b)]
    asked = [max(e.get("questions") or 0, sum(n for _, n in of.values())) for e, of in ((done[0], a), (done[-1], b))]
    if not both or any(n < MOSTLY * all_of for n, all_of in zip(counted, asked, strict=True)):
        return found
    difference_R = np.array([b[key][0] / b[key][1] - a[key][0] / a[key][1] for key in both])
    count_R = np.array([(a[key][1] + b[key][1]) / 2 for key in both])
    over = Resampled(np.arange(len(both)), np.zeros(len(both), int), 1)
    found["difference"], found["low"], found["high"] = over.ratios(count_R * difference_R, count_R)
    found["n"] = len(both)
    if np.ptp(difference_R) == 0:
        found["low"] = found["high"] = None
    return found


def _paired(a: dict[str, list[float]], b: dict[str, list[float]]) -> dict[str, Any]:
    both = [key for key in a if key in b]
    found: dict[str, Any] = {
        "rows": len(both), "only_a": len(a) - len(both), "only_b": len(b) - len(both),
        "a": None, "b": None, "difference": None, "low": None, "high": None,
    }  # fmt: skip
    if both:
        mean_a, mean_b = (np.array([of[key][0] / of[key][1] for key in both]) for of in (a, b))
        over = Resampled(np.arange(len(both)), np.zeros(len(both), int), 1)
        difference, low, high = (float(values[0]) for values in over.means(mean_b - mean_a))
        found.update(a=float(mean_a.mean()), b=float(mean_b.mean()), difference=difference, low=low, high=high)
    return found
