"""GRPO: rewards relative to those of the task, by hand."""

import torch
from method_parts import ScriptedWriter, make_method, make_scores, make_tree

from appo.algorithm import fork_weight
from appo.methods import Needs


def advantages(*trees, options=None):
    return make_method("grpo", options).credit(list(trees), make_scores(trees)).advantages_BT


def test_a_reward_is_compared_with_those_of_its_own_task():
    # 1, 0: mean and deviation 1/2. 0, 5, 5, 0: mean and deviation 5/2.
    found = advantages(make_tree([1.0, 0.0]), make_tree([0.0, 5.0, 5.0, 0.0]))
    expected = torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0, -1.0])
    torch.testing.assert_close(found, expected[:, None].expand(-1, 4))


def test_a_group_leaves_out_what_is_not_scored():
    # 1, 0, 0, 1 of five: mean 1/2, standard deviation 1/2.
    assert advantages(make_tree([1.0, 0.0, None, 0.0, 1.0]))[:, 0].tolist() == [1.0, -1.0, 0.0, -1.0, 1.0]


def test_a_task_without_spread_or_reward_gives_no_signal():
    assert not advantages(make_tree([0.1, 0.1]), make_tree([None]), make_tree([1.0])).any()


def test_fork_weights_are_those_of_the_policy_that_wrote():
    trees = [make_tree([1.0, 0.0])]
    scores = make_scores(trees, entropies=[[0.5, 1.0, 1.5, 2.0]], collisions=[[-0.4, -0.8, -1.0, -1.9]])
    scores.current = make_scores(trees, entropies=9.0, collisions=-9.0).behaviour
    method = make_method("grpo", {"token_weight": "fork", "weight_floor": 0.25})
    credit = method.credit(trees, scores)
    weight = fork_weight(torch.tensor([[0.5, 1.0, 1.5, 2.0]]), torch.tensor([[-0.4, -0.8, -1.0, -1.9]]), floor=0.25)
    assert weight.max() - weight.min() > 0.1
    torch.testing.assert_close(credit.advantages_BT, torch.tensor([[1.0], [-1.0]]) * weight)


def test_it_writes_all_rollouts_at_once_and_measures_nothing():
    method, writer, trees = make_method("grpo", num_generations=6), ScriptedWriter(), [make_tree([1.0, 0.0])]
    assert method.num_initial == 6
    assert method.needs == Needs()
    assert method.expand(trees, writer) is trees
    method.branch(trees, make_scores(trees), writer)
    assert writer.asked == []
