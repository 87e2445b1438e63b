"""The map of several studies, by hand."""

import json

import pytest

from appo.research.gains import _main, gains, markdown


def run(testbed, arm, seed, *successes, cold_start=0, tokens=100, phase="test"):
    points = [{"generated_tokens": i * tokens, "success": success} for i, success in enumerate(successes)]
    names = {"testbed": testbed, "arm": arm, "phase": phase, "cold_start": cold_start, "seed": seed}
    return {**names, "learning_rate": 1e-3, "points": points}


RUNS = [
    run("h2", "raft", 0, 0.25, 0.5),
    run("h2", "raft", 1, 0.25, 0.75),
    run("h2", "known", 0, 0.25, 0.75),
    run("h2", "known", 1, 0.25, 0.75),
    run("h2", "known", 2, 0.25, 1.0),  # no partner
    run("h2", "raft", 0, 0.25, 1.0, phase="validation"),
    run("h8", "raft", 0, 0.125, 0.25),
]


def test_a_gain_is_the_mean_difference_of_pairs_in_points():
    (row,) = gains(RUNS, "raft")
    assert (row.testbed, row.arm, row.before, row.over, row.pairs, row.tokens) == ("h2", "known", 0.25, 0.625, 2, 100)
    assert row.points.mean == 12.5


def test_runs_are_compared_where_all_of_a_testbed_have_arrived():
    longer = [run("h2", "raft", 0, 0.0, 0.5, tokens=200), run("h2", "known", 0, 0.0, 0.5)]
    (row,) = gains(longer, "raft")
    assert (row.tokens, row.over, row.points.mean) == (100, 0.25, 25.0)


def test_the_table_has_a_row_per_testbed_and_a_column_per_arm():
    assert markdown(gains(RUNS, "raft"), "raft").splitlines() == [
        "| testbed | cold start | raft | known | tokens |",
        "| --- | --- | --- | --- | --- |",
        "| h2 | 25% | 62% | +12.5 [+0.0, +25.0] (2) | 100 |",
    ]


def test_one_pair_has_no_interval_and_arms_with_other_pairs_have_their_own_means():
    runs = [
        run("h2", "raft", 0, 0.25, 0.5),
        run("h2", "raft", 0, 0.75, 0.875, cold_start=1),
        run("h2", "one", 0, 0.25, 0.625),
        run("h2", "other", 0, 0.75, 0.75, cold_start=1),
        run("h4", "raft", 0, 0.25, 0.5),
        run("h4", "other", 0, 0.25, 0.75),
    ]
    assert markdown(gains(runs, "raft"), "raft").splitlines()[2:] == [
        "| h2 | 25% / 75% | 50% / 88% | +12.5 (1) | -12.5 (1) | 100 |",
        "| h4 | 25% | 50% |  | +25.0 (1) | 100 |",
    ]


def test_the_picture_and_the_table_are_written(tmp_path, capsys):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in RUNS))
    _main([str(tmp_path / "study"), "--over", "raft", "--output", str(tmp_path / "images" / "map.png")])
    assert (tmp_path / "images" / "map.png").stat().st_size > 1000
    assert (tmp_path / "images" / "map.md").read_text() in capsys.readouterr().out


def test_an_arm_without_partners_is_said(tmp_path):
    (tmp_path / "runs.jsonl").write_text(json.dumps(RUNS[0]) + "\n")
    with pytest.raises(SystemExit, match="no test run of raft has a partner"):
        _main([str(tmp_path), "--over", "raft", "--output", str(tmp_path / "map.png")])


def test_a_testbed_that_two_studies_name_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in RUNS))
    with pytest.raises(SystemExit, match=r"testbed h2 is in .*a and in .*b: rename it in one of the studies"):
        _main([str(tmp_path / "a"), str(tmp_path / "b"), "--over", "raft", "--output", str(tmp_path / "map.png")])
