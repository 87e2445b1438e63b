"""Statistics of a study against numbers worked out by hand or printed in tables."""

import math

import numpy as np
import pytest

from appo.research.statistics import (
    bootstrap_interval,
    holm,
    holm_intervals,
    minimum_detectable_effect,
    paired_test,
    sign_flip_p_value,
    student_t_quantile,
    value_at,
)

POINTS = [
    {"generated_tokens": 100, "rollouts": 0, "success": 0.2, "tokens": 50.0},
    {"generated_tokens": 300, "rollouts": 8, "success": 0.6, "tokens": 70.0},
    {"generated_tokens": 300, "rollouts": 8, "success": 0.7, "tokens": 80.0},
    {"generated_tokens": 400, "rollouts": 16, "success": 0.8, "tokens": 80.0},
]


def test_an_interval_of_equal_values_has_no_width():
    interval = bootstrap_interval([0.3] * 6, [0, 0, 0, 1, 1, 1])
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.3, 0.3, 0.3))
    assert interval.count == 6


def test_one_cluster_is_the_plain_bootstrap():
    # The mean of 100 draws from 50 zeros and 50 ones has a standard deviation of 0.05.
    interval = bootstrap_interval([0.0, 1.0] * 50, ["one"] * 100)
    assert interval.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.011)
    assert interval.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.011)


def test_values_that_differ_between_clusters_only_have_as_many_outcomes_as_draws_of_clusters():
    # Two clusters of constants: both drawn twice with probability 1/4 each, so the 95 % interval spans both.
    interval = bootstrap_interval([0.0] * 50 + [1.0] * 50, [0] * 50 + [1] * 50)
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.0, 1.0)


def test_values_of_one_cluster_are_not_mixed_with_those_of_a_larger_one():
    # A drawn cluster keeps its size: one value of 1 and three of 5 give a mean of 1, 4 or 5.
    draws = [bootstrap_interval([1.0, 5.0, 5.0, 5.0], "abbb", draws=1, seed=seed).low for seed in range(50)]
    assert set(draws) == {1.0, 4.0, 5.0}


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        values = generator.normal(0.5, 0.1, size=30)
        interval = bootstrap_interval(values, [0] * 30, draws=500)
        covered += interval.low <= 0.5 <= interval.high
    assert 180 <= covered <= 198  # 95 % of 200 is 190


def test_a_higher_level_is_wider_and_the_seed_decides_everything():
    values, clusters = [0.1, 0.4, 0.2, 0.5, 0.3, 0.9], [0, 0, 0, 1, 1, 1]
    narrow, wide = (bootstrap_interval(values, clusters, level=level) for level in (0.9, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_interval(values, clusters, level=0.9) == narrow


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0, math.nan], [0, 0]), ([1.0], [0, 0])])
def test_missing_values_and_labels_are_refused(values, clusters):
    with pytest.raises(ValueError, match="values"):
        bootstrap_interval(values, clusters)


def test_a_level_in_percent_is_refused():
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 95"):
        bootstrap_interval([1.0], [0], level=95)


def test_eight_positive_differences_have_the_least_p_value_there_is():
    assert sign_flip_p_value([0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1, 0.2]) == 2 / 256


def test_the_exact_p_value_counts_flips_as_far_from_zero():
    # Sums of +-1 +-2 +-3 are +-6, +-4, +-2, 0, 0; observed is 1 + 3 - 2 = 2, and six of eight reach it.
    assert sign_flip_p_value([1.0, -2.0, 3.0]) == 6 / 8


def test_sums_that_differ_by_rounding_alone_are_equal():
    # 0.1 + 0.2 - 0.3 is 5.6e-17 in floats, so that the smallest of the 16 sums, +-0.001, differ in their 14th digit.
    assert sign_flip_p_value([0.1, 0.2, -0.3, 0.001]) == sign_flip_p_value([-0.1, -0.2, 0.3, 0.001]) == 1.0


def test_equal_arms_have_a_p_value_of_one():
    assert sign_flip_p_value([0.0, 0.0, 0.0]) == 1.0
    assert sign_flip_p_value([0.0] * 20) == 1.0


def test_many_pairs_are_flipped_at_random_near_the_exact_value():
    # 12 of 15 differences positive: P(|2 X - 15| >= 9) = 2 (1 + 15 + 105 + 455) / 2 ** 15 = 0.0352.
    p_value = sign_flip_p_value([1.0] * 12 + [-1.0] * 3)
    assert p_value == pytest.approx(0.0352, abs=0.005)
    assert p_value != 1152 / 2**15
    assert sign_flip_p_value([1.0] * 40) == 1 / 20_001


@pytest.mark.parametrize(
    ("probability", "degrees", "quantile"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.975, 7, 2.3646),
        (0.8, 7, 0.8960),
        (0.995, 10, 3.1693),
        (0.975, 30, 2.0423),
        (0.025, 7, -2.3646),
        (0.5, 4, 0.0),
    ],
)
def test_quantiles_of_student_t_are_those_of_the_tables(probability, degrees, quantile):
    assert student_t_quantile(probability, degrees) == pytest.approx(quantile, abs=5e-5)


def test_the_minimum_detectable_effect_of_eight_pairs():
    # Variance of four 1s and four 3s: 8 / 7. Quantiles of t with 7 degrees: 2.3646 (two-sided 5 %) and 0.8960.
    expected = (2.3646 + 0.8960) * math.sqrt(8 / 7) / math.sqrt(8)
    assert minimum_detectable_effect([1.0, 3.0] * 4) == pytest.approx(expected, abs=1e-4)
    assert minimum_detectable_effect([1.0, 3.0] * 4, alpha=0.01) > expected
    assert minimum_detectable_effect([1.0]) == math.inf


def test_a_paired_test_sees_the_pairs_and_not_the_spread_between_them():
    comparison = paired_test([0.11, 0.51, 0.91], [0.10, 0.50, 0.90], [0, 1, 2])
    assert comparison.difference.mean == pytest.approx(0.01)
    assert (comparison.difference.low, comparison.difference.high) == pytest.approx((0.01, 0.01))
    assert comparison.p_value == 2 / 8
    assert comparison.minimum_detectable_effect == pytest.approx(0.0, abs=1e-12)


def test_unpaired_arms_are_refused():
    with pytest.raises(ValueError, match="common pairs"):
        paired_test([1.0, 2.0], [1.0], [0, 0])


def test_holm_by_hand():
    # 3 x 0.01; 2 x 0.03; then 0.04 is raised to the step before it.
    assert holm({"x": 0.01, "y": 0.04, "z": 0.03}) == pytest.approx({"x": 0.03, "y": 0.06, "z": 0.06})
    assert holm({"x": 0.6, "y": 0.9}) == {"x": 1.0, "y": 1.0}
    assert holm({}) == {}


def test_holm_intervals_have_the_level_of_their_rank():
    values, clusters = [0.1, 0.4, 0.2, 0.5, 0.3, 0.9], [0] * 6
    p_values = {"x": 0.01, "y": 0.04, "z": 0.03}
    intervals = holm_intervals(dict.fromkeys(p_values, (values, clusters)), p_values, alpha=0.06)
    for name, level in {"x": 0.98, "z": 0.97, "y": 0.94}.items():
        expected = bootstrap_interval(values, clusters, level=level)
        assert (intervals[name].low, intervals[name].high) == pytest.approx((expected.low, expected.high))


def test_holm_intervals_want_a_p_value_of_each_comparison():
    with pytest.raises(ValueError, match="p_values"):
        holm_intervals({"x": ([1.0], [0])}, {"y": 0.5})


def test_a_curve_is_interpolated_and_never_extrapolated():
    assert value_at(POINTS, "generated_tokens", 200) == pytest.approx(0.4)
    assert value_at(POINTS, "generated_tokens", 350) == pytest.approx(0.75)
    assert value_at(POINTS, "generated_tokens", 200, "tokens") == pytest.approx(60.0)
    assert value_at(POINTS, "generated_tokens", 99) is None
    assert value_at(POINTS, "generated_tokens", 401) is None


def test_a_budget_at_a_point_gives_that_point_and_the_last_of_equal_ones():
    assert value_at(POINTS, "generated_tokens", 100) == 0.2
    assert value_at(POINTS, "generated_tokens", 300) == 0.7
    assert value_at(POINTS, "generated_tokens", 400) == 0.8


def test_a_curve_without_the_axis_has_no_value():
    assert value_at(POINTS, "seconds", 1.0) is None
    assert value_at([], "rollouts", 1.0) is None


def test_an_unknown_axis_and_unsorted_points_are_refused():
    with pytest.raises(ValueError, match="axis must be one of"):
        value_at(POINTS, "tokens", 1.0)
    with pytest.raises(ValueError, match="sorted"):
        value_at(POINTS[::-1], "generated_tokens", 200)
