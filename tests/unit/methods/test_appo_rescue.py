"""Branches of failed rollouts, by hand: where they start, and what carries which advantage."""

import pytest
import torch
from method_parts import ScriptedWriter, make_method, make_scores, make_tree


def rescue(rewards, start, **options):
    size = len(rewards)
    options.update(num_initial_rollouts=size, start=start)
    method = make_method("appo_rescue", options, num_generations=2 * size)
    tree, writer = make_tree(rewards, length=8), ScriptedWriter()
    return method, tree, writer


def places(start):
    method, tree, writer = rescue([0.0] * 40, start)
    method.expand([tree], writer)
    assert sorted(rollout for rollout, _ in writer.points) == list(range(40))
    return {position for _, position in writer.points}


def test_starts_are_any_token_one_of_the_second_half_or_the_first():
    assert places("random") == set(range(8))
    assert places("late") == {4, 5, 6, 7}
    assert places("root") == {0}


def test_entropy_starts_are_the_eight_tokens_with_the_most():
    method, tree, writer = rescue([0.0] * 40, "entropy")
    for rollout in tree.initial:
        rollout.append([9] * 4, [-1.0] * 4)
    writer.entropy = lambda rollout: [float(i) for i in range(12)]
    method.expand([tree], writer)
    assert {position for _, position in writer.points} == set(range(4, 12))


def test_fork_starts_are_where_a_favourite_was_doubted():
    method, tree, writer = rescue([0.0] * 40, "fork")
    for rollout in tree.initial:
        rollout.append([9] * 4, [-1.0] * 4)
    plain = writer.score

    def score(rollouts, **others):
        # Entropy 1 everywhere; where the collision entropy is 1, too, no token was favoured.
        batch, scores = plain(rollouts, **others)
        doubted_T = torch.arange(12) < 8
        scores.log_sum_sq_probs_BT = torch.where(doubted_T, -0.5, -1.0).expand(len(rollouts), 12)
        return batch, scores

    writer.entropy, writer.score = (lambda rollout: 1.0), score
    method.expand([tree], writer)
    assert {position for _, position in writer.points} == set(range(8))


def test_few_failures_get_four_branches_at_most():
    method, tree, writer = rescue([0.0] + [1.0] * 9, "root")
    method.expand([tree], writer)
    assert writer.points == [(0, 0)] * 4


def test_nothing_is_branched_where_all_succeed():
    method, tree, writer = rescue([1.0, 1.0], "random")
    method.expand([tree], writer)
    assert writer.points == [] and len(tree.rollouts) == 2


def test_a_prefix_that_successful_branches_share_is_trained_once():
    method, *_ = rescue([0.0, 1.0], "random", contrast=0.0)
    tree = make_tree([0.0, 1.0], [(0, 1, 1.0), (0, 3, 1.0), (0, 2, 0.0), (0, 2, 1.0)])
    advantages = method.base_advantages([tree], make_scores([tree], "all"))
    assert advantages.tolist() == [
        [0, 0, 0, 0],
        [1, 1, 1, 1],
        [1, 1, 1, 1],  # its prefix of one token is trained here
        [0, 1, 1, 1],  # .. and two more of the parent's tokens here
        [0, 0, 0, 0],
        [0, 0, 1, 1],
    ]


def test_the_contrast_is_at_the_token_in_whose_place_a_branch_succeeded():
    method, *_ = rescue([0.0, 0.0], "random", contrast=0.5)
    tree = make_tree([0.0, 0.0], [(0, 1, 1.0), (1, 2, 0.0)])
    advantages = method.base_advantages([tree], make_scores([tree], "all"))
    assert advantages[:2].tolist() == [[0, -0.5, 0, 0], [0, 0, 0, 0]]


def credited(tree, **options):
    method, *_ = rescue([0.0], "random", **options)
    return method.base_advantages([tree], make_scores([tree], "all")).tolist()


def test_a_token_with_which_a_branch_further_on_succeeded_bears_no_contrast():
    # The branch from 2 trains the parent's tokens 0 and 1, so that nothing speaks against token 1 but all against 2.
    assert credited(make_tree([0.0], [(0, 2, 1.0), (0, 1, 1.0)])) == [[0, 0, -1, 0], [1, 1, 1, 1], [0, 1, 1, 1]]
    # In the other order the one from 1 brings token 0, and the one from 2 token 1.
    assert credited(make_tree([0.0], [(0, 1, 1.0), (0, 2, 1.0)])) == [[0, 0, -1, 0], [1, 1, 1, 1], [0, 1, 1, 1]]


def test_the_longest_prefix_counts_in_whatever_order_branches_succeed():
    tree = make_tree([0.0], [(0, 3, 1.0), (0, 1, 1.0), (0, 2, 1.0)])
    assert credited(tree, contrast=0.0)[1:] == [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]]


def test_a_branch_that_drew_its_parents_token_again_gives_no_contrast():
    tree = make_tree([0.0], [(0, 1, 1.0)])
    tree.branches[0].completion_ids[1] = tree.initial[0].completion_ids[1]
    assert credited(tree)[0] == [0, 0, 0, 0]


def test_nothing_branches_from_what_was_not_scored():
    method, tree, writer = rescue([None, 0.0], "random")
    method.expand([tree], writer)
    assert {rollout for rollout, _ in writer.points} == {1}


@pytest.mark.parametrize(("options", "generations"), [({}, 1), ({"num_initial_rollouts": 2}, 2)])
def test_failures_are_not_scored_where_no_branch_may_be_written(options, generations):
    method = make_method("appo_rescue", options, num_generations=generations)
    tree, writer = make_tree([0.0] * method.num_initial), ScriptedWriter()
    method.expand([tree], writer)
    assert writer.points == [] and writer.calls("score") == []
