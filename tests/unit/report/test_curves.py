"""Curves are drawn from a run's records alone, of this version and of the one before."""

import math

import pytest

from appo.files import append_lines
from appo.report import curves
from appo.report.curves import Mark, main, plot_curves, step_series
from appo.rollout.records import RecordWriter


def row(step, rollout, reward, entropies, parent=None, position=None):
    return {
        "step": step,
        "task": "0",
        "rollout": rollout,
        "parent": parent,
        "branch_position": position,
        "completion_ids": [5, 6, 7],
        "policy_mask": [1, 0, 1],
        "reward": reward,
        **({} if entropies is None else {"entropies": entropies}),
    }


STEPS = {
    1: [row(1, 0, 1.0, [1.0, None, 3.0]), row(1, 1, 0.0, [0.5, None, 0.5]), row(1, 2, 0.5, None, 0, 1)],
    2: [row(2, 0, None, [1.0, None, 1.0])],
}


def as_parquet(directory):
    writer = RecordWriter(directory / "records")
    writer.append_evaluation("before", [row(0, 0, 7.0, None)])
    for step, rows in STEPS.items():
        writer.append(step, rows)


def as_lines(directory):
    append_lines(directory / "records.jsonl", [one for rows in STEPS.values() for one in rows])


@pytest.mark.parametrize("write", [as_parquet, as_lines])
def test_a_step_is_the_mean_of_its_rollouts_and_branches_count_apart(tmp_path, write):
    """Entropies: the mean of a rollout's own tokens, 2 and 0.5; the branch leaves in the middle of three tokens."""
    write(tmp_path)
    series = step_series(tmp_path)
    assert series["step"] == [1.0, 2.0]
    assert {name: values[0] for name, values in series.items()} == {
        "step": 1.0, "reward": 0.5, "branch_reward": 0.5, "success": 0.5, "entropy": 1.25, "branch_position": 0.5,
    }  # fmt: skip
    assert series["entropy"][1] == 1.0
    assert all(math.isnan(series[name][1]) for name in ("reward", "branch_reward", "success", "branch_position"))
    marks = [Mark("before", 0.0, 0.4, 0.2, 0.6, 20), Mark("after", None, 0.8, 0.6, 0.9, 20)]
    plot_curves(tmp_path, tmp_path / "curves.png", marks=marks)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_directory_without_records_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"^appo: .+ holds no records"):
        main([str(tmp_path), str(tmp_path / "curves.png")])
    with pytest.raises(SystemExit, match=r"^usage: "):
        main([str(tmp_path)])


def panels_of(directory, monkeypatch):
    """The panels of the picture that is drawn of a run."""
    seen = []
    close = curves.plt.close
    monkeypatch.setattr(curves.plt, "close", lambda figure: (seen.extend(figure.axes), close(figure)))
    plot_curves(directory, directory / "curves.png", marks=[Mark("after", None, 0.8, 0.6, 0.9, 20)])
    return seen


def test_every_axis_says_in_words_what_it_shows(tmp_path, monkeypatch):
    as_parquet(tmp_path)
    panels = panels_of(tmp_path, monkeypatch)
    assert len(panels) == 4
    for panel in panels:
        assert panel.get_title() and panel.get_ylabel()
        assert panel.get_xlabel() == "updates of the policy (optimizer steps)"
    legend = [text.get_text() for text in panels[1].get_legend().get_texts()]
    assert "after: 80.0% of 20 fresh questions" in legend


def test_a_run_without_branches_says_so_and_names_no_line_for_them(tmp_path, monkeypatch):
    RecordWriter(tmp_path / "records").append(1, [row(1, 0, 1.0, [1.0, None, 3.0])])
    panels = panels_of(tmp_path, monkeypatch)
    assert [text.get_text() for text in panels[0].get_legend().get_texts()] == ["written from the prompt"]
    assert [text.get_text() for text in panels[3].texts] == ["no branches were written"]
