"""Credit from the whole tree, by hand and against its definition on trees whose tokens are written out."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from appo.algorithm import tree_advantage

NAN = math.nan


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def test_one_branch_by_hand():
    # Mean 1/3, std sqrt(2)/3. The first two tokens of 0 and 2 are shared: V = 1/2, 1/6 above the mean, twice.
    # Then 1 is 2/3 above the mean and 1/2 above the node, and 0 is 1/3 and 1/2 below; rollout 1 twice 1/3 below.
    actual = tree_advantage(double([1.0, 0.0, 0.0]), [None, None, 0], [0, 0, 2], length=4)
    shared, own, other = 2 * (1 / 6), 2 / 3 + 1 / 2, -1 / 3 - 1 / 2
    expected = double([[shared, shared, own, own], [-2 / 3] * 4, [shared, shared, other, other]])
    torch.testing.assert_close(actual, expected * 3 / math.sqrt(2))


def test_a_branch_of_a_branch_by_hand():
    # Mean and std 1/2, so A = 2 (V - 1/2 + V - V_node). Token 0: 0, 2 and 3 hold it, V = 2/3.
    # Tokens 1 and 2: rollout 0 alone has V = 1 against 2/3; 2 and 3 have 1/2 against 2/3. Token 3: 1 or 0 against 1/2.
    actual = tree_advantage(double([1.0, 0.0, 1.0, 0.0]), [None, None, 0, 2], [0, 0, 1, 3], length=4)
    high, low = 5 / 3, -1 / 3
    expected = [[2 / 3, high, high, high], [-2.0] * 4, [2 / 3, low, low, 2.0], [2 / 3, low, low, -2.0]]
    torch.testing.assert_close(actual, double(expected))


def test_a_branch_before_its_parents_branching_leaves_the_grandparent():
    # 1 leaves 0 at 3, and 2 leaves 1 at 1, where 1 still has the tokens of 0. Mean 1/3, std sqrt(2)/3.
    # Token 0 is everyone's. Tokens 1 and 2 of 0 and 1: V = 1/2 against 1/3; token 3: 1 and 0 against 1/2.
    actual = tree_advantage(double([1.0, 0.0, 0.0]), [None, 0, 1], [0, 3, 1], length=4)
    both, first, second, third = 1 / 6 + 1 / 6, 2 / 3 + 1 / 2, -1 / 3 - 1 / 2, -1 / 3 - 1 / 3
    expected = double([[0.0, both, both, first], [0.0, both, both, second], [0.0, third, third, third]])
    torch.testing.assert_close(actual, expected * 3 / math.sqrt(2))


def test_a_branch_at_position_0_is_a_rollout_of_its_own():
    branched = tree_advantage(double([1.0, 0.0, 0.0]), [None, 0, None], [0, 0, 0], length=3)
    # Mean 1/3, std sqrt(2)/3, everything twice: 4/3 and -2/3 over std.
    expected = double([[4 / 3] * 3, [-2 / 3] * 3, [-2 / 3] * 3]) * 3 / math.sqrt(2)
    torch.testing.assert_close(branched, expected)


def test_two_branches_at_one_token_share_its_node():
    # Mean and std of 1, 0, 1, 0 are 1/2; token 0 has V = 2/3. Its three continuations are compared with 2/3.
    actual = tree_advantage(double([1.0, 0.0, 1.0, 0.0]), [None, 0, 0, None], [0, 1, 1, 0], length=2)
    good, bad = 2 * (1 / 2 + 1 / 3), 2 * (-1 / 2 - 2 / 3)
    torch.testing.assert_close(actual, double([[2 / 3, good], [2 / 3, bad], [2 / 3, good], [-2.0, -2.0]]))


def test_without_the_local_term_a_token_is_its_value_against_the_mean():
    arguments = (double([1.0, 0.0, 1.0, 0.0]), [None, None, 0, 2], [0, 0, 1, 3])
    actual = tree_advantage(*arguments, length=4, local=0.0)
    expected = double([[1 / 3, 1.0, 1.0, 1.0], [-1.0] * 4, [1 / 3, 0.0, 0.0, 1.0], [1 / 3, 0.0, 0.0, -1.0]])
    torch.testing.assert_close(actual, expected)
    # The local term is linear in its weight.
    once, thrice = (tree_advantage(*arguments, length=4, local=weight) for weight in (1.0, 3.0))
    torch.testing.assert_close(thrice - actual, 3 * (once - actual))


def test_without_branches_it_is_the_normalised_reward():
    actual = tree_advantage(torch.tensor([3.0, 1.0]), [None, None], [0, 0], length=2, local=0.0)
    torch.testing.assert_close(actual, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))


@pytest.mark.parametrize("reward", [0.0, 0.1, 7.3])
def test_equal_rewards_give_exactly_0(reward):
    actual = tree_advantage(torch.full((7,), reward), [None, 0, 0, 1, None, 4, 5], [0, 1, 2, 3, 0, 2, 2], length=4)
    assert actual.shape == (7, 4)
    assert not actual.any()


def test_eps_bounds_the_population_deviation_and_is_inclusive():
    # Of 1 and 0 it is 1/2; the sample's would be 0.71.
    for eps, size in ((0.5, 0.0), (0.6, 0.0), (0.4, 2.0)):
        advantages = tree_advantage(torch.tensor([1.0, 0.0]), [None, None], [0, 0], length=1, eps=eps)
        assert advantages.tolist() == [[size], [-size]]


def test_no_rollouts_and_no_tokens_are_no_special_case():
    assert tree_advantage(torch.zeros(0), [], [], length=3).shape == (0, 3)
    assert tree_advantage(torch.tensor([1.0, 0.0]), [None, 0], [0, 0], length=0).shape == (2, 0)


def test_dtype_is_that_of_the_rewards_and_nothing_is_differentiated():
    for dtype in (torch.float32, torch.float64):
        rewards = torch.tensor([1.0, 0.0], dtype=dtype, requires_grad=True)
        actual = tree_advantage(rewards, [None, 0], [0, 1], length=2)
        assert actual.dtype == dtype
        assert not actual.requires_grad


def test_an_unscored_rollout_enters_no_mean_and_lends_its_scored_tokens():
    # Mean of 1, 1, 0 is 2/3, std sqrt(2)/3. Rollout 1 was not scored, branch 2 of it was: the first token of both has
    # V = 1, and nothing is known of the second token of 1.
    actual = tree_advantage(double([1.0, NAN, 1.0, 0.0]), [None, None, 1, None], [0, 0, 1, 0], length=2)
    good, bad = 2 / 3, -4 / 3
    # After its branching, rollout 2 is compared with the node, which has its own value.
    expected = double([[good, good], [good, 0.0], [good, 1 / 3], [bad, bad]]) * 3 / math.sqrt(2)
    torch.testing.assert_close(actual, expected)
    assert not tree_advantage(double([NAN, NAN]), [None, 0], [0, 1], length=2).any()


def literal(rewards, parents, positions, length, local):
    """The docstring's definition; tokens are written out, so that equal tokens are the same token."""
    texts = []
    for index, (parent, position) in enumerate(zip(parents, positions, strict=True)):
        shared = [] if parent is None else texts[parent][:position]
        texts.append(shared + [(index, t) for t in range(len(shared), length)])

    def value(text, t):
        return statistics.fmean(r for r, other in zip(rewards, texts, strict=True) if other[t] == text[t])

    def holders(text, t):
        return {index for index, other in enumerate(texts) if other[t] == text[t]}

    mean, std = statistics.fmean(rewards), statistics.pstdev(rewards)
    result = []
    for text in texts:
        row = []
        for t in range(length):
            cuts = [p for p in range(1, t + 1) if holders(text, p) != holders(text, p - 1)]
            node = value(text, cuts[-1] - 1) if cuts else mean
            row.append((value(text, t) - mean + local * (value(text, t) - node)) / std)
        result.append(row)
    return double(result).reshape(len(texts), length)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(2, 7),
    length=st.integers(1, 7),
    local=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_random_trees_as_defined(seed, count, length, local):
    generator = torch.Generator().manual_seed(seed)
    parents, positions = [], []
    for index in range(count):
        parent = int(torch.randint(-1, index, (1,), generator=generator)) if index else -1
        parents.append(None if parent < 0 else parent)
        positions.append(0 if parent < 0 else int(torch.randint(0, length + 1, (1,), generator=generator)))
    rewards = torch.randn(count, generator=generator, dtype=torch.float64)
    actual = tree_advantage(rewards, parents, positions, length=length, local=local)
    torch.testing.assert_close(actual, literal(rewards.tolist(), parents, positions, length, local))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"parent_R": [None]}, "rewards_R has 2 rollouts, but parent_R 1, position_R 2."),
        ({"position_R": [0, 1, 1]}, "rewards_R has 2 rollouts, but parent_R 2, position_R 3."),
        (
            {"rewards_R": torch.tensor([math.inf, NAN])},
            r"^rewards_R holds an infinite reward; rewards are finite, or NaN where there is none\.$",
        ),
        ({"parent_R": [None, 1]}, r"parent_R\[1\] must be a rollout before it, got 1."),
        ({"parent_R": [1, None]}, r"parent_R\[0\] must be a rollout before it, got 1."),
        ({"parent_R": [None, -1]}, r"parent_R\[1\] must be a rollout before it, got -1."),
        ({"length": -1}, "length must be at least 0, got -1."),
    ],
)
def test_bad_input_is_named(arguments, sentence):
    valid = {"rewards_R": torch.tensor([1.0, 0.0]), "parent_R": [None, 0], "position_R": [0, 1], "length": 2}
    with pytest.raises(ValueError, match=sentence):
        tree_advantage(**{**valid, **arguments})
