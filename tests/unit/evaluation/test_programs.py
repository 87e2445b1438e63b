"""A program passes if it was seen to reach the end of its tests, in the sandbox, and in no other way."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from appo.data.packaged import load_packaged
from appo.errors import UserError
from appo.evaluation import programs
from appo.evaluation.answered_code import code_of, programs_of
from appo.evaluation.program_runs import FILE, run_programs
from appo.evaluation.programs import ProgramRunner
from appo.tools.results import ToolResult

TESTS = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 3, 'two'\n"
RIGHT = "def f(x):\n    return x + 1\n"
EVERY = 8  # of the 164 tasks: 21


@pytest.fixture(scope="module")
def runner():
    with ProgramRunner(seconds=2.0) as made:
        made.check()
        yield made


def answer(row, text):
    entry_point = row.extra["entry_point"]
    return programs_of(code_of(text, entry_point), row.extra["prompt"], entry_point), row.extra["test"], entry_point


def bodies(rows):
    return [row.answers[0][len(row.extra["prompt"].strip()) :] for row in rows]


def test_reference_solutions_pass_as_functions_and_as_bodies(runner):
    rows = load_packaged("humaneval")[::EVERY]
    texts = [f"So:\n```python\n{row.answers[0]}\n```\n" for row in rows]
    with ThreadPoolExecutor(runner.workers) as pool:
        whole = list(pool.map(lambda row, text: runner.run(*answer(row, text)), rows, texts))
        body = list(pool.map(lambda row, text: runner.run(*answer(row, text.strip())), rows, bodies(rows)))
    assert len(rows) == 21
    assert [run for run in whole + body if not run.passed] == []


@pytest.mark.slow
def test_all_164_reference_solutions_pass_and_no_empty_body_does():
    rows = load_packaged("humaneval")
    with ProgramRunner() as own, ThreadPoolExecutor(own.workers) as pool:
        right = list(pool.map(lambda row: own.run(*answer(row, row.answers[0])), rows))
        empty = list(pool.map(lambda row: own.run(*answer(row, "")), rows))
    assert sum(run.passed is True for run in right) == 164
    assert sum(run.passed is False for run in empty) == 164


def test_a_wrong_program_fails_and_its_test_is_told(runner):
    run = runner.run(["def f(x):\n    return 2"], TESTS, "f")
    assert (run.passed, run.error) == (False, "exception")
    assert run.text == "AssertionError: two; at assert candidate(2) == 3, 'two'"


def test_the_line_of_the_answer_that_failed_is_told(runner):
    run = runner.run(["def f(x):\n    y = x\n    return y['a']"], TESTS, "f")
    assert run.text == "TypeError: 'int' object is not subscriptable; at return y['a']"


def test_an_endless_loop_is_stopped(runner):
    run = runner.run(["def f(x):\n    while True:\n        pass"], TESTS, "f")
    assert (run.passed, run.error) == (False, "timeout")


@pytest.mark.parametrize(
    "before",
    [
        "print('passed')",
        "import sys\nsys.exit(0)",
        "raise SystemExit",
        "import os\nos._exit(0)",
        "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
        "def f(x):\n    import sys; sys.exit(0)",
        "def f(x):\n    import os; os._exit(0)",
        "def check(candidate): pass\ndef f(x): return 0",
        "check = print\ndef f(x): return '''",  # would swallow the tests if they stood behind it
        "import builtins\nbuiltins.AssertionError = ValueError\ndef f(x): return 0",
        "def f(x):\n    import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "print('x' * 10 ** 7)\ndef f(x): return 0",
        "class E(BaseException):\n    def __str__(self): raise self\ndef f(x): raise E",
        "if __name__ == '__main__':\n    def f(x): return x + 1",
    ],
)
def test_neither_printing_nor_leaving_early_passes(runner, before):
    assert runner.run([before], TESTS, "f").passed is False


@pytest.mark.parametrize(
    "beside",
    [
        "print('x' * 5000, end='')",
        "import sys\nsys.stdout = None",
        "if __name__ == '__main__':\n    f('a')",
        "print = 1",
    ],
)
def test_what_a_right_program_does_besides_does_not_matter(runner, beside):
    assert runner.run([RIGHT + beside], TESTS, "f").passed is True


def test_the_first_reading_that_compiles_is_run(runner):
    assert runner.run(["Here it is:\n" + RIGHT, RIGHT], TESTS, "f").passed is True
    run = runner.run(["x x", "y y"], TESTS, "f")
    assert run.passed is False and run.text.startswith("SyntaxError")


def test_every_run_draws_the_same_random_numbers(runner):
    tests = "def check(candidate):\n    import random\n    assert False, random.random()\n"
    first, second = (runner.run([RIGHT], tests, "f").text for _ in range(2))
    assert first == second and "0." in first


# ---- the sandbox itself fails ----


class Failing:
    """A sandbox whose answers are given."""

    def __init__(self, *answers):
        self.answers, self.workers = list(answers), 1

    def __call__(self, code):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        pass


def failing(*answers):
    runner = ProgramRunner()
    runner.__exit__()
    runner._sandbox = Failing(*answers)
    return runner


@pytest.mark.parametrize(
    ("answer", "error"),
    [(ToolResult("SystemError: too many", "busy"), "busy"), (RuntimeError("The sandbox does not start."), "sandbox")],
)
def test_a_program_that_was_not_run_has_no_verdict(answer, error):
    run = failing(answer).run([RIGHT], TESTS, "f")
    assert (run.passed, run.error) == (None, error)


def test_a_program_that_was_killed_is_run_once_more():
    killed = ToolResult("SystemError: the program crashed", "killed")
    assert failing(killed, RuntimeError("gone")).run([RIGHT], TESTS, "f").passed is None
    assert failing(killed, killed).run([RIGHT], TESTS, "f").passed is False


def test_a_sandbox_that_does_not_work_is_told_before_anything_is_sampled():
    with pytest.raises(UserError, match="does not work, so no program can be tested: sandbox: no room"):
        failing(RuntimeError("no room"), RuntimeError("no room")).check()


# ---- the programs of an evaluation ----


def records(row, *codes):
    place = {"benchmark": "humaneval", "id": row.id}
    return [{**place, "sample": n, "extracted": code, "scores": {}} for n, code in enumerate(codes)]


def run_all(tmp_path, runner, found, row, console):
    return run_programs(tmp_path, runner, {"humaneval": [row]}, {"humaneval": found}, console)


@pytest.fixture
def console():
    from rich.console import Console

    return Console(quiet=True)


def test_a_program_is_run_once_and_again_if_it_is_another(tmp_path, console):
    row = load_packaged("humaneval", 1)[0]
    found = records(row, row.answers[0], "    return 5")
    assert run_all(tmp_path, ProgramRunner(), found, row, console) == []
    assert [record["scores"]["tests"] for record in found] == [1.0, 0.0]
    again = records(row, row.answers[0], "    return 6")
    run_all(tmp_path, failing(ToolResult("printed", None)), again, row, console)  # one answer: only one is run
    assert [record["run"]["error"] for record in again] == [None, "left"]


def test_a_line_that_a_kill_cut_off_does_not_spoil_the_file(tmp_path, console):
    row = load_packaged("humaneval", 1)[0]
    run_all(tmp_path, ProgramRunner(), records(row, row.answers[0]), row, console)
    with open(tmp_path / FILE, "a") as file:
        file.write('{"benchmark": "huma')
    run_all(tmp_path, ProgramRunner(), records(row, row.answers[0], "return 5"), row, console)
    assert [json.loads(line)["passed"] for line in (tmp_path / FILE).read_text().splitlines()] == [True, False]


def test_programs_that_could_not_be_run_are_left_out_told_and_run_again(tmp_path, console):
    row = load_packaged("humaneval", 1)[0]
    busy = ToolResult("SystemError: too many", "busy")
    found = records(row, row.answers[0], "return 5")
    (note,) = run_all(tmp_path, failing(busy, ToolResult("AssertionError", "exception")), found, row, console)
    assert note.startswith("1 of 2 programs could not be run (busy: SystemError: too many). They are left out")
    assert [record["scores"]["tests"] for record in found] == [None, 0.0]
    run_all(tmp_path, ProgramRunner(), found, row, console)
    assert [record["scores"]["tests"] for record in found] == [1.0, 0.0]


def test_where_no_program_could_be_run_that_is_a_mistake_and_no_score(tmp_path, console):
    row = load_packaged("humaneval", 1)[0]
    with pytest.raises(UserError, match="the samples are kept, and the same command runs them again"):
        run_all(tmp_path, failing(ToolResult("", "busy")), records(row, "return 5"), row, console)


def test_a_program_has_ten_seconds():
    assert programs.SECONDS == 10
