"""RAFT++: what succeeds is learnt, in full, and nothing else."""

import torch
from method_parts import make_method, make_scores, make_tree

from appo.methods import Needs


def test_success_credits_what_succeeds_and_nothing_else():
    # Success is a total reward of 0.75 or more; an easy task, where all succeed, still teaches.
    trees = [make_tree([1.0, 0.7, None, 0.75], length=2), make_tree([1.0, 0.9], length=2)]
    credit = make_method("raft", success_reward=0.75).credit(trees, make_scores(trees))
    assert credit.advantages_BT.tolist() == [[1.0] * 2, [0.0] * 2, [0.0] * 2, [1.0] * 2, [1.0] * 2, [1.0] * 2]


def test_fork_weights_scale_what_succeeds():
    trees = [make_tree([1.0, 0.0])]
    method = make_method("raft", {"token_weight": "fork", "weight_floor": 0.5})
    credit = method.credit(trees, make_scores(trees, entropies=1.0, collisions=-1.0))  # no fork: the floor
    torch.testing.assert_close(credit.advantages_BT, torch.tensor([[0.5] * 4, [0.0] * 4]))


def test_rollouts_that_failed_may_be_left_out_of_the_forward():
    assert make_method("raft").needs == Needs(skips_idle=True)
