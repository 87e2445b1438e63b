"""What an update decided, as records; through a file, as readers get them."""

import math

import pytest
import torch

from appo.rollout.records import RecordWriter, read_records
from appo.rollout.rollout_records import rollout_records
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout, ToolCall


def make_tree():
    """A rollout of two policy tokens, a result of one, and a policy token; a branch of it behind the result."""
    rollout = Rollout([1], "?", reward=1234567.891, rewards={"f": 0.123456789, "g": math.nan})
    rollout.append([5, 6], [-0.123456789, -2.0])
    rollout.append([7], None)
    rollout.append([8], [-3.0])
    rollout.tool_calls = [ToolCall("add", {"a": 1234567.891, "b": [0.123456789]}, 0, 2, "r", None, 2, 3, seconds=1.5)]
    tree = RolloutTree({"answer": "four"}, "0")
    tree.add_initial(rollout)
    branch = rollout.prefix(3)
    branch.append([9], [-0.987654321])
    tree.add_branch(branch, 0, 3)
    return tree


def through_a_file(tmp_path, *args, **kwargs):
    RecordWriter(tmp_path).append(1, rollout_records(*args, **kwargs))
    return list(read_records(tmp_path))


def near(*values):
    return [None if value is None else pytest.approx(value, rel=2e-5) for value in values]


def test_rewards_and_arguments_are_written_as_they_are(tmp_path):
    record, _ = through_a_file(tmp_path, [make_tree()], {}, 3)
    assert (record["reward"], record["rewards"]["f"]) == (1234567.891, 0.123456789)
    assert math.isnan(record["rewards"]["g"])
    assert record["tool_calls"][0]["arguments"] == {"a": 1234567.891, "b": [0.123456789]}
    assert "seconds" not in record["tool_calls"][0]
    assert (record["kind"], record["step"], record["task"], record["rollout"]) == ("train", 3, "0", 0)
    assert (record["prompt"], record["row"]) == ("?", {"answer": "four"})


def test_tool_results_have_no_scores_and_an_untrained_branch_the_engines_alone(tmp_path):
    omega_BT = torch.tensor([[0.123456789, 1.0, 5.0, 1.5, 9.0]])  # one column of padding
    initial, branch = through_a_file(tmp_path, [make_tree()], {"omega": omega_BT}, 1)
    assert initial["omega"] == near(0.123456789, 1.0, None, 1.5)
    assert initial["logprobs"] is None
    assert branch["logprobs"] == near(-0.123456789, -2.0, None, -0.987654321)
    assert branch["omega"] is None


def test_an_evaluation_has_the_engines_log_probabilities(tmp_path):
    RecordWriter(tmp_path).append_evaluation(7, rollout_records([make_tree()], {}, 7))
    initial, branch = read_records(tmp_path, kind="evaluation")
    assert initial["logprobs"] == near(-0.123456789, -2.0, None, -3.0)
    assert branch["logprobs"] == near(-0.123456789, -2.0, None, -0.987654321)
    assert (initial["kind"], initial["step"]) == ("evaluation", 7)


def test_a_trained_branch_has_scores_too(tmp_path):
    first, second = through_a_file(tmp_path, [make_tree()], {"omega": torch.arange(8.0).view(2, 4)}, 1, "all")
    assert (first["omega"], second["omega"]) == ([0.0, 1.0, None, 3.0], [4.0, 5.0, None, 7.0])


def test_rows_go_to_the_rollouts_of_their_own_tree(tmp_path):
    trees = [make_tree(), make_tree()]
    records = through_a_file(tmp_path, trees, {"omega": torch.tensor([[1.0] * 4, [2.0] * 4])}, 1)
    assert [record["omega"] and record["omega"][0] for record in records] == [1.0, None, 2.0, None]


def test_factors_multiply_to_the_advantages(tmp_path):
    torch.manual_seed(0)
    factors = {
        "base": torch.tensor([[-1.5]]).expand(1, 4),
        "future_factor": torch.rand(1, 4) + 1,
        "token_weight": torch.rand(1, 4),
        "loss_mask": torch.tensor([[0, 1, 0, 1]]),
    }
    advantages_BT = factors["base"] * factors["future_factor"] * factors["token_weight"] * factors["loss_mask"]
    record, branch = through_a_file(tmp_path, [make_tree()], {"advantages": advantages_BT}, 1, factors=factors)
    assert list(record["factors"]) == list(factors)
    for token in (0, 1, 3):
        product = math.prod(values[token] for values in record["factors"].values())
        assert product == pytest.approx(record["advantages"][token], rel=1e-4)
    assert record["advantages"][0] == 0 != record["advantages"][1]
    assert branch["factors"] is None


def test_a_branch_knows_the_score_and_the_rank_that_chose_it(tmp_path):
    tree = make_tree()
    tree.branches[0].branch_score, tree.branches[0].branch_rank = 2.0, 3
    initial, branch = through_a_file(tmp_path, [tree], {"score": torch.tensor([[9.0, 4.0, 99.0, 2.0]])}, 1)
    assert (branch["branch_score"], branch["branch_rank"], branch["score"]) == (2.0, 3, None)
    assert (initial["branch_score"], initial["branch_rank"]) == (None, None)
    assert initial["score"] == near(9.0, 4.0, None, 2.0)


def test_a_branch_that_no_score_chose_has_none(tmp_path):
    _, branch = through_a_file(tmp_path, [make_tree()], {"omega": torch.ones(1, 4)}, 1)
    assert (branch["branch_score"], branch["branch_rank"]) == (None, None)


def test_means_and_spreads_are_of_the_scored_rollouts(tmp_path):
    """Initial rewards 1, 0 and none: mean 0.5, deviation 0.5; of the branches none is scored."""
    tree = RolloutTree({}, "0")
    for reward in (1.0, 0.0, None):
        rollout = Rollout([1], "?", reward=reward)
        rollout.append([5, 6], [-1.0, -1.0])
        tree.add_initial(rollout)
    tree.add_branch(Rollout([1], "?", [5, 6], [1, 1], [-1.0, -1.0]), 0, 1)
    for record in through_a_file(tmp_path, [tree], {}, 1):
        assert (record["initial_mean"], record["initial_std"]) == (0.5, 0.5)
        assert (record["branch_mean"], record["branch_std"]) == (None, None)


def test_decisions_and_alternatives_are_kept_where_they_are_known(tmp_path):
    tree = make_tree()
    tree.branches[0].alternatives = [[9, -0.5], [8, -1.5]]
    first, second = through_a_file(
        tmp_path, [tree], {}, 1, decisions=lambda rollout: [1] if rollout.parent is None else None
    )
    assert (first["decisions"], second["decisions"]) == ([1], None)
    assert (first["alternatives"], second["alternatives"]) == (None, [[9, -0.5], [8, -1.5]])
