"""ARPO's equations against hand-computed numbers and, for shared tokens, brute force."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from appo.methods.arpo import arpo_branch_probability, shared_prefix_advantage, turn_entropy

NAN = math.nan


def double(values):
    return torch.tensor(values, dtype=torch.float64)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_no_gradient_flows(dtype):
    one_R, index_R = torch.rand(3, dtype=dtype, requires_grad=True), torch.zeros(3, dtype=torch.int32)
    result = shared_prefix_advantage(one_R, index_R - 1, index_R, length=2)
    assert result.dtype == dtype
    assert not result.requires_grad
    assert isinstance(turn_entropy(one_R, 0, 3), float)
