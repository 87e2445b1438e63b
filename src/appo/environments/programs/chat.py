"""Programs from examples in Python, for a language model: messages, and expressions that run in the isolated sandbox.

    <run_tests>sort(xs)</run_tests>
    <result>
    0 of 3 pass; [3,1,2] gives [1,2,3]
    </result>
    <run_tests>reverse(xs)</run_tests> ..  <answer>reverse(xs)</answer>

Steps are functions that are there. Code is any expression over `xs`, or the body of a function with a `return`. The
sandbox is given inputs alone and gives back outputs, which are compared here: a program cannot see what is expected of
it, whatever it prints.

Left out on purpose: partial reward. A program that raises, hangs or ends the process passes nothing.
"""

import json
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from typing import Any

from appo.environments.base import Demonstration, Segment
from appo.environments.kinship import final_answer
from appo.environments.programs.catalogue import Program
from appo.environments.programs.primitives import expression, python_names
from appo.environments.programs.questions import Example, Question, examples_of
from appo.environments.programs.words import ProgramsEnvironment
from appo.tools.python import PythonSandbox
from appo.tools.results import ToolError

SYSTEM_PROMPT = (
    "Find the Python expression over the list xs that gives each output. It calls some of the functions, one inside "
    "the other. <run_tests>expression</run_tests> tries one on the examples. End with the right expression in "
    "<answer></answer>."
)
TIMEOUT_S = 2.0  # for all examples of a program
SHOWN = 60  # characters of a value or an error in a report

# Errors are told per example, and outputs as JSON in the last line.
_HARNESS = """\
import json
from itertools import accumulate, pairwise
code, inputs, steps = json.loads({data!r})
names = {{"accumulate": accumulate, "pairwise": pairwise}}
for name, source in steps.items():
    names[name] = eval(source, names)
outputs = []
try:
    try:
        function = eval("lambda xs: (" + code + "\\n)", names)
    except SyntaxError:
        exec("def function(xs):\\n" + {indented!r}, names)
        function = names["function"]
except SyntaxError as error:
    outputs = [{{"error": "SyntaxError: " + str(error.msg)}}] * len(inputs)
else:
    for xs in inputs:
        try:
            outputs.append({{"value": function(list(xs))}})
        except Exception as error:
            outputs.append({{"error": type(error).__name__ + ": " + str(error)}})
print()
print(json.dumps(outputs, default=repr))
"""


class PythonProgramsEnvironment(ProgramsEnvironment):
    """As the form in words has it, with tests of Python."""

    def run_tests(self, code: str) -> str:
        """Tries a Python expression over the list `xs` on the examples.

        Args:
            code: For example `sum(double(xs))`, or the body of a function.

        Returns:
            How many examples pass, and of the first that does not the input and what the code gives for it.
        """
        if self._left == 0:
            raise ToolError("no tries are left; answer now")
        self._left -= 1
        return report(outputs_of(code, json.dumps([xs for xs, _ in self._visible])), self._visible)


def environment(tries: int) -> type[PythonProgramsEnvironment]:
    """The environment's class for so many tests."""
    return type("PythonProgramsEnvironment", (PythonProgramsEnvironment,), {"_tries": tries})


@lru_cache(maxsize=16384)
def outputs_of(code: str, inputs: str) -> tuple[str, ...]:
    """What code gives for each input, in the sandbox: JSON of `{"value": ..}` or `{"error": ..}` each.

    Args:
        code: An expression over `xs`, or the body of a function.
        inputs: JSON of the list of inputs.

    Raises:
        RuntimeError: where the sandbox had no room for the program, so that nothing is known of it.
    """
    given = json.loads(inputs)
    indented = textwrap.indent(textwrap.dedent(code).strip("\n"), "    ")
    result = _sandbox()(_HARNESS.format(data=json.dumps([code.strip(), given, python_names()]), indented=indented))
    if result.error == "busy":
        raise RuntimeError(f"a program was not run: {result.text}")
    failed = {"timeout": f"stopped after {TIMEOUT_S:g} seconds"}.get(result.error or "", "it ended the process")
    try:
        outputs = json.loads(result.text.rpartition("\n")[2])
    except ValueError:
        outputs = None
    if not _are_outputs(outputs, len(given)):  # the code ended the process, or wrote what looks like its outputs
        return (json.dumps({"error": failed}),) * len(given)
    return tuple(json.dumps(output) for output in outputs)


def _are_outputs(found: Any, count: int) -> bool:
    """Whether they are as the harness gives them: for each input a value or an error."""
    rows = isinstance(found, list) and len(found) == count
    return rows and all(isinstance(one, dict) and one.keys() in ({"value"}, {"error"}) for one in found)


@cache
def _sandbox() -> PythonSandbox:
    return PythonSandbox(timeout_s=TIMEOUT_S, max_output_chars=20_000)


def passed(outputs: Sequence[str], examples: Sequence[Example]) -> list[bool]:
    """For each example whether the output is the wanted one, in its type too (`True` is not 1)."""
    return [got == json.dumps({"value": wanted}) for got, (_, wanted) in zip(outputs, examples, strict=True)]


def report(outputs: Sequence[str], visible: Sequence[Example]) -> str:
    """What `run_tests` tells of a program's outputs."""
    right = passed(outputs, visible)
    if all(right):
        return f"all {len(visible)} pass"
    place = right.index(False)
    output = json.loads(outputs[place])
    got = _told(output["value"]) if "value" in output else _cut(output["error"])
    return f"{sum(right)} of {len(visible)} pass; {_told(visible[place][0])} gives {got}"


def _told(value: Any) -> str:
    return _cut(json.dumps(value, separators=(",", ":")))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + ".."


def prompt_of(question: Question) -> list[dict[str, str]]:
    """The system prompt, and the examples with the steps that are offered."""
    lines = [f"{_told(xs)} -> {_told(output)}" for xs, output in question.visible]
    if question.offered:
        lines.append(f"Functions: {', '.join(question.offered)}")
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": "\n".join(lines)}]


def demonstration(question: Question, tested: Sequence[Program], answer: Program) -> Demonstration:
    """A demonstration in Python: programs tested, and the answer."""
    segments = []
    for program in tested:
        segments.append(Segment(f"<run_tests>{expression(program)}</run_tests>"))
        result = report([_evaluated(program, xs) for xs, _ in question.visible], question.visible)
        segments.append(Segment(f"\n<result>\n{result}\n</result>\n", trained=False))
    segments.append(Segment(f"<answer>{expression(answer)}</answer>"))
    return Demonstration(prompt_of(question), segments)


def _evaluated(program: Program, xs: list[int]) -> str:
    """As `outputs_of`, for our own steps: thousands of runs in the sandbox take minutes."""
    try:
        return json.dumps({"value": eval(expression(program), {**_functions(), "xs": xs})})
    except Exception as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"})


@cache
def _functions() -> dict[str, Any]:
    names: dict[str, Any] = {"accumulate": accumulate, "pairwise": pairwise}
    for name, source in python_names().items():
        names[name] = eval(source, names)
    return names


def passes_all(completions: list[Any], visible: list[str], hidden: list[str], **kwargs: Any) -> list[float]:
    """TRL reward function: 1 where the code in the last `<answer>` gives all outputs, visible and hidden, else 0.

    Args:
        completions: Strings, or lists of messages.
        visible, hidden: The columns of these names.
        kwargs: The other columns, unused.
    """

    def reward(completion: Any, *examples: str) -> float:
        code = final_answer(completion)
        return float(all(is_right(code, one) for one in examples))

    with ThreadPoolExecutor(_sandbox().workers) as threads:
        return list(threads.map(reward, completions, hidden, visible))


def is_right(code: str | None, examples: str) -> bool:
    """Whether code gives all outputs of a row's column of examples; None gives none."""
    if not code:
        return False
    wanted = examples_of(examples)
    return all(passed(outputs_of(code, json.dumps([xs for xs, _ in wanted])), wanted))
