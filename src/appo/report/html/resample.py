"""Intervals of many shares and means at once, by one bootstrap over tasks.

What happens in one task hangs together, so tasks are drawn with replacement, not tokens or branches. Every category is
judged by the same draws. Left out on purpose: comparisons of runs (`appo.research.statistics`).
"""

import numpy as np

from appo.report.intervals import wilson_interval

# Shapes: V values, K clusters (tasks), C categories, D draws.

DRAWS = 1000
FEWER_DRAWS = 200  # with more than MANY clusters, whose intervals are narrow anyhow
MANY = 5000
WEIGHTS_AT_ONCE = 2_000_000


class Resampled:
    """Means of values by category, with 95 % intervals.

    Args:
        clusters: (V,) the cluster of each value, int from 0.
        categories: (V,) its category, int from 0; -1: none.
        count: C.
        seed: Of the draws.
    """

    def __init__(self, clusters: np.ndarray, categories: np.ndarray, count: int, seed: int = 0) -> None:
        known = categories >= 0
        self._known, self._count = known, count
        used, self._cluster = np.unique(clusters[known], return_inverse=True)
        self._category = categories[known]
        self._clusters, self._seed = len(used), seed
        self.n = np.bincount(self._category, minlength=count)[:count]
        self._n_KC = self._sums(np.ones(int(known.sum())))
        self.tasks = (self._n_KC > 0).sum(0)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        place = self._cluster * self._count + self._category
        flat = np.bincount(place, values, self._clusters * self._count)
        return flat.reshape(self._clusters, self._count)

    def ratios(self, sums: np.ndarray, counts: np.ndarray) -> tuple[float, float, float]:
        """Mean, low and high of one category whose values come summed up: (V,) sums of (V,) counts."""
        sums_K, counts_K = self._sums(sums[self._known])[:, 0], self._sums(counts[self._known])[:, 0]
        drawn_D = np.concatenate([(w @ sums_K) / (w @ counts_K) for w in self._weights()])
        low, high = np.quantile(drawn_D, [0.025, 0.975])
        return float(sums_K.sum() / counts_K.sum()), float(low), float(high)

    def means(self, values: np.ndarray, share: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, low and high of each category, float64 (C,); NaN where it has no value.

        Args:
            values: (V,), finite where the category is not -1.
            share: They are 0 or 1; where all of a category are equal, no draw differs, and Wilson's interval for as
                many observations as it has tasks is given.
        """
        sums_KC = self._sums(values[self._known].astype(np.float64))
        total_C = sums_KC.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_C = total_C / self.n
            drawn_DC = np.concatenate([(w @ sums_KC) / (w @ self._n_KC) for w in self._weights()] or [mean_C[None]])
        low_C, high_C = (_quantile(drawn_DC, q) for q in (0.025, 0.975))
        if share:
            for c in np.flatnonzero((self.n > 0) & ((total_C == 0) | (total_C == self.n))):
                tasks = int(self.tasks[c])
                low_C[c], high_C[c] = wilson_interval(tasks if total_C[c] else 0, tasks)
        return mean_C, low_C, high_C

    def _weights(self) -> list[np.ndarray]:
        """How often each cluster is drawn: (some of D, K) at a time."""
        if not self._clusters:
            return []
        generator = np.random.default_rng(self._seed)
        left = DRAWS if self._clusters <= MANY else FEWER_DRAWS
        at_once, found = max(1, WEIGHTS_AT_ONCE // self._clusters), []
        even = np.full(self._clusters, 1 / self._clusters)
        while left > 0:
            found.append(generator.multinomial(self._clusters, even, min(at_once, left)).astype(np.float64))
            left -= at_once
        return found


def _quantile(values_DC: np.ndarray, q: float) -> np.ndarray:
    """Per column, over the draws in which the category came up at all; NaN where it never did."""
    found = np.full(values_DC.shape[1], np.nan)
    for c, column in enumerate(values_DC.T):
        known = column[np.isfinite(column)]
        if known.size:
            found[c] = np.quantile(known, q)
    return found
