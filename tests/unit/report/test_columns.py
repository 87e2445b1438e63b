"""Records as arrays: whole trees, whatever groups and files they lie in, and what each token is part of."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from report_parts import call, parts_of_run, record, write_run

from appo.errors import UserError
from appo.files import append_lines
from appo.report.html.columns import ANSWER, CALLED, RESULT, THOUGHT, parts_of


def test_what_is_per_token_stands_flat_and_missing_numbers_are_nan(tmp_path):
    records = [
        record(0, base=0.5, length=2, entropies=[0.25, None], policy_mask=[1, 0]),
        record(1, parent=0, position=1, length=3),
    ]
    (part,) = parts_of_run(write_run(tmp_path, records))
    assert part.ids_P.tolist() == [10, 11, 10, 11, 12]
    assert part.policy_P.tolist() == [True, False, True, True, True]
    assert part.rows_P.tolist() == [0, 0, 1, 1, 1]
    assert part.credited_R.tolist() == [True, False]
    assert part.loss_P.tolist() == [True, False, False, False, False]
    np.testing.assert_equal(part.tokens["entropies"], np.float32([0.25, np.nan, np.nan, np.nan, np.nan]))
    np.testing.assert_equal(part.factors["base"], np.float32([0.5, np.nan, np.nan, np.nan, np.nan]))


def test_a_tree_that_lies_in_two_groups_of_a_file_comes_as_one(tmp_path):
    trees = [[record(n, task=str(task)) for n in range(3)] for task in range(4)]
    run = write_run(tmp_path, [one for tree in trees for one in tree])
    file = run / "records" / "000001.parquet"
    pq.write_table(pq.read_table(file), file, row_group_size=4)
    parts = parts_of_run(run)
    assert [rollout for part in parts for rollout in part.values("rollout")] == [0, 1, 2] * 4
    assert all(part.values("rollout")[0] == 0 for part in parts)
    assert len(parts) > 1


def test_some_rollouts_can_be_selected(tmp_path):
    (part,) = parts_of_run(write_run(tmp_path, [record(n, base=float(n), length=n + 1) for n in range(3)]))
    kept = part.select(np.array([True, False, True]))
    assert kept.values("rollout") == [0, 2]
    assert kept.ids_P.tolist() == [10, 10, 11, 12]
    assert kept.factors["base"].tolist() == [0.0, 2.0, 2.0, 2.0]


def test_lines_of_an_older_run_come_in_the_same_form(tmp_path):
    lines = [
        {"step": 1, "task": "0", "rollout": 0, "parent": None, "completion_ids": [5, 6], "reward": 1.0,
         "policy_mask": [1, 1], "entropies": [0.5, 0.25], "a_note": "of then",
         "tool_calls": [{"name": "f", "arguments": "x", "start": 0, "end": 1, "seconds": 0.5, "then": "unknown"}]},
        {"step": 1, "task": 0, "rollout": 1, "parent": 0, "branch_position": 1, "completion_ids": [5, 7]},
    ]  # fmt: skip
    append_lines(tmp_path / "records.jsonl", lines)
    (part,) = parts_of_run(tmp_path)
    assert part.values("kind") == ["train", "train"]
    assert part.values("tool_calls")[0][0]["name"] == "f"
    assert part.values("call_seconds") == [[0.5], []]
    assert part.policy_P.tolist() == [True] * 4
    assert part.tokens["entropies"][:2].tolist() == [0.5, 0.25]
    assert parts_of_run(tmp_path, "evaluation") == []


def test_lines_that_are_no_records_are_told_in_one_sentence(tmp_path):
    (tmp_path / "other").mkdir()
    append_lines(tmp_path / "records.jsonl", [{"loss": 1.0}])
    with pytest.raises(UserError, match="without completion_ids"):
        parts_of_run(tmp_path)
    append_lines(tmp_path / "other" / "records.jsonl", [{"completion_ids": [1], "reward": "much"}])
    with pytest.raises(UserError, match="no record of a run"):
        parts_of_run(tmp_path / "other")


def parts(tmp_path, one, words, protocol="tags"):
    (part,) = parts_of_run(write_run(tmp_path, [one]))
    return parts_of(part, {10 + n: word for n, word in enumerate(words)}, protocol).tolist()


def test_a_completion_falls_into_thoughts_calls_results_and_the_answer(tmp_path):
    one = record(length=9, policy_mask=[1, 1, 1, 0, 1, 1, 1, 1, 1], tool_calls=[call(1, 3, 4)])
    words = ["hm", " <f>", " x", " r", " well", " <ans", "wer>", " 7", " </answer>"]
    assert parts(tmp_path, one, words) == [THOUGHT, CALLED, CALLED, RESULT, THOUGHT, *[ANSWER] * 4]


def test_without_the_tag_a_template_answers_behind_its_last_thought(tmp_path):
    one = record(length=6, policy_mask=[1, 0, 1, 1, 1, 1], tool_calls=[call(0, 1, 2)])
    words = ["f()", "r", "<think>", "so", "</think>", "7"]
    assert parts(tmp_path, one, words, "chat_template") == [CALLED, RESULT, THOUGHT, THOUGHT, THOUGHT, ANSWER]
    assert parts(tmp_path / "2", one, words, "tags") == [CALLED, RESULT, *[THOUGHT] * 4]


def test_without_texts_there_is_no_answer_and_a_call_beyond_the_end_is_cut(tmp_path):
    one = record(length=3, tool_calls=[call(2, 9, -1, result_start=-1)])
    assert parts(tmp_path, one, []) == [THOUGHT, THOUGHT, CALLED]
