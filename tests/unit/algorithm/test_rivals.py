"""The rivals' equations against hand-computed numbers and, for the ones with structure, brute force."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from appo.algorithm.rivals import (
    arpo_branch_probability,
    batch_advantage,
    gppo_coefficient,
    mixed_groups,
    shared_prefix_advantage,
    step_group_advantage,
    tree_group_advantage,
    turn_entropy,
    vine_advantage,
)

NAN = math.nan


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def test_batch_advantage_hand_computed():
    # Mean 1/4, population std sqrt(3) / 4: (0 - 1/4) / std = -1 / sqrt(3), (1 - 1/4) / std = sqrt(3).
    expected = double([-1 / math.sqrt(3), -1 / math.sqrt(3), math.sqrt(3), -1 / math.sqrt(3)])
    torch.testing.assert_close(batch_advantage(double([0.0, 0.0, 1.0, 0.0])), expected)


def test_batch_advantage_with_baseline_hand_computed():
    # Centred: group 7 (mean 1/2) to -1/2, 1/2; group 3 (mean 3) to -1, 1. Variance (1/4 + 1/4 + 1 + 1) / 4 = 5/8.
    std = math.sqrt(5 / 8)
    group_B = torch.tensor([7, 3, 7, 3])
    expected = double([-0.5 / std, -1.0 / std, 0.5 / std, 1.0 / std])
    torch.testing.assert_close(batch_advantage(double([0.0, 2.0, 1.0, 4.0]), group_B), expected)


def test_a_deviation_of_exactly_eps_gives_no_signal():
    rewards_B = double([0.0, 2.0])
    assert batch_advantage(rewards_B, eps=1.0).tolist() == [0.0, 0.0]
    assert batch_advantage(rewards_B, eps=0.99).tolist() == [-1.0, 1.0]


def test_batch_advantage_without_variance_gives_no_signal():
    equal_B = torch.full((3,), 0.1)
    assert (batch_advantage(equal_B) == 0).all()
    # Groups that differ only in their means: nothing is left after centring.
    rewards_B, group_B = torch.tensor([0.1, 0.1, 0.7]), torch.tensor([0, 0, 1])
    assert (batch_advantage(rewards_B) != 0).any()
    assert (batch_advantage(rewards_B, group_B) == 0).all()
    assert (batch_advantage(torch.tensor([0.0, 1.0]), eps=0.6) == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.rand(1, 2),), "rewards_B must have one dimension"),
        ((torch.tensor([1, 2]),), "rewards_B must be a floating-point"),
        ((torch.tensor([0.0, NAN]),), r"rewards_B holds nan at \[1\]"),
        ((torch.rand(2), torch.tensor([0])), r"group_B must be an integer tensor of shape \(2,\), as rewards_B"),
        ((torch.rand(2), torch.rand(2)), "group_B must be an integer"),
    ],
)
def test_batch_advantage_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        batch_advantage(*arguments)


def test_mixed_groups_hand_computed():
    rewards_GN = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    assert mixed_groups(rewards_GN).tolist() == [False, True, False, True]


def test_mixed_groups_threshold_and_small_groups():
    assert mixed_groups(torch.tensor([[0.1, 0.3]]), eps=0.1).tolist() == [True]
    assert mixed_groups(torch.tensor([[0.1, 0.3]]), eps=0.25).tolist() == [False]
    assert mixed_groups(torch.tensor([[0.0, 0.25]]), eps=0.25).tolist() == [False]
    assert mixed_groups(torch.rand(2, 1)).tolist() == [False, False]
    assert mixed_groups(torch.rand(2, 0)).tolist() == [False, False]
    assert mixed_groups(torch.rand(0, 4)).tolist() == []


def test_mixed_groups_leave_out_what_is_not_scored():
    rewards_GN = torch.tensor([[NAN, 1.0, 1.0], [0.0, NAN, 1.0], [NAN, NAN, 1.0], [NAN] * 3])
    assert mixed_groups(rewards_GN).tolist() == [False, True, False, False]


def test_mixed_groups_errors():
    with pytest.raises(ValueError, match="rewards_GN must have two dimensions"):
        mixed_groups(torch.rand(3))
    with pytest.raises(ValueError, match=r"rewards_GN holds inf at \[0, 1\]"):
        mixed_groups(torch.tensor([[0.0, math.inf]]))


def test_gppo_hand_computed():
    log_ratio_BT = double([[0.5, 1.0, 1.2, 2.0]]).log().repeat(2, 1)
    advantages_BT = double([[1.0] * 4, [-3.0] * 4])
    expected = double([[0.5, 1.0, 1.2, 1.28], [0.8, 1.0, 1.2, 2.0]])
    torch.testing.assert_close(gppo_coefficient(log_ratio_BT, advantages_BT, low=0.2, high=0.28), expected)


def test_gppo_bounds_may_be_as_wide_and_as_narrow_as_there_are():
    log_ratio_BT, advantages_BT = double([[0.5, 1.5]]).log().repeat(2, 1), double([[1.0] * 2, [-1.0] * 2])
    narrow, wide = (
        gppo_coefficient(log_ratio_BT, advantages_BT, low=low, high=high) for low, high in ((0, 0), (1, 1))
    )
    torch.testing.assert_close(narrow, double([[0.5, 1.0], [1.0, 1.5]]))
    torch.testing.assert_close(wide, double([[0.5, 1.5], [0.5, 1.5]]))


def test_gppo_is_bounded_at_extremes():
    # e^200 is no float32, e^-200 is 0 in it: the clipped sides stay finite and above 0. A = 0 counts as positive.
    log_ratio_BT, advantages_BT = torch.tensor([[200.0, -200.0, 200.0]]), torch.tensor([[2.0, -2.0, 0.0]])
    expected = torch.tensor([[1.3, 0.9, 1.3]])
    torch.testing.assert_close(gppo_coefficient(log_ratio_BT, advantages_BT, low=0.1, high=0.3), expected)


def test_gppo_is_the_gradient_of_the_papers_loss():
    # The paper's surrogate: min(r A, clip A), where a clipped ratio is bound / sg(r) * r.
    generator = torch.Generator().manual_seed(0)
    log_ratio_BT = torch.randn(5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    advantages_BT = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    ratio_BT = log_ratio_BT.exp()
    clipped_BT = ratio_BT.detach().clamp(0.8, 1.28) / ratio_BT.detach() * ratio_BT
    torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT).sum().backward()
    coefficient_BT = gppo_coefficient(log_ratio_BT, advantages_BT, low=0.2, high=0.28)
    torch.testing.assert_close(coefficient_BT * advantages_BT, log_ratio_BT.grad)


def test_gppo_errors():
    one_BT = torch.rand(2, 3)
    with pytest.raises(ValueError, match="advantages_BT has shape"):
        gppo_coefficient(one_BT, one_BT[:1], low=0.2, high=0.2)
    with pytest.raises(ValueError, match=r"low must be in \[0, 1\]"):
        gppo_coefficient(one_BT, one_BT, low=1.5, high=0.2)
    with pytest.raises(ValueError, match="high must be at least 0"):
        gppo_coefficient(one_BT, one_BT, low=0.2, high=NAN)


def test_turn_entropy_hand_computed():
    entropies_T = torch.tensor([NAN, 1.0, 2.0, 6.0, 9.0])
    assert turn_entropy(entropies_T, 1, 4) == 3.0
    assert turn_entropy(entropies_T, 1, 4, window=2) == 1.5
    assert turn_entropy(entropies_T, 4, 5, window=1) == 9.0


def test_turn_entropy_takes_twenty_tokens():
    # 5, ..., 24 have the mean 14.5.
    assert turn_entropy(torch.arange(60.0), 5, 60) == 14.5


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (2, 2), (3, 2), (0, 4)])
def test_turn_entropy_bounds(start, end):
    with pytest.raises(ValueError, match="start and end must have 0 <= start < end <= 3"):
        turn_entropy(torch.rand(3), start, end)


def test_turn_entropy_errors():
    with pytest.raises(ValueError, match="entropies_T must have one dimension"):
        turn_entropy(torch.rand(2, 2), 0, 1)
    with pytest.raises(ValueError, match="window must be at least 1"):
        turn_entropy(torch.rand(2), 0, 1, window=0)
    with pytest.raises(ValueError, match=r"entropies_T holds nan at \[2\]"):
        turn_entropy(torch.tensor([0.0, 1.0, NAN]), 1, 3)


def test_arpo_branch_probability_hand_computed():
    # log(100) is the whole entropy: dH = 0.5 for half of it, and -0.25.
    whole = math.log(100)
    assert arpo_branch_probability(1.0, 1.0, 100) == 0.5
    assert arpo_branch_probability(0.75 * whole, 0.25 * whole, 100) == pytest.approx(0.6)
    assert arpo_branch_probability(0.0, 0.25 * whole, 100) == pytest.approx(0.45)


def test_arpo_branch_probability_of_two_tokens():
    assert arpo_branch_probability(math.log(2), 0.0, 2) == pytest.approx(0.7)


def test_arpo_branch_probability_is_clamped():
    whole = math.log(100)
    assert arpo_branch_probability(whole, 0.0, 100, weight=0.6) == 1.0
    assert arpo_branch_probability(0.0, whole, 100, weight=0.6) == 0.0
    assert arpo_branch_probability(0.5 * whole, 0.0, 100, base=0.2, weight=0.6) == pytest.approx(0.5)


def test_arpo_branch_probability_errors():
    with pytest.raises(ValueError, match="first_entropy must be finite, got nan"):
        arpo_branch_probability(1.0, NAN, 100)
    with pytest.raises(ValueError, match="entropy must be finite, got inf"):
        arpo_branch_probability(math.inf, 1.0, 100)
    with pytest.raises(ValueError, match="vocab_size must be at least 2"):
        arpo_branch_probability(1.0, 1.0, 1)


def test_shared_prefix_hand_computed():
    # Rollouts 0 and 1 are initial; 2 leaves 0 at token 2. Tokens 0 and 1 of both: the mean of 3 and 1.
    actual = shared_prefix_advantage(
        double([3.0, -5.0, 1.0]), torch.tensor([-1, -1, 0]), torch.tensor([0, 0, 2]), length=4
    )
    torch.testing.assert_close(actual, double([[2.0, 2.0, 3.0, 3.0], [-5.0] * 4, [2.0, 2.0, 1.0, 1.0]]))


def test_shared_prefix_leaves_out_what_is_not_scored():
    # 0 is not scored; 1 and 2 leave it at 2 and 3. Tokens 0 and 1 are those of 1 and 2, token 2 is of 2 alone.
    actual = shared_prefix_advantage(
        double([NAN, 4.0, 2.0, NAN]), torch.tensor([-1, 0, 0, -1]), torch.tensor([0, 2, 3, 0]), length=4
    )
    expected = [[3.0, 3.0, 2.0, 0.0], [3.0, 3.0, 4.0, 4.0], [3.0, 3.0, 2.0, 2.0], [0.0] * 4]
    torch.testing.assert_close(actual, double(expected))


def test_shared_prefix_of_a_branch_of_a_branch():
    # 0 has 1 as its parent (from 3), which has 2 as its own (from 1); 3 leaves 1 at 0 and shares nothing.
    # Token 0: mean of 6, 3, 0 = 3. Tokens 1 and 2 are of rollout 1, shared with 0: 4.5.
    actual = shared_prefix_advantage(
        torch.tensor([6.0, 3.0, 0.0, 9.0]), torch.tensor([1, 2, -1, 1]), torch.tensor([3, 1, 0, 0]), length=4
    )
    expected = torch.tensor([[3.0, 4.5, 4.5, 6.0], [3.0, 4.5, 4.5, 3.0], [3.0, 0.0, 0.0, 0.0], [9.0] * 4])
    torch.testing.assert_close(actual, expected)


def test_shared_prefix_of_a_branch_before_its_parents_branch_point():
    # 1 leaves 0 at 3, and 2 leaves 1 at 1: token 0 is everyone's, tokens 1 and 2 are shared by 0 and 1 alone.
    actual = shared_prefix_advantage(
        torch.tensor([1.0, 2.0, 6.0]), torch.tensor([-1, 0, 1]), torch.tensor([0, 3, 1]), length=4
    )
    expected = torch.tensor([[3.0, 1.5, 1.5, 1.0], [3.0, 1.5, 1.5, 2.0], [3.0, 6.0, 6.0, 6.0]])
    torch.testing.assert_close(actual, expected)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), rollouts=st.integers(0, 6), length=st.integers(0, 7))
def test_shared_prefix_brute_force(seed, rollouts, length):
    """With tokens written out: two rollouts share a token exactly if they agree up to and with it."""
    generator = torch.Generator().manual_seed(seed)
    parents, positions, texts = [], [], []
    for r in range(rollouts):
        parent = int(torch.randint(-1, r, (1,), generator=generator)) if r else -1
        position = int(torch.randint(0, length + 1, (1,), generator=generator)) if parent >= 0 else 0
        texts.append((texts[parent][:position] if parent >= 0 else []) + [(r, t) for t in range(position, length)])
        parents.append(parent)
        positions.append(position)
    values = torch.randn(rollouts, generator=generator, dtype=torch.float64).tolist()
    expected = [
        [
            statistics.fmean(v for v, other in zip(values, texts, strict=True) if other[t] == text[t])
            for t in range(length)
        ]
        for text in texts
    ]
    actual = shared_prefix_advantage(
        double(values), torch.tensor(parents).long(), torch.tensor(positions).long(), length=length
    )
    torch.testing.assert_close(actual, double(expected).reshape(rollouts, length))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"advantages_R": torch.tensor([0.0, math.inf])}, r"advantages_R holds inf at \[1\]"),
        ({"parent_R": torch.tensor([-1, 2])}, r"parent_R must be in \[0, 2\)"),
        (
            {"parent_R": torch.tensor([1, 0])},
            r"^parent_R must lead every branch back to an initial rollout, but has a circle\.$",
        ),
        ({"parent_R": torch.tensor([-1, 1])}, "parent_R must lead every branch back"),
        ({"advantages_R": torch.rand(1, 2)}, "^advantages_R must have one dimension"),
        ({"parent_R": torch.tensor([-2, 0])}, r"parent_R must be in \[0, 2\)"),
        ({"parent_R": torch.tensor([0, -1]), "position_R": torch.tensor([1, 0])}, "circle"),
        ({"parent_R": torch.tensor([-1.0, 0.0])}, r"parent_R must be an integer .* \(2,\), as advantages_R, got"),
        ({"position_R": torch.tensor([0, 5])}, r"position_R must be in \[0, 4\]"),
        (
            {"position_R": torch.tensor([1, 2])},
            r"^position_R must be 0 for an initial rollout, which has no parent to share tokens with\.$",
        ),
        ({"position_R": torch.tensor([0])}, r"position_R must be an integer tensor of shape \(2,\), as advantages_R"),
        ({"length": -1}, "length must be at least 0"),
    ],
)
def test_shared_prefix_errors(arguments, message):
    valid = {
        "advantages_R": torch.rand(2),
        "parent_R": torch.tensor([-1, 0]),
        "position_R": torch.tensor([0, 4]),
        "length": 4,
    }
    shared_prefix_advantage(**valid)
    with pytest.raises(ValueError, match=message):
        shared_prefix_advantage(**(valid | arguments))


def test_tree_group_hand_computed():
    # Tree 0: mean 1/2, std 1/2, so -1 and 1. Tree 1: equal, so 0. All: mean 3/4, std sqrt(3) / 4, so -sqrt(3) and
    # 1 / sqrt(3).
    low, high = -math.sqrt(3), 1 / math.sqrt(3)
    actual = tree_group_advantage(double([0.0, 1.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(actual, double([-1.0 + low, 1.0 + high, high, high]))


def test_tree_group_of_one_tree_and_of_lone_rollouts():
    rewards_R = torch.tensor([0.0, 1.0])
    # One tree: both terms are equal, so twice -1 and 1. A tree each: only the inter-tree term is left.
    torch.testing.assert_close(tree_group_advantage(rewards_R, torch.tensor([4, 4])), torch.tensor([-2.0, 2.0]))
    torch.testing.assert_close(tree_group_advantage(rewards_R, torch.tensor([4, 9])), torch.tensor([-1.0, 1.0]))
    assert (tree_group_advantage(rewards_R, torch.tensor([4, 4]), eps=0.6) == 0).all()


def test_tree_group_errors():
    with pytest.raises(ValueError, match=r"rewards_R holds inf at \[0\]"):
        tree_group_advantage(torch.tensor([math.inf, 0.0]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"tree_R must be an integer tensor of shape .*, as rewards_R, got"):
        tree_group_advantage(torch.rand(2), torch.tensor([0]))


def assert_nested_close(actual, expected):
    assert [len(row) for row in actual] == [len(row) for row in expected]
    for row, expected_row in zip(actual, expected, strict=True):
        assert row == pytest.approx(expected_row)


def test_step_group_hand_computed():
    # A_E: 1 and -1. Returns at gamma 1/2: rollout 0 has 1/4, 1/2, 1; rollout 1 has 0, 0.
    # "a": 1/4, 0 to 1, -1. "b": 1/2, 1, 0 have mean 1/2, std sqrt(1/6), so 0, sqrt(3/2), -sqrt(3/2).
    rewards_R, anchors = torch.tensor([1.0, 0.0]), [["a", "b", "b"], ["a", "b"]]
    step = math.sqrt(3 / 2)
    actual = step_group_advantage(rewards_R, anchors, gamma=0.5)
    assert_nested_close(actual, [[2.0, 1.0, 1.0 + step], [-2.0, -1.0 - step]])
    actual = step_group_advantage(rewards_R, anchors, gamma=0.5, weight=0.1)
    assert_nested_close(actual, [[1.1, 1.0, 1.0 + 0.1 * step], [-1.1, -1.0 - 0.1 * step]])


@pytest.mark.parametrize(("gamma", "first"), [(0.0, 0.0), (1.0, 1.0)])
def test_step_group_discounts_may_leave_all_or_nothing(gamma, first):
    # Episodes 1 and -1, not normalised: 1/2 and -1/2. The first step's returns are gamma and 0, the second's 1 and 0.
    actual = step_group_advantage(double([1.0, 0.0]), [["a", "b"]] * 2, gamma=gamma, normalise=False)
    assert actual == [[0.5 + first / 2, 1.0], [-0.5 - first / 2, -1.0]]


def test_step_group_without_normalisation_hand_computed():
    # As above, with A_E 1/2 and -1/2; "a" has mean 1/8, "b" mean 1/2.
    actual = step_group_advantage(
        torch.tensor([1.0, 0.0]), [["a", "b", "b"], ["a", "b"]], gamma=0.5, weight=2.0, normalise=False
    )
    assert_nested_close(actual, [[0.5 + 0.25, 0.5, 0.5 + 1.0], [-0.5 - 0.25, -0.5 - 1.0]])


@pytest.mark.parametrize("normalise", [True, False])
def test_step_group_alone_or_equal_has_no_step_term(normalise):
    # States met once, and a state whose steps have the same return: only A_E is left, and no rollout is dropped.
    rewards_R, anchors = torch.tensor([1.0, 1.0, 0.0, 0.0]), [[("x", 1), "z"], [("x", 2), "z"], [], [0]]
    actual = step_group_advantage(rewards_R, anchors, normalise=normalise)
    size = 1.0 if normalise else 0.5
    assert_nested_close(actual, [[size, size], [size, size], [], [-size]])
    assert step_group_advantage(torch.zeros(2), [[], []]) == [[], []]
    assert step_group_advantage(torch.zeros(0), []) == []


def test_step_group_errors():
    with pytest.raises(ValueError, match="anchors has 1 rollouts, but rewards_R has 2"):
        step_group_advantage(torch.rand(2), [["a"]])
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\]"):
        step_group_advantage(torch.rand(1), [["a"]], gamma=1.1)
    with pytest.raises(ValueError, match=r"rewards_R holds nan at \[0\]"):
        step_group_advantage(torch.tensor([NAN]), [["a"]])


def test_vine_hand_computed():
    expected = double([0.25, -0.5, 0.75])
    torch.testing.assert_close(vine_advantage(double([0.5, 0.75, 0.25]), 1.0), expected)
    torch.testing.assert_close(vine_advantage(torch.tensor([0.25]), 0.0), torch.tensor([-0.25]))


def test_vine_merges_steps_without_a_value():
    # Spans 0-1 (0.5 to 0.75) and 2-4 (0.75 to the reward).
    actual = vine_advantage(double([0.5, NAN, 0.75, NAN, NAN]), 1.0)
    torch.testing.assert_close(actual, double([0.25] * 5))
    actual = vine_advantage(double([0.5, NAN, 0.75, NAN, NAN]), 0.0)
    torch.testing.assert_close(actual, double([0.25, 0.25, -0.75, -0.75, -0.75]))


@pytest.mark.parametrize(
    ("values_S", "reward", "message"),
    [
        (torch.tensor([NAN, 0.5]), 1.0, r"^values_S must begin .*, which no earlier step can replace\.$"),
        (torch.zeros(0), 1.0, "values_S must begin with the value of the first state"),
        (torch.rand(1, 2), 1.0, "values_S must have one dimension"),
        (torch.tensor([0.5, math.inf]), 1.0, r"^values_S and reward must not be infinite, nor reward NaN\.$"),
        (torch.rand(2), NAN, "values_S and reward must not be infinite, nor reward NaN"),
    ],
)
def test_vine_errors(values_S, reward, message):
    with pytest.raises(ValueError, match=message):
        vine_advantage(values_S, reward)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_no_gradient_flows(dtype):
    one_R = torch.rand(3, dtype=dtype, requires_grad=True)
    one_BT = torch.rand(2, 3, dtype=dtype, requires_grad=True)
    index_R = torch.zeros(3, dtype=torch.int32)
    for result in (
        batch_advantage(one_R),
        batch_advantage(one_R, index_R),
        gppo_coefficient(one_BT, one_BT, low=0.2, high=0.2),
        shared_prefix_advantage(one_R, index_R - 1, index_R, length=2),
        tree_group_advantage(one_R, index_R),
        vine_advantage(one_R, 1.0),
    ):
        assert result.dtype == dtype
        assert not result.requires_grad
    assert not mixed_groups(one_BT).requires_grad
    assert isinstance(turn_entropy(one_R, 0, 3), float)
    assert isinstance(step_group_advantage(one_R, [["a"]] * 3)[0][0], float)
