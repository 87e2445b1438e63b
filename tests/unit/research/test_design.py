"""What a design cannot show, against counts by hand."""

import pytest

from appo.environments import kinship
from appo.research.design import LEAST_UPDATES, coarse, notes_on, unreachable
from appo.research.plan import Job, Study, read_study, run_settings
from appo.research.statistics import EXACT_UP_TO, least_p_value, sign_flip_p_value


def plan(**changes):
    values = {"recipe": "r.yaml", "output_dir": "out", "testbeds": {"loud": {}}, "arms": {"new": {}, "old": {}}}
    return Study(**{**values, "rivals": ["old"], "candidates": ["new"], "cold_starts": 4, **changes})


@pytest.mark.parametrize("pairs", [1, 2, 5, EXACT_UP_TO, EXACT_UP_TO + 1, 40])
def test_no_differences_have_a_smaller_p_value_than_the_least(pairs):
    assert sign_flip_p_value([float(i + 1) for i in range(pairs)]) >= least_p_value(pairs)
    assert least_p_value(pairs) in (2 / 2**pairs, 1 / 20_001)


def test_the_least_p_value_is_reached_where_all_flips_are_tried():
    assert sign_flip_p_value([1.0, 2.0, 3.0, 4.0]) == least_p_value(4) == 2 / 16


def test_five_pairs_cannot_reach_significance_and_six_can():
    (note,) = unreachable({("loud", "new", "old"): 5})
    assert note == (
        "loud: 5 pair(s) in a study of 1 comparison(s) cannot give a Holm p below 0.062, whatever the effect; "
        "test_seeds of 6 can give one below 0.05."
    )
    assert unreachable({("loud", "new", "old"): 6}) == []


def test_more_comparisons_need_more_pairs():
    # Seven pairs: 2/128 = 0.0156; times three 0.047, times four 0.0625. Eight pairs: 4 x 2/256 = 0.031.
    three = {("loud", "new", rival): 7 for rival in "abc"}
    assert unreachable(three) == []
    (note,) = unreachable({**three, ("loud", "new", "d"): 7})
    assert "below 0.062, whatever the effect; test_seeds of 8 can" in note


def test_a_testbed_with_enough_pairs_is_not_named_beside_one_with_too_few():
    notes = unreachable({("loud", "new", "old"): 8, ("quiet", "new", "old"): 3})
    # Holm: 2 x 2/256 for loud, then 1 x 2/8 for quiet.
    assert [note.split(",")[0] for note in notes] == [
        "quiet: 3 pair(s) in a study of 2 comparison(s) cannot give a Holm p below 0.25"
    ]


def test_a_plan_is_told_what_it_cannot_show_before_it_runs():
    assert notes_on(plan()) == []
    (note,) = notes_on(plan(test_seeds=2))
    assert note.startswith("loud: 2 pair(s) in a study of 1 comparison(s) cannot give a Holm p below 0.5")
    assert notes_on(plan(test_seeds=2, rivals=[], candidates=[])) == []
    assert len(notes_on(plan(testbeds={"loud": {}, "quiet": {"test_seeds": 2}}))) == 1


def test_validation_on_some_of_the_cold_starts_is_named():
    (note,) = notes_on(plan(validation_seeds=1))
    assert note == (
        "validation_seeds = 1: learning rates are chosen on the first 1 of 4 cold starts; leave it out for one seed "
        "per cold start."
    )
    for changes in ({"validation_seeds": 4}, {}, {"cold_starts": 1, "validation_seeds": 1}):
        assert notes_on(plan(**changes)) == []
    assert notes_on(plan(validation_seeds=1, learning_rates=[1e-4])) == []  # nothing is chosen


def test_a_budget_of_four_updates_is_enough_and_of_three_too_few():
    points = [{"updates": 0, "generated_tokens": 0}, {"updates": 8, "generated_tokens": 8000}]
    run = {"testbed": "loud", "arm": "new", "points": points}
    assert coarse(run, 4000) is None
    assert coarse(run, 3999) == (
        "loud, new: an update uses 1,000 tokens where runs are compared at 3,999: success there is a straight line "
        "between two models; make the batches smaller, or the budget larger."
    )
    assert coarse({**run, "points": points[:1]}, 1) is None


def test_the_smallest_study_has_batches_that_fit_its_budget(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    study = read_study("studies/smoke.yaml")
    told = [" ".join(s.text for s in d.segments if s.trained) for d in kinship.make_demonstrations(200, seed=0)]
    length = sum(len(text.split()) for text in told) / len(told)
    for arm in study.arms:
        _, args, _ = run_settings(study, Job(0, "small", arm, "test", 2000, 1e-4))
        rollouts = args.per_device_train_batch_size * args.gradient_accumulation_steps  # branches in full: at most
        assert LEAST_UPDATES * rollouts * length <= study.generated_tokens
