"""Scores of samples, and what they say of a policy: pass@k with intervals, calls, format errors, tokens.

A sample's record holds `scores` with `em`, `f1` and `math`; `judge` is added where a judge model gave a verdict. On
benchmarks that packages bring it holds `verifier`, or `tests` once the program was run. A score that does not exist is
None, never 0, and is left out.

Left out on purpose: comparing two policies (`appo.research.statistics` has paired tests).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from appo.data.benchmarks import BenchmarkRow
from appo.evaluation.answered_code import code_of
from appo.report.intervals import bootstrap_interval, wilson_interval
from appo.rewards import exact_match, extract_answer, f1, format_errors, math_equal
from appo.rollout.zeros import Ending, likely_reason

METRICS = ("em", "f1", "math", "judge", "tests", "verifier")
DRAWS = 2000  # of the bootstrap: memory grows with draws x questions


def score_row(text: str, row: BenchmarkRow) -> dict[str, Any]:
    """The part of a sample's record that its text decides, by the row's metric.

    A program gets no score here, as it has not been run; errors of format are None where the prompt asks for none.
    """
    if row.metric == "tests":
        return {"extracted": code_of(text, row.extra["entry_point"]) or None, "scores": {}, "format_errors": None}
    if row.metric == "verifier":
        from appo.data.list_functions import is_right, last_list

        answer = last_list(extract_answer(text) or text)
        return {"extracted": answer, "scores": {"verifier": float(is_right(answer, row))}, "format_errors": None}
    return score_text(text, row.answers)


def score_text(text: str, answers: Sequence[str]) -> dict[str, Any]:
    """The part of a sample's record that its text decides.

    Args:
        text: The completion, as `appo.rewards.completion_text` gives it.
        answers: Any of them is right.
    """
    answer = extract_answer(text)
    return {
        "extracted": answer,
        "scores": {
            "em": float(exact_match(answer, answers)),
            "f1": f1(answer, answers),
            "math": float(any(math_equal(answer, truth) for truth in answers)),
        },
        "format_errors": format_errors(text),
    }


def pass_at_k(scores: Sequence[float], k: int) -> float:
    """Expected best score of k of the n samples, drawn without replacement.

    For scores of 0 and 1 this is the unbiased estimator of pass@k, 1 - C(n - c, k) / C(n, k) with c right samples
    (Chen et al., 2021). In general, the i-th smallest score is the best of C(i - 1, k - 1) of the C(n, k) draws.

    Args:
        scores: One question's samples, in any order.
        k: 1 to the number of samples.

    Raises:
        ValueError: for another k.
    """
    count = len(scores)
    if not 1 <= k <= count:
        raise ValueError(f"k must lie between 1 and the {count} samples of a question, got {k}.")
    ways = [math.comb(rank, k - 1) for rank in range(count)]
    return sum(way * score for way, score in zip(ways, sorted(scores), strict=True)) / math.comb(count, k)


def mean_with_interval(values: Sequence[float]) -> dict[str, Any]:
    """The mean over questions with its 95 % interval.

    Where every value is 0 or 1 (one sample of a score of 0 or 1; k = samples; nothing right at all) the interval is
    Wilson's, as a bootstrap of equal values has no width; elsewhere it is the percentile bootstrap over questions.
    """
    count = len(values)
    if count == 0:
        return {"mean": None, "low": None, "high": None, "interval": None, "questions": 0}
    mean = sum(values) / count
    if all(value in (0.0, 1.0) for value in values):
        method, (low, high) = "wilson", wilson_interval(round(sum(values)), count)
    else:
        interval = bootstrap_interval(values, [0] * count, draws=DRAWS)
        method, low, high = "bootstrap", interval.low, interval.high
    return {"mean": mean, "low": low, "high": high, "interval": method, "questions": count}


def summarise(records: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """What a benchmark's samples say.

    Args:
        records: Samples of one benchmark, the same number for each question.
        metric: The benchmark's; it comes first in `metrics`. `judge` may have no score in any record.

    Returns:
        Counts, means per sample, `why_zero` (where the metric is 0, the likely reason, if there is one), and
        `metrics`: name -> a list of means with intervals for k = 1, 2, .. A question with fewer than k scores is left
        out of that k.
    """
    questions: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        questions.setdefault(record["id"], []).append(record)
    count, samples = len(records), max(map(len, questions.values()))
    metrics = {}
    for name in sorted(METRICS, key=lambda name: name != metric):
        found = [
            [r["scores"][name] for r in group if r["scores"].get(name) is not None] for group in questions.values()
        ]
        if any(found):
            metrics[name] = [
                mean_with_interval([pass_at_k(scores, k) for scores in found if len(scores) >= k])
                for k in range(1, samples + 1)
            ]
    return {
        "metric": metric,
        "questions": len(questions),
        "samples": samples,
        "tool_calls": sum(len(record["tool_calls"]) for record in records) / count,
        "tool_failures": sum(call["error"] is not None for r in records for call in r["tool_calls"]) / count,
        "format_errors": _share_of_format_errors(records),
        "no_answer": sum(record["extracted"] is None for record in records) / count,
        "tokens": sum(record["tokens"] for record in records) / count,
        "truncated": sum(record["finish_reason"] == "length" for record in records) / count,
        "why_zero": _why_zero(records, metrics.get(metric) or metrics.get("f1", [])),
        "metrics": metrics,
    }


def _share_of_format_errors(records: Sequence[Mapping[str, Any]]) -> float | None:
    """None where no format was asked for."""
    if any(record["format_errors"] is None for record in records):
        return None
    return sum(bool(record["format_errors"]) for record in records) / len(records)


def _why_zero(records: Sequence[Mapping[str, Any]], values: Sequence[Mapping[str, Any]]) -> str | None:
    if not values or values[-1]["mean"] != 0:
        return None
    return likely_reason(
        Ending(
            record["finish_reason"],
            record["tokens"],
            [call["error"] for call in record["tool_calls"]],
            answered=record["extracted"] is not None if record["format_errors"] is not None else None,
        )
        for record in records
    )
