"""The table fits in 100 columns, whatever it holds."""

import io

import pytest
from rich.console import Console

from appo.data.benchmarks import BENCHMARKS
from appo.evaluation.table import print_results

WIDE = {"mean": 0.9999, "low": 0.9991, "high": 1.0, "interval": "wilson", "questions": 5000}


def printed(samples, metric="math", names=("gsm8k",), found=("math", "em", "f1", "judge")):
    facts = {"questions": 5000, "tool_calls": 123.456, "format_errors": 1.0, "tokens": 65536.0, "truncated": 1.0}
    result = {"metric": metric, "samples": samples, **facts, "metrics": {name: [WIDE] * samples for name in found}}
    console = Console(file=io.StringIO(), width=80)
    print_results(dict.fromkeys(names, result), console)
    return console.file.getvalue()


@pytest.mark.parametrize("samples", [1, 2, 5, 16])
def test_it_fits_and_shows_every_k(samples):
    text = printed(samples, names=BENCHMARKS)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert all(f"pass@{k}" in text for k in range(1, samples + 1)) and f"pass@{samples + 1}" not in text
    assert text.count("100.0 [99.9, 100.0]w") == len(BENCHMARKS) * samples


def test_without_a_judge_em_and_f1_are_shown():
    text = printed(1, "judge", found=("em", "f1", "math"))
    assert " EM " in text and " F1 " in text


def test_where_no_format_was_asked_for_there_is_no_share_of_errors():
    result = {
        "metric": "tests", "samples": 1, "questions": 1, "tool_calls": 0, "format_errors": None, "tokens": 1,
        "truncated": 0, "metrics": {"tests": [WIDE]},
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=80)
    print_results({"humaneval": result}, console)
    (row,) = [line for line in console.file.getvalue().splitlines() if line.startswith("humaneval")]
    assert row.split() == ["humaneval", "1", "1", "tests", "100.0", "[99.9,", "100.0]w", "0.00", "1", "0%"]


def test_a_mean_that_does_not_exist_is_no_number():
    missing = {"mean": None, "low": None, "high": None, "interval": None, "questions": 0}
    result = {
        "metric": "judge", "samples": 2, "questions": 1, "tool_calls": 0, "format_errors": 0, "tokens": 1,
        "truncated": 0, "metrics": {"judge": [WIDE, missing]},
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=80)
    print_results({"hle": result}, console)
    assert "none" in console.file.getvalue()
