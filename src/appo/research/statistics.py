"""Statistics of a comparison of methods: bootstrap intervals, paired sign-flip tests, Holm's correction.

Pure functions of numbers; the same input gives the same output. Quantiles and permutations are scipy's
(`pip install 'appo[research]'`), which is imported where it is used; it has neither Holm's correction nor a bootstrap
in two stages. Runs that start from one cold-start
checkpoint form a cluster, and two runs with the same checkpoint and seed form a pair.

The sign-flip test asks about the seeds of the checkpoints at hand, the bootstrap interval about new checkpoints too:
the two may disagree, and the p-value decides. With few values or few unlike clusters the interval is too narrow: 95 %
means 91 % for eight normal values in one cluster, and 70 % for two clusters that differ as much as their values do.

Left out on purpose: mixed models.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from appo.report.intervals import Interval, bootstrap_interval, check_share, finite_values

AXES = ("generated_tokens", "rollouts", "seconds", "cpu_seconds")
RANDOM_FLIPS = 20_000
EXACT_UP_TO = 14  # pairs: the most whose 2 ** 14 sign flips are not more than those


@dataclass(frozen=True)
class PairedComparison:
    """Arm a against arm b.

    Args:
        difference: Mean of a - b over the pairs, with its bootstrap interval.
        p_value: Two-sided, of "the arms are exchangeable in every pair"; see `sign_flip_p_value`.
        minimum_detectable_effect: In the unit of the values; infinite for one pair.
    """

    difference: Interval
    p_value: float
    minimum_detectable_effect: float


def paired_test(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    alpha: float = 0.05,
    power: float = 0.8,
    draws: int = 10_000,
    seed: int = 0,
) -> PairedComparison:
    """Compares two arms on the same seeds and checkpoints.

    Args:
        a, b, clusters: Shape (N,); a[i] and b[i] share seed and checkpoint, and clusters[i] names the checkpoint.
        level, draws, seed: Of the difference's interval.
        alpha, power: Of the minimum detectable effect; Holm's first step among m comparisons is alpha / m.

    Raises:
        ValueError: for arms of different length, and as `bootstrap_interval`.
    """
    a_N, b_N = finite_values("a", a), finite_values("b", b)
    if len(a_N) != len(b_N):
        raise ValueError(f"a and b must be paired, got {len(a_N)} and {len(b_N)} values; keep the common pairs only.")
    interval = bootstrap_interval(a_N - b_N, clusters, level=level, draws=draws, seed=seed)
    effect = minimum_detectable_effect(a_N - b_N, alpha=alpha, power=power)
    return PairedComparison(interval, sign_flip_p_value(a_N - b_N), effect)


def sign_flip_p_value(differences: npt.ArrayLike, *, seed: int = 0) -> float:
    """Two-sided sign-flip permutation test of paired differences, shape (N,), with |sum| as the statistic.

    Up to 14 pairs all 2 ** N flips are tried and the p-value is exact (at least 2 / 2 ** N); beyond, 20,000 random
    flips with a fixed seed and the observed one, so that it is never 0.
    """
    from scipy.stats import permutation_test

    differences_N = finite_values("differences", differences)
    total = float(np.abs(differences_N).sum())
    if len(differences_N) == 1 or total == 0:
        return 1.0
    # Sums that are equal but for rounding must count as equal. The step is irrational, so that no sum of round numbers
    # lies half-way between two.
    step = math.pi * 1e-10 * total
    result = permutation_test(
        (differences_N,),
        lambda flipped, axis: np.rint(np.abs(flipped.sum(axis=axis)) / step),
        permutation_type="samples",
        alternative="greater",
        n_resamples=RANDOM_FLIPS,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def least_p_value(pairs: int) -> float:
    """What `sign_flip_p_value` cannot fall below with so many pairs, whatever they are."""
    return 2 / 2**pairs if pairs <= EXACT_UP_TO else 1 / (RANDOM_FLIPS + 1)


def minimum_detectable_effect(differences: npt.ArrayLike, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true mean difference that a two-sided paired test at `alpha` detects with probability `power`.

    (t(1 - alpha / 2) + t(power)) x sd / sqrt(N) with Student's t of N - 1 degrees of freedom and the observed
    standard deviation of the differences, shape (N,); infinite for one pair.
    """
    differences_N = finite_values("differences", differences)
    check_share("alpha", alpha)
    check_share("power", power)
    count = len(differences_N)
    if count == 1:
        return math.inf
    quantiles = student_t_quantile(1 - alpha / 2, count - 1) + student_t_quantile(power, count - 1)
    return quantiles * float(differences_N.std(ddof=1)) / math.sqrt(count)


def student_t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t.

    Raises:
        ValueError: for a probability that is no share, and for less than one degree of freedom.
    """
    from scipy.stats import t

    check_share("probability", probability)
    if degrees < 1:
        raise ValueError(f"degrees must not be below 1, got {degrees}; give two values or more.")
    return float(t.ppf(probability, degrees))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values (S. Holm, 1979), in the order of the input: monotone in p, at most 1."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def holm_intervals(
    differences: Mapping[str, tuple[npt.ArrayLike, Sequence[Hashable]]],
    p_values: Mapping[str, float],
    *,
    alpha: float = 0.05,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Bootstrap intervals at Holm's levels: the k-th smallest of m p-values gets level 1 - alpha / (m - k + 1).

    After the first comparison that Holm's procedure does not reject, intervals of larger p-values may still exclude
    zero: the adjusted p-value decides, not the interval.

    Args:
        differences: Per comparison its paired differences, shape (N,), and their N cluster labels.
        p_values: Unadjusted p-values of the same comparisons.

    Raises:
        ValueError: where the two name different comparisons, and as `bootstrap_interval`.
    """
    if differences.keys() != p_values.keys():
        raise ValueError(f"p_values must be of {sorted(differences)}, got {sorted(p_values)}; give one of each.")
    check_share("alpha", alpha)
    ranked = sorted(p_values, key=lambda name: p_values[name])
    levels = {name: 1 - alpha / (len(ranked) - rank) for rank, name in enumerate(ranked)}
    return {
        name: bootstrap_interval(values, clusters, level=levels[name], draws=draws, seed=seed)
        for name, (values, clusters) in differences.items()
    }


def value_at(points: Sequence[Mapping[str, Any]], axis: str, budget: float, field: str = "success") -> float | None:
    """`field` of a run's curve at `budget` on `axis`, by linear interpolation between its points.

    None before the first point and where the run never reached the budget: nothing is extrapolated. Points without
    `axis` or `field` are passed over; of several points at the budget the last counts.

    Raises:
        ValueError: for an unknown axis, and for points that are not sorted by it.
    """
    if axis not in AXES:
        raise ValueError(f"axis must be one of {', '.join(AXES)}, got {axis!r}.")
    known = [(point[axis], point[field]) for point in points if None not in (point.get(axis), point.get(field))]
    if any(after[0] < before[0] for before, after in pairwise(known)):
        raise ValueError(f"points must be sorted by {axis}, got {[x for x, _ in known]}; sort them before.")
    if not known or not known[0][0] <= budget <= known[-1][0]:
        return None
    place = max(i for i, (x, _) in enumerate(known) if x <= budget)
    x, y = known[place]
    next_x, next_y = (*known, (math.inf, y))[place + 1]
    return float(y + (next_y - y) * (budget - x) / (next_x - x))
