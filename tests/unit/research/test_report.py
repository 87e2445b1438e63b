"""The report of a small study whose outcome can be worked out by hand."""

import json

import matplotlib.pyplot as plt
import pytest

from appo.research.report import choose_learning_rates, main, markdown, read_runs, summarise, write_report


def make_run(arm, final, *, seed=0, phase="test", rate=1e-4, cold_start=0, testbed="loud", tokens=1000, **more):
    """Success rises from 0.2 in a straight line; 8 rollouts, 2 seconds and 1 of the CPU per 100 tokens."""
    points = [
        {
            "generated_tokens": done,
            "rollouts": done * 8 // 100,
            "seconds": done / 50,
            "cpu_seconds": done / 100,
            "tool_calls": 3.0,
            "tokens": 50.0,
        }
        | {"success": 0.2 + (final - 0.2) * done / tokens}
        for done in (0, tokens // 2, tokens)
    ]
    run = {"testbed": testbed, "arm": arm, "phase": phase, "cold_start": cold_start, "seed": seed}
    return {**run, "learning_rate": rate, "questions": 512, "points": points, **more}


def make_study():
    """`new` beats `old` by 0.1 on each of eight seeds; `weak` is far behind; `old` alone writes 2,000 tokens."""
    runs = [make_run("new", 0.3, phase="validation", rate=1e-4), make_run("new", 0.4, phase="validation", rate=4e-4)]
    for seed in range(8):
        shift = 0.01 * seed
        runs.append(make_run("new", 0.6 + shift, seed=seed, cold_start=seed % 2, rate=4e-4))
        runs.append(make_run("old", 0.8 + 2 * shift, seed=seed, cold_start=seed % 2, tokens=2000))
        runs.append(make_run("weak", 0.3, seed=seed, cold_start=seed % 2))
    return runs


def write_study(path, runs):
    path.joinpath("runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    path.joinpath("study.json").write_text(json.dumps({"rivals": ["old", "weak"], "candidates": ["new"]}))


def test_the_best_validation_rate_is_chosen_and_of_equals_the_smaller():
    rates = [(1e-4, (0.3, 0.5)), (2e-4, (0.5, 0.3)), (4e-4, (0.6, 0.1))]
    runs = [make_run("new", final, phase="validation", rate=rate) for rate, finals in rates for final in finals]
    assert choose_learning_rates([*reversed(runs), make_run("new", 0.9, rate=1.0)]) == {("loud", "new"): 1e-4}


def test_arms_are_read_at_the_budget_that_all_test_runs_reach():
    summary = summarise(make_study(), ["old", "weak"], ["new"])
    budgets = {"generated_tokens": 1000, "rollouts": 80, "seconds": 20.0, "cpu_seconds": 10.0}
    assert summary.budgets == {"loud": budgets}
    new, old, weak = summary.arms
    # `old` is halfway to its final 0.8 + 0.02 x seed, thus at 0.5 + 0.01 x seed; the seeds' mean is 3.5.
    assert [arm.success["generated_tokens"].mean for arm in (new, old, weak)] == pytest.approx([0.635, 0.535, 0.3])
    assert (new.runs, new.learning_rate, new.tool_calls, new.tokens, new.seconds) == (8, 4e-4, 3.0, 50.0, 20.0)
    assert (old.seconds, old.cpu_seconds) == (40.0, 20.0)
    assert summary.notes == []


def test_a_candidate_is_compared_with_every_rival_on_common_seeds():
    old, weak = summarise(make_study(), ["old", "weak"], ["new"]).comparisons
    assert [(c.rival, c.pairs, c.unpaired) for c in (old, weak)] == [("old", 8, 0), ("weak", 8, 0)]
    assert old.difference.mean == pytest.approx(0.1)
    assert (old.difference.low, old.difference.high) == pytest.approx((0.1, 0.1))
    assert weak.difference.mean == pytest.approx(0.335)
    # Both are as significant as eight pairs can be; Holm over two doubles the first, and the second follows.
    assert [(c.p_value, c.holm_p_value) for c in (old, weak)] == [(2 / 256, 4 / 256)] * 2
    assert old.minimum_detectable_effect == pytest.approx(0.0, abs=1e-9)


def test_an_arm_that_is_rival_and_candidate_is_not_compared_with_itself():
    comparisons = summarise(make_study(), ["old", "new"], ["new", "weak"]).comparisons
    assert [(c.candidate, c.rival) for c in comparisons] == [("new", "old"), ("weak", "old"), ("weak", "new")]


def test_p_values_are_corrected_over_testbeds_and_unpaired_runs_counted():
    runs = make_study() + [make_run("new", 0.5, seed=seed, testbed="quiet") for seed in (0, 1, 2)]
    runs += [make_run("old", 0.4, seed=seed, testbed="quiet") for seed in (1, 2, 3, 4)]
    summary = summarise(runs, ["old", "weak"], ["new"])
    loud, weak, quiet = summary.comparisons
    assert (quiet.testbed, quiet.pairs, quiet.unpaired, quiet.p_value) == ("quiet", 2, 3, 0.5)
    assert (loud.holm_p_value, weak.holm_p_value, quiet.holm_p_value) == (6 / 256, 6 / 256, 0.5)
    assert "quiet: new and weak are not compared; they share no seed yet." in summary.notes


def test_the_report_says_which_comparisons_cannot_come_out():
    runs = [make_run(arm, 0.6, seed=seed) for arm in ("new", "old") for seed in range(4)]
    (note,) = summarise(runs, ["old"], ["new"]).notes
    assert note.startswith("loud: 4 pair(s) in a study of 1 comparison(s) cannot give a Holm p below 0.12, whatever")


def test_a_curve_of_too_few_updates_is_named():
    runs = [make_run("new", 0.6, tokens=4000, budget=1000), make_run("old", 0.6, tokens=4000, budget=1000)]
    for run, updates in zip(runs, (1, 16), strict=True):
        for point, done in zip(run["points"], (0, 0.5, 1), strict=True):
            point["updates"] = round(done * updates)
    (note,) = summarise(runs, [], ["new"]).notes
    assert note.startswith("loud, new: an update uses 4,000 tokens where runs are compared at 1,000")


def test_a_given_budget_counts_and_a_run_that_did_not_get_there_is_named():
    runs = [make_run("new", 0.6, tokens=1000), make_run("new", 0.6, seed=1, tokens=2000)]
    summary = summarise(runs, [], ["new"], {"loud": {"generated_tokens": 2000}})
    assert summary.arms[0].success["generated_tokens"].mean == pytest.approx(0.6)
    assert summary.notes[0] == "loud, new: 1 of 2 runs are known at 2000 generated_tokens."


def test_test_runs_at_another_rate_than_the_chosen_one_are_noted():
    runs = [make_run("new", 0.4, phase="validation", rate=4e-4), make_run("new", 0.6, rate=1e-4)]
    assert "test runs used the rates [0.0001], validation runs chose 0.0004" in summarise(runs, [], ["new"]).notes[0]


def test_the_table_shows_percentages_with_intervals():
    text = markdown(summarise(make_study(), ["old", "weak"], ["new"]))
    assert "Success on the test seeds at 1,000 generated tokens, 80 rollouts, 20 seconds of training" in text
    weak = "30.0 % [30.0, 30.0]"
    assert f"| weak | {weak} | {weak} | {weak} | {weak} | 3.0 | 50.0 | 20 | 10 | 0.0001 | 8 |" in text
    assert "| loud | new | old | +10.0 % [+10.0, +10.0] | 0.016 | 0.0 % | 8 | 0 |" in text


def test_one_run_has_no_interval_and_an_axis_without_values_a_dash():
    run = make_run("new", 0.6)
    for point in run["points"]:
        del point["rollouts"]
    assert "| new | 60.0 % (one value) | – | 60.0 % (one value) | 60.0 % (one value) |" in markdown(
        summarise([run], [], ["new"])
    )


def test_a_report_of_a_directory_is_written(tmp_path, capsys):
    write_study(tmp_path, make_study())
    main([str(tmp_path)])
    assert capsys.readouterr().out == (tmp_path / "table.md").read_text()
    assert plt.imread(tmp_path / "study.png").shape[1] == 1200
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [comparison["difference"]["count"] for comparison in summary["comparisons"]] == [8, 8]


def test_without_test_runs_the_report_says_so(tmp_path):
    write_study(tmp_path, [run for run in make_study() if run["phase"] == "validation"])
    write_report(tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "There are no test runs yet." in text and "loud new: learning rate 0.0004 so far." in text
    assert (tmp_path / "study.png").is_file()


def test_without_any_run_the_report_says_so(tmp_path):
    write_study(tmp_path, [])
    assert write_report(tmp_path).notes == ["There are no runs yet."]
    (tmp_path / "runs.jsonl").unlink()
    assert write_report(tmp_path).notes == ["There are no runs yet."]


def test_incomplete_lines_are_left_out_and_the_last_of_one_run_counts(tmp_path):
    good = make_run("new", 0.6)
    lines = [make_run("new", 0.5), {**good, "points": []}, {**good, "arm": None}, {**good, "phase": "try"}, good]
    write_study(tmp_path, lines)
    with open(tmp_path / "runs.jsonl", "a") as file:
        file.write('{"testbed": "lo')  # cut off by a kill
    runs, notes = read_runs(tmp_path / "runs.jsonl")
    assert runs == [good]
    assert [note.split(" of ")[0] for note in notes] == ["Line 2", "Line 3", "Line 4", "Line 5"]
    assert "not compared" in write_report(tmp_path).notes[0]


def test_points_without_success_are_passed_over(tmp_path):
    run = make_run("new", 0.6)
    write_study(tmp_path, [{**run, "points": [*run["points"], {"generated_tokens": 5000, "success": None}]}])
    assert read_runs(tmp_path / "runs.jsonl")[0] == [run]


def test_a_study_that_does_not_name_its_arms_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"study.json does not name the arms .*write \{\"rivals\""):
        main([str(tmp_path)])
    with pytest.raises(SystemExit, match="usage"):
        main([])
