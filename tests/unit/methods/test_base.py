"""What every method has: its credit in factors, the tokens that carry loss, and what it wants measured."""

import math
from dataclasses import fields

import pytest
import torch
from method_parts import Settings, add_branch, make_method, make_scores, make_tree, rollout_of, tree_with_turns

from appo.errors import UserError
from appo.methods import METHODS, Credit, Method, MethodOptions, Needs, TreeOptions, options_of
from appo.methods.base import check_tree_size


class Numbers(Method):
    """Its base is the row's number."""

    def base_advantages(self, trees, scores):
        return torch.arange(1.0, 1 + sum(scores.sizes))[:, None].expand(-1, scores.length)


def numbers(options=None, **settings):
    return Numbers(MethodOptions(**(options or {})), Settings(**settings))


def test_an_advantage_is_the_product_of_the_base_and_all_factors():
    base_BT = torch.tensor([[1.0, -2.0]])
    factors = {"one": torch.tensor([[0.5, 0.5]]), "two": torch.tensor([[4.0, 3.0]])}
    credit = Credit(base_BT, factors, torch.ones(1, 2))
    assert credit.advantages_BT.tolist() == [[2.0, -3.0]]
    assert Credit(base_BT, {}, torch.ones(1, 2)).advantages_BT.tolist() == [[1.0, -2.0]]
    assert base_BT.tolist() == [[1.0, -2.0]]


def test_a_plain_method_gives_its_base_alone():
    trees = [make_tree([1.0, 0.0]), make_tree([1.0])]
    credit = numbers().credit(trees, make_scores(trees))
    assert credit.advantages_BT.tolist() == [[1.0] * 4, [2.0] * 4, [3.0] * 4]
    assert (credit.factors, credit.measured, credit.old_logps_BT) == ({}, {}, None)


def test_a_fork_weight_multiplies_the_base():
    # H = 1 and log sum p^2 = -1 + e/9: the gap e/9 times 4.5 e^-1 is 1/2. With a floor of 0.2: 0.2 + 0.8/2.
    # An even distribution has no gap, and a weight of the floor.
    trees = [make_tree([1.0])]
    collisions = [[-1 + math.e / 9, -1.0, -1 + math.e / 9, -1.0]]
    scores = make_scores(trees, entropies=1.0, collisions=collisions)
    method = numbers({"token_weight": "fork", "weight_floor": 0.2})
    credit = method.credit(trees, scores)
    assert list(credit.factors) == ["token_weight"]
    torch.testing.assert_close(credit.factors["token_weight"], torch.tensor([[0.6, 0.2, 0.6, 0.2]]))
    torch.testing.assert_close(credit.advantages_BT, torch.tensor([[0.6, 0.2, 0.6, 0.2]]))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_measures_what_its_token_weights_need_and_no_more(name):
    settings = {"num_generations": 16, "loss_type": "dapo"}
    # Where appo_rescue branches by fork weight it needs them for that.
    options = {"start": "random"} if name == "appo_rescue" else None
    assert not make_method(name, options, **settings).needs.collisions
    assert make_method(name, {"token_weight": "fork"}, **settings).needs.collisions


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_options_say_what_they_are(name):
    for option in fields(options_of(name)):
        assert option.metadata["help"], option.name


def test_what_a_plain_method_needs():
    assert vars(numbers().needs) == {
        "trains": "initial",
        "current_scores": False,
        "collisions": False,
        "shared_tokens": False,
        "skips_idle": False,
        "one_process": False,
        "decisions": False,
        "judge": False,
    }
    assert numbers(num_generations=6).num_initial == 6


# ---- which tokens carry loss ----

POLICY_MASK = torch.tensor([[1, 1, 0, 1], [1, 1, 0, 1]])


class OfAll(Numbers):
    shared = False

    @property
    def needs(self):
        return Needs(trains="all", shared_tokens=self.shared)


class OfAllAndTheirPrefixes(OfAll):
    shared = True


def mask_of_a_branch(kind=OfAll, mask=POLICY_MASK, **settings):
    """The loss mask of a rollout, and of its truncated branch from token 1."""
    tree = tree_with_turns(rollout_of(4))
    tree.initial[0].finish_reason = "stop"
    add_branch(tree, 0, 1, length=3).finish_reason = "length"
    return kind(MethodOptions(), Settings(**settings)).loss_mask([tree], mask).tolist()


def test_loss_is_on_the_policys_tokens_and_on_shared_ones_once():
    assert mask_of_a_branch() == [[1, 1, 0, 1], [0, 1, 0, 1]]
    assert mask_of_a_branch(OfAllAndTheirPrefixes) == POLICY_MASK.tolist()


def test_only_rollouts_that_carry_loss_have_a_row_in_the_mask():
    assert mask_of_a_branch(Numbers, POLICY_MASK[:1]) == [[1, 1, 0, 1]]


def test_a_truncated_rollout_may_be_left_out_of_the_loss():
    assert mask_of_a_branch(mask_truncated_completions=True) == [[1, 1, 0, 1], [0, 0, 0, 0]]
    left_out = mask_of_a_branch(OfAllAndTheirPrefixes, mask_truncated_completions=True)
    assert left_out == [[1, 1, 0, 1], [0, 0, 0, 0]]


def test_the_policys_mask_is_not_written_to():
    before = POLICY_MASK.clone()
    mask_of_a_branch(mask_truncated_completions=True)
    assert torch.equal(POLICY_MASK, before)


def test_the_credits_mask_is_that_of_the_loss():
    trees = [make_tree([1.0], [(0, 2, 0.0)])]
    method = OfAll(MethodOptions(), Settings())
    credit = method.credit(trees, make_scores(trees, "all"))
    assert credit.loss_mask_BT.tolist() == [[1, 1, 1, 1], [0, 0, 1, 0]]


# ---- options ----


def test_initial_rollouts_and_their_branches_are_the_tasks_rollouts():
    options = TreeOptions(num_initial_rollouts=2, num_branch_points=3)
    check_tree_size(options, Settings(num_generations=8))
    with pytest.raises(
        UserError, match=r"must equal num_generations, got 2 \* \(3 \+ 1\) = 8 and num_generations = 9"
    ):
        check_tree_size(options, Settings(num_generations=9))


@pytest.mark.parametrize("options", [{"weight_floor": 0.0}, {"weight_floor": 1.0}, {"num_branch_points": 0}])
def test_the_ends_of_a_range_are_allowed(options):
    TreeOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_weight": "entropy"}, "token_weight must be one of uniform, fork, got 'entropy'"),
        ({"weight_floor": 1.5}, r"weight_floor must lie in \[0, 1\], got 1.5"),
        ({"weight_floor": -0.1}, "weight_floor must be a number of at least 0, got -0.1"),
        ({"weight_floor": math.nan}, "weight_floor must be a number of at least 0, got nan"),
        ({"num_initial_rollouts": 0}, "num_initial_rollouts must be a number of at least 1, got 0"),
        ({"num_branch_points": -1}, "num_branch_points must be a number of at least 0, got -1"),
    ],
)
def test_options_outside_their_range_are_named(options, message):
    with pytest.raises(UserError, match=message):
        TreeOptions(**options)


class Returning(Method):
    """Its advantages are whatever stands in `values`."""

    values: object = None

    def base_advantages(self, trees, scores):
        return self.values


def returning(change):
    """The credit of two rollouts, where `change` makes the advantages of right ones."""
    method, trees = Returning(MethodOptions(), Settings()), [make_tree([1.0, 0.0])]
    scores = make_scores(trees)
    method.values = change(torch.zeros(2, scores.length))
    return method.credit(trees, scores)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda right: right[:, 0], r"shape \(2,\)"),
        (lambda right: right[:, :1], r"shape \(2, 1\)"),
        (lambda right: right.T, r"shape \(4, 2\)"),
        (lambda right: right.tolist(), "list"),
        (lambda right: None, "NoneType"),
    ],
)
def test_advantages_of_another_shape_are_one_sentence_that_names_the_method(change, found):
    sentence = rf"method Returning: base_advantages returned {found}; return a tensor of shape \(2, 4\)"
    with pytest.raises(UserError, match=sentence):
        returning(change)


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_number_that_is_none_is_refused_where_there_is_loss(bad):
    def change(right):
        right[1, 0] = float(bad)
        return right

    with pytest.raises(UserError, match=f"method Returning: base_advantages is {bad} at token 0 of rollout 1"):
        returning(change)


def test_a_number_that_is_none_counts_as_zero_where_there_is_no_loss():
    method, tree = Returning(MethodOptions(), Settings()), make_tree([1.0, 0.0])
    tree.initial[0].policy_mask[1] = 0  # a tool's token
    method.values = torch.tensor([[1.0, math.nan, 1.0, 1.0], [2.0] * 4])
    credit = method.credit([tree], make_scores([tree]))
    assert credit.advantages_BT.tolist() == [[1.0, 0.0, 1.0, 1.0], [2.0] * 4]
