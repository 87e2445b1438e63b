"""Scores relative to their group, by hand, and the checks of vectors."""

import math

import pytest
import torch

from appo.algorithm.group_scores import check_finite, check_index, check_vector, group_scores, one_group


def test_a_score_is_the_distance_from_the_groups_mean_in_deviations():
    # Group 7: 0 and 1, mean and deviation 1/2. Group 3: 1, 1, 4, mean 2, deviation sqrt(2).
    value_R, group_R = torch.tensor([0.0, 1.0, 1.0, 1.0, 4.0]), torch.tensor([7, 3, 7, 3, 3])
    expected = torch.tensor([-1.0, -(2**-0.5), 1.0, -(2**-0.5), 2**0.5])
    torch.testing.assert_close(group_scores(value_R, group_R, 1e-6), expected.double())


def test_without_a_threshold_only_the_mean_is_taken_off():
    value_R, group_R = torch.tensor([0.0, 1.0, 1.0, 1.0, 4.0]), torch.tensor([7, 3, 7, 3, 3])
    torch.testing.assert_close(group_scores(value_R, group_R, None), torch.tensor([-0.5, -1, 0.5, -1, 2]).double())


def test_a_deviation_at_the_threshold_gives_0():
    value_R = torch.tensor([0.0, 2.0])  # deviation 1
    assert group_scores(value_R, one_group(value_R), 1.0).tolist() == [0.0, 0.0]
    assert group_scores(value_R, one_group(value_R), 0.99).tolist() == [-1.0, 1.0]


def test_a_group_of_one_and_no_groups_at_all_are_no_error():
    assert group_scores(torch.tensor([3.0, 5.0]), torch.tensor([0, 1]), 1e-6).tolist() == [0.0, 0.0]
    assert group_scores(torch.zeros(0), torch.zeros(0, dtype=torch.long), 1e-6).tolist() == []


def test_one_group_holds_every_value():
    assert one_group(torch.rand(3)).tolist() == [0, 0, 0]


def test_no_gradient_flows_through_a_score():
    value_R = torch.rand(3, requires_grad=True)
    assert not group_scores(value_R, one_group(value_R), 1e-6).requires_grad


def test_a_vector_of_another_shape_or_kind_is_named():
    check_vector("x_R", torch.rand(2))
    check_vector("x_R", torch.tensor([math.nan]), finite=False)
    for vector, message in (
        (torch.rand(1, 2), r"^x_R must have one dimension, got shape \(1, 2\)\.$"),
        (torch.tensor([1]), r"^x_R must be a floating-point tensor, got torch\.int64\.$"),
        (torch.tensor([0.0, math.nan]), r"^x_R holds nan at \[1\], but must be finite there\.$"),
    ):
        with pytest.raises(ValueError, match=message):
            check_vector("x_R", vector)


def test_a_bad_number_is_named_with_its_place():
    with pytest.raises(ValueError, match=r"x_R holds inf at \[5, 4\]"):
        check_finite("x_R", torch.tensor([[0.0], [math.inf]]), offset=4)
    check_finite("x_R", torch.tensor([math.nan]), missing=True)
    with pytest.raises(ValueError, match=r"x_R holds -inf at \[1\]"):
        check_finite("x_R", torch.tensor([math.nan, -math.inf]), missing=True)


@pytest.mark.parametrize("index", [torch.tensor([0]), torch.tensor([0.0, 1.0]), torch.tensor([True, False])])
def test_an_index_is_of_whole_numbers_and_as_long_as_what_it_is_of(index):
    check_index("i_R", torch.tensor([0, 1], dtype=torch.int32), "x_R", torch.rand(2))
    with pytest.raises(ValueError, match=r"i_R must be an integer tensor of shape \(2,\), as x_R, got"):
        check_index("i_R", index, "x_R", torch.rand(2))
