"""Branches as points of a plane, near each other where they are written in the same tokens (the paper's figure).

UMAP of the token counts of what each branch wrote itself, then DBSCAN. Both come with `pip install umap-learn`, which
nothing else here needs, so that it is no dependency: where it is missing, so is the figure. Of more than `MOST`
branches a random sample is drawn, the same one every time.

Left out on purpose: embeddings by a model, which a report does not load.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from appo.report.html.columns import Part

# Shapes: R rollouts of a part, V branches.

LEAST, MOST = 30, 2000
WIDTH = 512  # token ids share so many columns
NEIGHBOURS = 15


class Clusters:
    """Gathers branches, if there is a UMAP to lay them out."""

    def __init__(self) -> None:
        self.there = all(find_spec(name) for name in ("umap", "sklearn"))
        self._random = np.random.default_rng(0)
        self._keys = np.zeros(0)
        self._rows = np.zeros((0, 2))  # outcome against the parent, and the rollout's number in the report
        self._counts = np.zeros((0, WIDTH), np.float32)

    def add(self, part: Part, rows: np.ndarray, difference: np.ndarray, numbers: np.ndarray) -> None:
        """Some branches of a part: their rows in it, rewards minus their parents', and numbers in the report; (V,)."""
        if not self.there or not len(rows):
            return
        counts = np.zeros((len(rows), WIDTH), np.float32)
        starts, positions = part.starts_R, part.numbers("branch_position", 0).astype(int)
        for place, row in enumerate(rows.tolist()):
            own = slice(starts[row] + positions[row], starts[row] + part.lengths_R[row])
            ids = part.ids_P[own][part.policy_P[own]]
            counts[place] = np.bincount(ids % WIDTH, minlength=WIDTH)
        keys = np.concatenate([self._keys, self._random.random(len(rows))])
        kept = np.sort(np.argsort(keys)[:MOST])
        self._keys = keys[kept]
        self._rows = np.concatenate([self._rows, np.stack([difference, numbers], axis=1)])[kept]
        self._counts = np.concatenate([self._counts, counts])[kept]

    def summary(self) -> dict[str, Any] | None:
        """`points`, each `[x, y, outcome, rollout, cluster]` (cluster -1: none), and how many clusters there are."""
        if len(self._rows) < LEAST:
            return None
        shares = np.sqrt(self._counts / np.maximum(self._counts.sum(1, keepdims=True), 1))
        layout = import_module("umap").UMAP(n_neighbors=NEIGHBOURS, random_state=0, n_jobs=1).fit_transform(shares)
        spread = float(layout.std())
        labels = import_module("sklearn.cluster").DBSCAN(eps=spread / 8, min_samples=5).fit_predict(layout)
        rows = zip(layout.tolist(), self._rows.tolist(), labels.tolist(), strict=True)
        points = [[round(x, 3), round(y, 3), outcome, int(number), label] for (x, y), (outcome, number), label in rows]
        return {"points": points, "clusters": int(labels.max()) + 1}
