"""pass@k is the mean over all subsets, intervals cover what they promise, and a missing score is not 0."""

import itertools
import random
import statistics

import numpy as np
import pytest

from appo.data.benchmarks import BenchmarkRow
from appo.data.packaged import load_packaged
from appo.evaluation.scores import mean_with_interval, pass_at_k, score_row, score_text, summarise
from appo.report.intervals import wilson_interval


def record(id="q", scores=None, **fields):
    plain = {"tool_calls": [], "format_errors": [], "extracted": "x", "tokens": 1, "finish_reason": "stop"}
    return {"id": id, "scores": {"em": 0.0, "f1": 0.0, "math": 0.0, **(scores or {})}, **plain, **fields}


@pytest.mark.parametrize("scores", [[0.0, 1.0, 0.0, 1.0, 0.0], [0.25, 0.0, 1.0, 0.5], [0.3, 0.3, 0.3]])
def test_pass_at_k_is_the_mean_best_over_all_subsets(scores):
    for k in range(1, len(scores) + 1):
        best = [max(subset) for subset in itertools.combinations(scores, k)]
        assert pass_at_k(scores, k) == pytest.approx(statistics.mean(best))


def test_pass_at_k_by_hand():
    # 2 of 5 right: 1 - C(3, 2) / C(5, 2) = 1 - 3 / 10.
    assert pass_at_k([1.0, 0.0, 0.0, 1.0, 0.0], 2) == pytest.approx(0.7)


def test_pass_at_k_is_unbiased():
    # 5 samples of a question that is answered with probability 0.3: pass@2 is 1 - 0.7 ** 2.
    draw = random.Random(0)
    estimates = [pass_at_k([float(draw.random() < 0.3) for _ in range(5)], 2) for _ in range(20_000)]
    assert statistics.mean(estimates) == pytest.approx(1 - 0.7**2, abs=0.01)


@pytest.mark.parametrize("k", [0, 3])
def test_pass_at_k_needs_k_samples(k):
    with pytest.raises(ValueError, match=f"between 1 and the 2 samples of a question, got {k}"):
        pass_at_k([0.0, 1.0], k)


def test_the_interval_of_a_share_is_wilsons():
    assert mean_with_interval([1.0, 0.0, 0.0, 0.0]) == {
        "mean": 0.25, "low": wilson_interval(1, 4)[0], "high": wilson_interval(1, 4)[1], "interval": "wilson",
        "questions": 4,
    }  # fmt: skip
    nothing_right = mean_with_interval([0.0] * 10)
    assert nothing_right["low"] == 0 and nothing_right["high"] == pytest.approx(0.2775, abs=1e-3)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says():
    # Questions have chances drawn from Beta(2, 2), 4 samples each: the true pass@1 is 0.5.
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        right = generator.random((60, 4)) < generator.beta(2, 2, size=(60, 1))
        result = mean_with_interval(right.mean(1).tolist())
        assert result["interval"] == "bootstrap"
        hits += result["low"] <= 0.5 <= result["high"]
    assert 0.91 <= hits / 300 <= 0.98


def test_no_questions_have_no_mean():
    assert mean_with_interval([])["mean"] is None


def test_a_summary_by_hand():
    records = [
        record("a", {"em": 1.0}, tool_calls=[{"error": None}, {"error": "timeout"}], tokens=10),
        record("a", {"em": 0.0}, format_errors=["no <think>"], finish_reason="length", extracted=None, tokens=20),
        record("b", {"em": 0.0}),
        record("b", {"em": 0.0}),
    ]
    summary = summarise(records, "em")
    assert next(iter(summary["metrics"])) == "em"
    assert [result["mean"] for result in summary["metrics"]["em"]] == [0.25, 0.5]
    assert summary["questions"] == 2 and summary["samples"] == 2
    assert summary["tool_calls"] == 0.5 and summary["tool_failures"] == 0.25
    assert summary["format_errors"] == summary["truncated"] == summary["no_answer"] == 0.25
    assert summary["tokens"] == 8


def test_a_sample_without_a_verdict_is_left_out():
    records = [record("a", {"judge": 1.0}), record("a", {"judge": None}), record("b", {"judge": 0.0})]
    records.append(record("b", {"judge": 0.0}))
    one, two = summarise(records, "judge")["metrics"]["judge"]
    assert (one["mean"], one["questions"]) == (0.5, 2)
    assert (two["mean"], two["questions"]) == (0.0, 1)  # question a has one verdict only


def test_without_any_verdict_there_is_no_judged_metric():
    assert list(summarise([record()], "judge")["metrics"]) == ["em", "f1", "math"]


def test_scores_of_a_text():
    text = "<think>so</think><answer>\\boxed{1/2}</answer>"
    assert score_text(text, ["0.5", "half"]) == {
        "extracted": "1/2",
        "scores": {"em": 0.0, "f1": 0.0, "math": 1.0},
        "format_errors": [],
    }


def test_a_program_has_no_score_before_it_was_run():
    row = BenchmarkRow("q", "?", ["def f(): pass"], "tests", {"entry_point": "f"})
    assert score_row("So:\n```\ndef f(): return 1\n```", row) == {
        "extracted": "def f(): return 1",
        "scores": {},
        "format_errors": None,
    }
    assert score_row("  ", row)["extracted"] is None


def test_programs_without_a_verdict_are_left_out_and_no_format_is_none():
    scores = {"a": 1.0, "b": 0.0, "c": None}
    records = [record(id, format_errors=None) | {"scores": {"tests": score}} for id, score in scores.items()]
    summary = summarise(records, "tests")
    (one,) = summary["metrics"]["tests"]
    assert (one["mean"], one["questions"], one["interval"]) == (0.5, 2, "wilson")
    assert list(summary["metrics"]) == ["tests"] and summary["format_errors"] is None


def test_where_no_format_is_asked_for_it_is_no_reason_for_a_zero():
    records = [record(id, extracted=None, format_errors=None) | {"scores": {"verifier": 0.0}} for id in "ab"]
    assert summarise(records, "verifier")["why_zero"] is None


def test_a_list_is_read_from_tags_a_box_or_plain_words():
    row = load_packaged("list_functions", 1)[0]
    right, wrong = row.answers[0], "[-1]"
    for text in (f"It is {right}.", f"<answer>{right}</answer> not {wrong}", f"\\boxed{{{right}}} not {wrong}"):
        assert score_row(text, row) == {"extracted": right, "scores": {"verifier": 1.0}, "format_errors": None}
    assert score_row(f"{right} or {wrong}", row)["scores"] == {"verifier": 0.0}


def test_no_answer_scores_zero():
    assert score_text("\ufffd\ufffd", ["5"])["extracted"] is None
    assert set(score_text("\ufffd\ufffd", ["5"])["scores"].values()) == {0.0}
