"""records.jsonl survives kills and restarts."""

import math

import pytest
import torch

from appo.rollout.records import append_records, read_records, rollout_records, start_records
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout, ToolCall


def make_tree():
    """A rollout of two policy tokens, a result of one, and a policy token; a branch of it behind the result."""
    rollout = Rollout([1], "?", reward=1234567.891, rewards={"f": 0.123456789, "g": math.nan})
    rollout.append([5, 6], [-0.123456789, -2.0])
    rollout.append([7], None)
    rollout.append([8], [-3.0])
    rollout.tool_calls = [ToolCall("add", {"a": 1234567.891, "b": [0.123456789]}, 0, 2, "r", None, 2, 3, seconds=1.5)]
    tree = RolloutTree({}, "0")
    tree.add_initial(rollout)
    branch = rollout.prefix(3)
    branch.append([9], [-0.987654321])
    tree.add_branch(branch, 0, 3)
    return tree


def test_nan_becomes_null_and_nothing_is_rounded(tmp_path):
    path = tmp_path / "records.jsonl"
    append_records(path, [{"step": 1, "x": [math.nan, 1234567.891], "y": {"z": math.inf, "score": 0.123456789}}])
    assert list(read_records(path)) == [{"step": 1, "x": [None, 1234567.891], "y": {"z": None, "score": 0.123456789}}]


def test_rewards_and_arguments_are_written_as_they_are(tmp_path):
    append_records(tmp_path / "records.jsonl", rollout_records([make_tree()], {}, 3))
    record = next(read_records(tmp_path / "records.jsonl"))
    assert (record["reward"], record["rewards"]) == (1234567.891, {"f": 0.123456789, "g": None})
    assert record["tool_calls"][0]["arguments"] == {"a": 1234567.891, "b": [0.123456789]}
    assert "seconds" not in record["tool_calls"][0]
    assert (record["step"], record["task"], record["rollout"], record["prompt"]) == (3, "0", 0, "?")


def test_scores_are_short_and_those_of_results_are_null():
    omega_BT = torch.tensor([[0.123456789, 1.0, 5.0, 1.5, 9.0]])  # one column of padding
    initial, branch = rollout_records([make_tree()], {"omega": omega_BT}, 1)
    assert initial["omega"] == [0.12346, 1.0, None, 1.5]
    assert "logprobs" not in initial
    assert branch["logprobs"] == [-0.12346, -2.0, None, -0.98765]
    assert "omega" not in branch


def test_a_trained_branch_has_scores_too():
    first, second = rollout_records([make_tree()], {"omega": torch.arange(8.0).view(2, 4)}, 1, "all")
    assert (first["omega"], second["omega"]) == ([0.0, 1.0, None, 3.0], [4.0, 5.0, None, 7.0])


def test_a_line_cut_off_by_a_kill_is_skipped_and_a_broken_one_named(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"step": 1}\n{"ste')
    assert list(read_records(path)) == [{"step": 1}]
    path.write_text('{"step": 1}\nbroken\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        list(read_records(path))


def test_a_resumed_run_drops_the_steps_it_will_do_again(tmp_path):
    path = tmp_path / "records.jsonl"
    append_records(path, [{"step": step} for step in (1, 1, 2, 3)])
    start_records(path, 2)
    assert [record["step"] for record in read_records(path)] == [1, 1, 2]


def test_a_new_run_moves_old_records_away(tmp_path):
    path = tmp_path / "records.jsonl"
    for step in (1, 2):
        append_records(path, [{"step": step}])
        start_records(path, 0)
    assert not path.exists()
    assert [next(read_records(tmp_path / f"records.{n}.jsonl"))["step"] for n in (1, 2)] == [1, 2]
