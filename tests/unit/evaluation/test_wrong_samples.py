"""Wrong samples as text: which ones, and what is told of them."""

from appo.evaluation.wrong_samples import print_wrong, wrong_samples

CALL = {"name": "python", "arguments": "1 / 0", "result": "ZeroDivisionError", "error": "exception"}
RESULT = {"metric": "math", "metrics": {"math": []}}


def sample(id="q1", number=0, score=0.0, **fields):
    return {
        "id": id, "sample": number, "question": "What is 2 + 2?", "answers": ["4", "four"], "completion": "It is 5.",
        "extracted": "5", "scores": {"math": score, "f1": 0.5}, "tool_calls": [], "finish_reason": "stop",
        "format_errors": [], **fields,
    }  # fmt: skip


def chosen(*records, most=9, metric="math"):
    return [(one["id"], one["sample"]) for one in wrong_samples(records, metric, most)]


def test_right_samples_and_those_without_a_score_are_left_out():
    assert chosen(sample("right", score=1.0), sample("none", score=None), sample("wrong")) == [("wrong", 0)]


def test_the_lowest_score_comes_first():
    assert chosen(sample("a", score=0.5), sample("b", score=0.25), sample("c", score=0.0)) == [
        ("c", 0), ("b", 0), ("a", 0),
    ]  # fmt: skip


def test_every_question_is_heard_before_one_is_heard_twice():
    records = [sample("a", 0), sample("a", 1), sample("b", 0, score=0.5)]
    assert chosen(*records) == [("a", 0), ("b", 0), ("a", 1)]
    assert chosen(*records, most=2) == [("a", 0), ("b", 0)]


def test_what_is_told_of_a_sample(capsys):
    long = "x" * 500 + " It is 5."
    bad = sample(completion=long, tool_calls=[CALL], finish_reason="length", format_errors=["no <think>"])
    print_wrong({"gsm8k": RESULT}, {"gsm8k": [bad, sample("q2", score=1.0)]}, 5)
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "gsm8k: 1 of 2 samples score below 1 by math"
    assert out[3:] == [
        "sample     q1, number 0: 0",
        "question   What is 2 + 2?",
        "reference  4 | four",
        "call       python: 1 / 0",
        "error      exception: ZeroDivisionError",
        "end        .." + long[-400:],
        "           (ended by the limit of tokens)",
        "answered   5",
        "format     no <think>",
        "",
    ]


def test_of_a_program_its_failure_is_told(capsys):
    run = {"passed": False, "error": "exception", "text": "AssertionError; at\nassert f(1) == 2"}
    bad = sample(score=0.0, run=run, format_errors=None)
    print_wrong({"humaneval": RESULT}, {"humaneval": [bad]}, 1)
    lines = capsys.readouterr().out.splitlines()
    assert "tests      exception: AssertionError; at assert f(1) == 2" in lines
    assert not any(line.startswith("format") for line in lines)


def test_the_last_calls_of_many_are_shown(capsys):
    calls = [{**CALL, "arguments": {"code": str(number)}, "error": None} for number in range(6)]
    print_wrong({"gsm8k": RESULT}, {"gsm8k": [sample(tool_calls=calls, extracted=None)]}, 5)
    out = capsys.readouterr().out
    assert "calls      6, of which the last 4 are shown\ncall       python: {'code': '2'}\n" in out
    assert "answered   (no answer was found)" in out


def test_more_wrong_samples_than_are_shown_are_told(capsys):
    print_wrong({"gsm8k": RESULT}, {"gsm8k": [sample("a"), sample("b")]}, 1)
    assert "gsm8k: 2 of 2 samples score below 1 by math, 1 of them shown" in capsys.readouterr().out


def test_without_a_judge_f1_says_what_is_wrong(capsys):
    result = {"metric": "judge", "metrics": {"em": [], "f1": []}}
    print_wrong({"hle": result}, {"hle": [sample()]}, 5)
    assert "hle: 1 of 1 samples score below 1 by F1" in capsys.readouterr().out
