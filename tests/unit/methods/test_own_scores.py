"""Branching scores of one's own: where they count, that what chose is recorded, and what is said of wrong ones."""

import pytest
import torch
from method_parts import ScriptedWriter, make_method, make_scores, rollout_of, tree_with_turns

from appo.errors import UserError

LENGTH = 8


def scored_by(own_scores):
    """(the tree with its branches, scores in the records) of two rollouts, whose last two tokens are a tool's."""
    options = {"num_initial_rollouts": 2, "num_branch_points": 1}
    method = make_method("appo", options, num_generations=4)
    tree = tree_with_turns(rollout_of(LENGTH), rollout_of(LENGTH))
    for rollout in tree.initial:
        rollout.policy_mask = [1] * (LENGTH - 2) + [0, 0]
    method.branching_scores = own_scores
    scores = make_scores([tree])
    method.branch([tree], scores, ScriptedWriter())
    return tree, method.credit([tree], scores).measured["score"]


def test_scores_where_the_policy_wrote_nothing_choose_and_rank_nothing():
    tree, score = scored_by(lambda tree, omega, entropy, mask, generator: torch.arange(LENGTH).float().repeat(2, 1))
    assert [(branch.branch_position, branch.branch_rank) for branch in tree.branches] == [(LENGTH - 3, 1)] * 2
    assert score[:, LENGTH - 2 :].isnan().all()


def test_a_score_may_look_at_the_tokens_of_its_task():
    seen = []
    tree, _ = scored_by(lambda tree, omega, *rest: (seen.append(tree), omega)[1])
    assert seen == [tree]


def test_the_score_in_the_records_is_the_one_that_chose():
    drawn = []

    def draw(tree, omega, entropy, mask, generator):
        drawn.append(torch.rand(mask.shape, generator=generator))
        return drawn[-1]

    tree, score = scored_by(draw)
    assert len(drawn) == 1
    for branch in tree.branches:
        assert branch.branch_score == score[branch.parent, branch.branch_position].item()


def test_a_task_whose_scores_are_nan_is_told_to_get_no_branch():
    with pytest.warns(UserWarning, match="method APPO: a task gets no branch: its branching_scores are NaN"):
        tree, _ = scored_by(lambda tree, omega, entropy, mask, generator: torch.full(mask.shape, torch.nan))
    assert tree.branches == []


@pytest.mark.parametrize("values", [torch.zeros(2), torch.zeros(2, LENGTH - 1), None])
def test_scores_of_another_shape_are_one_sentence(values):
    with pytest.raises(UserError, match=r"method APPO: branching_scores returned .*; return a tensor of shape"):
        scored_by(lambda *_: values)
