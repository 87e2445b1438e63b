"""The decision atlas: what branches changed, pooled, by hand."""

import numpy as np
import pytest
from report_parts import call, parts_of_run, record, write_run

from appo.report.html import atlas
from appo.report.html.atlas import Atlas
from appo.report.html.columns import parts_of
from appo.report.html.resample import Resampled
from appo.report.intervals import wilson_interval

TEXTS = {10 + n: f"w{n}" for n in range(10)}


def atlas_of(tmp_path, *updates):
    found = Atlas(TEXTS)
    first = 0
    for part in parts_of_run(write_run(tmp_path, *updates)):
        count = len(part.lengths_R)
        found.add(part, parts_of(part, TEXTS, "tags"), np.arange(first, first + count))
        first += count
    return found.summary()


def branch(number, parent, position, reward, **values):
    return record(number, reward, parent=parent, position=position, **values)


def test_outcomes_are_counted_against_the_parents(tmp_path, monkeypatch):
    monkeypatch.setattr(atlas, "LEAST", 1)
    tree = [
        record(0, 1.0, base=0.5, length=5),
        record(1, 0.0, base=0.5, length=5),
        branch(2, 0, 1, 0.0),  # worse
        branch(3, 0, 1, 1.0),  # the same
        branch(4, 1, 4, 0.5),  # better by a half
        branch(5, 1, 2, None),  # not scored: no pick
    ]
    found = atlas_of(tmp_path, tree)
    changed = found["changed"]
    assert found["picks"] == changed["n"] == 3
    assert changed["share"] == pytest.approx(2 / 3, abs=1e-6)
    assert (changed["better"], changed["worse"]) == (pytest.approx(1 / 3, abs=1e-6), pytest.approx(1 / 3, abs=1e-6))
    assert changed["mean_difference"] == pytest.approx(-0.5 / 3, abs=1e-6)
    assert changed["reward"] == pytest.approx(0.5)
    by_token = {row["text"]: (row["n"], row["changed"]) for row in found["by_token"]}
    assert by_token == {"w1": (2, 0.5), "w4": (1, 1.0)}  # the token that was redrawn, not the one that was written
    assert {row["bin"]: row["n"] for row in found["by_place"] if row["n"]} == {2: 2, 9: 1}  # 1 / 4 and 4 / 4
    assert [(row["part"], row["n"]) for row in found["by_part"]] == [("thought", 3)]


def test_better_and_worse_have_intervals_over_tasks_as_all_else_has(tmp_path):
    """Two tasks of ten branches: of one all get better, of the other none. Wilson over 20 would say 30 to 70 %."""
    trees = [
        one
        for task, parent in (("a", 0.0), ("b", 1.0))
        for one in (
            record(0, parent, base=0.5, task=task),
            *(branch(n + 1, 0, 1, 1.0, task=task) for n in range(10)),
        )
    ]
    changed = atlas_of(tmp_path, trees)["changed"]
    assert (changed["better"], changed["better_low"], changed["better_high"]) == (0.5, 0.0, 1.0)
    wilson = [pytest.approx(bound, abs=1e-6) for bound in wilson_interval(0, 2)]
    assert [changed["worse"], changed["worse_low"], changed["worse_high"]] == [0.0, *wilson]


def test_a_branch_of_a_branch_is_compared_with_that_branch(tmp_path):
    tree = [record(0, 1.0, base=0.5), branch(1, 0, 1, 0.0), branch(2, 1, 2, 1.0)]
    assert atlas_of(tmp_path, tree)["changed"]["better"] == 0.5


def test_trees_of_one_name_in_two_updates_are_two(tmp_path):
    updates = [
        [record(0, reward, step=step, base=0.5), branch(1, 0, 1, 1.0, step=step)]
        for step, reward in ((1, 1.0), (2, 0.0))
    ]
    assert atlas_of(tmp_path, *updates)["changed"]["share"] == 0.5


def test_bins_of_entropy_hold_equally_many_picks(tmp_path, monkeypatch):
    monkeypatch.setattr(atlas, "BINS", 2)
    trees = []
    for task in range(4):
        entropies = [float(task)] * 4
        trees += [
            record(0, 1.0, task=str(task), base=0.5, entropies=entropies),
            branch(1, 0, 2, float(task < 2), task=str(task), branch_score=10.0 * task),
        ]
    found = atlas_of(tmp_path, trees)
    bins = [(row["n"], row["changed"]) for row in found["by_entropy"]]
    assert bins == [(2, 0.0), (2, 1.0)]
    assert [(row["low_edge"], row["high_edge"]) for row in found["by_score"]] == [(0.0, 15.0), (15.0, 30.0)]


def test_entropy_is_told_apart_inside_and_outside_of_calls(tmp_path):
    one = record(
        length=5,
        base=0.5,
        policy_mask=[1, 1, 1, 0, 1],
        entropies=[3.0, 0.5, 0.0, None, 1.0],
        tool_calls=[call(1, 3, 4)],
    )
    inside = atlas_of(tmp_path, [one])["entropy_inside"]
    assert (inside["inside_calls"]["mean"], inside["inside_calls"]["n"]) == (0.25, 2)
    assert (inside["outside"]["mean"], inside["outside"]["n"]) == (2.0, 2)
    assert sum(inside["outside"]["shares"]) == pytest.approx(1.0)


def test_words_are_ranked_by_their_mean_and_rare_ones_left_out(tmp_path):
    common = [record(n, base=0.5, length=2, entropies=[2.0, 1.0], score=[0.5, 1.5]) for n in range(atlas.LEAST)]
    rare = record(99, base=0.5, length=3, entropies=[2.0, 1.0, 9.0], score=[0.5, 1.5, 9.0])
    words = atlas_of(tmp_path, [*common, rare])["words"]
    assert [(row["text"], row["mean"]) for row in words["entropy"]] == [("w0", 2.0), ("w1", 1.0)]
    assert [row["text"] for row in words["score"]] == ["w1", "w0"]


def test_words_have_any_token_id(tmp_path):
    large = 2**31 - 1
    many = [record(n, base=0.5, length=2, completion_ids=[5, large]) for n in range(atlas.LEAST)]
    words = atlas_of(tmp_path, many)["words"]["entropy"]
    assert [(row["text"], row["n"], row["mean"]) for row in words] == [
        ("token 2147483647", 10, 0.5),
        ("token 5", 10, 0.5),
    ]


def test_an_entropy_on_an_edge_of_the_histogram_belongs_to_the_bin_that_it_begins(tmp_path):
    one = record(base=0.5, length=4, entropies=[0.0, 0.25, 0.375, 0.5])
    shares = atlas_of(tmp_path, [one])["entropy_inside"]["outside"]["shares"]
    found = {edge: share for edge, share in zip(atlas.EDGES, shares, strict=True) if share}
    assert found == {0.0: 0.25, 0.25: 0.5, 0.5: 0.25}


def test_tokens_of_one_text_are_one_and_those_without_text_go_by_their_number():
    found = Atlas({1: "a", 2: "a"})
    assert found._text(1) == found._text(2) == "a"
    assert found._text(3) == "token 3"


def test_a_run_without_branches_and_entropies_has_no_atlas(tmp_path):
    assert atlas_of(tmp_path, [record(0, 1.0)]) is None


def test_a_run_without_branches_has_words_alone(tmp_path):
    found = atlas_of(tmp_path, [record(0, 1.0, base=0.5)])
    assert found["picks"] == 0
    assert "by_token" not in found
    assert found["entropy_inside"]["outside"]["n"] == 4


# ---- intervals over tasks ----


def test_intervals_are_wide_where_few_tasks_say_it_all():
    values = np.array([1.0] * 50 + [0.0] * 50)
    one_category = np.zeros(100, int)
    two_tasks = Resampled(np.array([0] * 50 + [1] * 50), one_category, 1).means(values)
    many_tasks = Resampled(np.arange(100), one_category, 1).means(values)
    assert (two_tasks[1][0], two_tasks[2][0]) == (0.0, 1.0)
    assert 0.35 < many_tasks[1][0] < 0.45 < 0.55 < many_tasks[2][0] < 0.65


def test_a_share_that_never_varies_has_wilsons_interval_of_its_tasks():
    tasks = Resampled(np.array([0, 0, 1, 1]), np.zeros(4, int), 1)
    mean, low, high = tasks.means(np.zeros(4), share=True)
    assert (mean[0], low[0], high[0]) == (0.0, *wilson_interval(0, 2))


def test_a_category_without_values_is_nan_and_none_of_the_rest():
    found = Resampled(np.array([0, 1]), np.array([-1, 0]), 2)
    assert found.n.tolist() == [1, 0]
    mean, low, high = found.means(np.array([5.0, 7.0]))
    assert (mean[0], low[0], high[0]) == (7.0, 7.0, 7.0)
    assert np.isnan([mean[1], low[1], high[1]]).all()


def test_many_clusters_are_drawn_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr("appo.report.html.resample.WEIGHTS_AT_ONCE", 1)
    values = np.arange(20.0)
    slow = Resampled(np.arange(20), np.zeros(20, int), 1).means(values)
    assert slow[1][0] < 9.5 < slow[2][0]


def test_sums_of_clusters_give_the_same_mean_as_their_values():
    over = Resampled(np.array([0, 1]), np.zeros(2, int), 1)
    mean, low, high = over.ratios(np.array([2.0, 9.0]), np.array([4, 6]))
    assert mean == 1.1
    assert (low, high) == (0.5, 1.5)
