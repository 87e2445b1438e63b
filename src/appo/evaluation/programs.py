"""Answers that are programs, run with their tests in the sandbox: passed, failed, or not run.

    with ProgramRunner() as runner:
        runner.run(["def f(x):\\n    return x"], "def check(candidate):\\n    assert candidate(1) == 1\\n", "f")

The answer is compiled as a text of its own, so that it cannot swallow the tests, and what passes is what was seen to
reach the end of the tests: a mark is printed then that is drawn for each run. Printing, leaving early, closing the
output or ending the process make a program fail. `random` begins with one seed in every run.

Where the sandbox itself fails there is no verdict, which is not the same as a wrong answer: the command says so, and
runs these programs again when it is given again.

Left out on purpose: protection from an answer that searches its own process for the mark, or whose results are equal
to everything. Nothing is trained on these tests; a reward would need more.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from appo.errors import UserError
from appo.tools.python import PythonSandbox
from appo.tools.results import ToolResult

SECONDS = 10.0  # per program, its tests included
SHOWN = 400  # characters of what a failed program printed last
_WHOLE_OUTPUT = 2_000_000  # more than a program may print: the mark is looked for in all of it

# Runs in the sandbox. What it needs at the end is fetched before the answer can replace it.
_HARNESS = """
def main(sources, tests, entry_point, mark):
    import os, sys, traceback, types
    write = os.write
    texts = {"<tests>": tests}
    module = types.ModuleType("solution")  # no "__main__": what stands under that name is for a script
    sys.modules["solution"] = module
    try:
        for number, source in enumerate(sources):
            texts["<answer>"] = source
            try:
                code = compile(source, "<answer>", "exec")
                break
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                if number == len(sources) - 1:
                    raise
        exec(code, module.__dict__)
        if entry_point not in module.__dict__:
            raise NameError(f"the answer defines no {entry_point}")
        candidate = module.__dict__[entry_point]
        exec(compile(tests, "<tests>", "exec"), module.__dict__)
        module.__dict__["check"](candidate)
    except BaseException as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in texts]
        line = texts[ours[-1].filename].splitlines()[ours[-1].lineno - 1].strip() if ours else ""
        said = (f"{type(error).__name__}: {error}".rstrip(": "), f"at {line}" if line else "")
        print("; ".join(filter(None, said)))
        raise SystemExit(1)
    write(1, mark)

"""


@dataclass(frozen=True)
class ProgramRun:
    """What became of a program.

    Args:
        passed: Whether its tests were passed; None where it could not be run.
        error: None, or the kind of failure: "exception", "timeout", "killed", "output", "left" (it ended before its
            tests did); "busy" and "sandbox" where it could not be run.
        text: The end of what it printed, errors included.
    """

    passed: bool | None
    error: str | None
    text: str


class ProgramRunner:
    """A sandbox for programs with tests; `run` is safe to use from as many threads as there are `workers`.

    Args:
        seconds: Per program.
        allow_unisolated: Whether programs may run where they cannot be isolated.

    Raises:
        UserError: where they cannot, and may not.
    """

    def __init__(self, seconds: float = SECONDS, allow_unisolated: bool = False) -> None:
        self._sandbox = PythonSandbox(seconds, max_output_chars=_WHOLE_OUTPUT, allow_unisolated=allow_unisolated)
        self.workers = self._sandbox.workers

    def __enter__(self) -> "ProgramRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self._sandbox.close()

    def check(self) -> None:
        """Runs a program that is right and one that is wrong.

        Raises:
            UserError: where the sandbox does not tell them apart, in one sentence with what it said.
        """
        tests = "def check(candidate):\n    assert candidate(1) == 2\n"
        right, wrong = (self.run([f"def f(x):\n    return x + {n}"], tests, "f") for n in (1, 2))
        if (right.passed, wrong.passed) != (True, False):
            said = f"{right.error}: {right.text}" if right.passed is not True else "a wrong program passed"
            raise UserError(f"the Python sandbox does not work, so no program can be tested: {said}")

    def run(self, sources: Sequence[str], tests: str, entry_point: str) -> ProgramRun:
        """Runs the first of `sources` that compiles, then `check(entry_point)` of `tests`."""
        mark = secrets.token_hex(16)
        result = self._try(harness(sources, tests, entry_point, mark))
        if result.error == "killed":  # by itself, or because something ended the sandbox: only the former comes again
            result = self._try(harness(sources, tests, entry_point, mark))
        text = result.text.replace(mark, "").strip()[-SHOWN:]
        if result.error in ("busy", "sandbox"):
            return ProgramRun(None, result.error, text)
        passed = result.ok and mark in result.text
        return ProgramRun(passed, None if passed else result.error or "left", text)

    def _try(self, program: str) -> ToolResult:
        try:
            return self._sandbox(program)
        except RuntimeError as error:  # a worker does not start
            return ToolResult(str(error), "sandbox")


def harness(sources: Sequence[str], tests: str, entry_point: str, mark: str) -> str:
    """The program that is run."""
    return f"{_HARNESS}main({list(sources)!r}, {tests!r}, {entry_point!r}, {mark.encode()!r})\n"
