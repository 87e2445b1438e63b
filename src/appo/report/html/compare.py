"""Two runs, compared where they met the same data row: success of each, and the difference with its interval.

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
