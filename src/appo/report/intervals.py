"""Intervals of what was measured: of a mean over clustered runs, and of a share.

Pure functions of numbers, from numpy alone, as every run prints such intervals and scipy comes with the extra
`research` only (whose bootstrap has no clusters); the same input gives the same output. Left out on purpose: tests
that compare methods (`appo.research.statistics`).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values with its interval, in the unit of the values."""

    mean: float
    low: float
    high: float
    count: int


def wilson_interval(successes: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (E. B. Wilson, 1927); (0, 1) for no observations."""
    if count == 0:
        return 0.0, 1.0
    share = successes / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, center - half), min(1.0, center + half)


def rollouts_interval(successes: float, scored: int, rollouts: int, questions: int) -> tuple[float, float]:
    """95 % interval of the success of an evaluation that may have asked each question several times.

    Several rollouts of a question are no independent observations: it is Wilson's of as many as there are questions
    (of those that were scored, in proportion), which is rather too wide.

    Args:
        successes, scored, rollouts: Of the rollouts, how many succeeded, were scored, and were written.
        questions: That they belong to.
    """
    known = scored * questions // max(rollouts, 1)
    return wilson_interval(successes / scored * known if scored else 0, known)


def finite_values(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The values as float64, shape (N,).

    Raises:
        ValueError: naming them `name`, for none and for values that are not finite.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a row of one or more finite numbers, got {values!r}; drop what is missing.")
    return array


def check_share(name: str, value: float) -> None:
    """
    Raises:
        ValueError: for what does not lie between 0 and 1.
    """
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}; give 95 % as 0.95.")


def bootstrap_interval(
    values: npt.ArrayLike, clusters: Sequence[Hashable], *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile interval of the mean by a two-stage bootstrap.

    Clusters are drawn with replacement, then values within each drawn cluster with replacement; the statistic is the
    mean of all drawn values. With one cluster this is the plain bootstrap, for one value an interval of zero width.

    Args:
        values, clusters: Shape (N,), and N labels, such as the cold-start checkpoint of each run.
        level, draws: Coverage and samples; memory grows with draws x clusters x size of the largest cluster.

    Raises:
        ValueError: for no values, values that are not finite, another number of labels, a level that is no share.
    """
    values_N = finite_values("values", values)
    check_share("level", level)
    if len(clusters) != len(values_N):
        raise ValueError(f"clusters must hold one label per value, got {len(clusters)} for {len(values_N)} values.")
    members: dict[Hashable, list[float]] = {}
    for value, label in zip(values_N.tolist(), clusters, strict=True):
        members.setdefault(label, []).append(value)
    sizes_K = np.array([len(group) for group in members.values()])
    table_KM = np.zeros((len(sizes_K), sizes_K.max()))  # a cluster's values, then zeros
    for row_M, group in zip(table_KM, members.values(), strict=True):
        row_M[: len(group)] = group
    generator = np.random.default_rng(seed)
    drawn_DK = generator.integers(len(sizes_K), size=(draws, len(sizes_K)))
    sizes_DK = sizes_K[drawn_DK]
    places_DKM = (generator.random((*drawn_DK.shape, table_KM.shape[1])) * sizes_DK[..., None]).astype(int)
    picked_DKM = table_KM[drawn_DK[..., None], places_DKM]
    picked_DKM *= np.arange(table_KM.shape[1]) < sizes_DK[..., None]
    means_D = picked_DKM.sum((1, 2)) / sizes_DK.sum(1)
    low, high = np.quantile(means_D, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values_N.mean()), float(low), float(high), len(values_N))
