"""Programs from examples in words, for the tiny model: one token per step and per number.

    prompt      use sort double reverse in 3 1 2 out 2 1 3 in 4 4 0 9 out 9 0 4 4 in 5 6 out 6 5
    completion  <run_tests> sort </run_tests> <result> 0 pass in 3 1 2 got 1 2 3 not 2 1 3 </result>
                <run_tests> reverse </run_tests> <result> all pass </result> <answer> reverse </answer>

Left out on purpose: thoughts. All that a rollout writes decides, but for closing tags.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from appo.environments.base import Demonstration, Segment
from appo.environments.kinship import final_answer
from appo.environments.programs.catalogue import MAX_LENGTH, MAX_NUMBER, Program
from appo.environments.programs.primitives import MAX_STEPS, PRIMITIVES, is_program, run
from appo.environments.programs.questions import Example, Question, examples_of, fits
from appo.models.tiny import tiny_llama, word_tokenizer
from appo.tools.results import ToolError

NUMBERS = [str(number) for number in range(MAX_NUMBER + 1)]
# `large` is a number beyond those, `empty` a list without any, `more` what is left out of a long one. The rest spell
# results and errors.
# fmt: off
WORDS = [
    "use", "in", "out", "pass", "all", "got", "not", "large", "empty", "more",
    "no", "tries", "left", "answer", "now", "is", "program", "give", "to", "steps", "nothing", "number", "only",
    "error:",
]
# fmt: on
TAGS = [f"<{slash}{name}>" for name in ("run_tests", "result", "answer") for slash in ("", "/")]


class ProgramsEnvironment:
    """One question: its visible examples, and how many tests are left."""

    _tries: ClassVar[int] = 4

    def __init__(self) -> None:
        self._visible: list[Example] = []
        self._left = self._tries

    def reset(self, visible: str, **row: Any) -> None:
        """Starts a question.

        Args:
            visible: The column of that name.
            row: The other columns; not needed.
        """
        self._visible = examples_of(visible)
        self._left = self._tries

    def run_tests(self, code: str) -> str:
        """Tries a program on the examples.

        Args:
            code: One to three steps, for example `reverse double sum`.

        Returns:
            `all pass`, or how many do, and of the first that does not the input, the output, and what it should be.
        """
        if self._left == 0:
            raise ToolError("no tries left answer now")
        self._left -= 1
        return report(tuple(code.split()), self._visible)

    def fork(self) -> "ProgramsEnvironment":
        """Returns an independent copy in the present state."""
        copy = type(self)()
        copy._visible, copy._left = self._visible, self._left  # the examples are never changed
        return copy


def report(program: Program, visible: Sequence[Example]) -> str:
    """What `run_tests` tells of a program.

    Raises:
        ToolError: for what is no program, in words that the tokenizer knows.
    """
    if not is_program(program):
        shown = " ".join(word for word in program[: MAX_STEPS + 1] if word in PRIMITIVES) or "nothing"
        raise ToolError(f"{shown} is no program give 1 to {MAX_STEPS} steps number only last")
    failed = [(xs, output) for xs, output in visible if run(program, xs) != output]
    if not failed:
        return "all pass"
    xs, output = failed[0]
    got = _told(run(program, xs))
    return f"{len(visible) - len(failed)} pass in {_told(xs)} got {got} not {_told(output)}"


def _told(value: Any) -> str:
    """A list or a number in words."""
    numbers = value if isinstance(value, list) else [value]
    words = [str(number) if number <= MAX_NUMBER else "large" for number in numbers[:MAX_LENGTH]]
    return " ".join(words + ["more"] * (len(numbers) > MAX_LENGTH)) or "empty"


def prompt_of(question: Question) -> str:
    """The steps that are offered, if any are, and the visible examples, one after the other."""
    offered = ["use", *question.offered] if question.offered else []
    return " ".join([*offered, *(f"in {_told(xs)} out {_told(output)}" for xs, output in question.visible)])


def demonstration(question: Question, tested: Sequence[Program], answer: Program) -> Demonstration:
    """A demonstration in words: programs tested, and the answer."""
    segments = []
    for program in tested:
        segments.append(Segment(f" <run_tests> {' '.join(program)} </run_tests>"))
        segments.append(Segment(f" <result> {report(program, question.visible)} </result>", trained=False))
    segments.append(Segment(f" <answer> {' '.join(answer)} </answer>"))
    return Demonstration(prompt_of(question), segments)


def passes_all(completions: list[Any], visible: list[str], hidden: list[str], **kwargs: Any) -> list[float]:
    """TRL reward function: 1 where the program in the last `<answer>` fits all examples, visible and hidden, else 0.

    Args:
        completions: Strings, or lists of messages.
        visible, hidden: The columns of these names.
        kwargs: The other columns, unused.
    """
    rows = zip(completions, visible, hidden, strict=True)
    return [float(_passes(final_answer(text), [*examples_of(seen), *examples_of(rest)])) for text, seen, rest in rows]


def _passes(answer: str | None, examples: list[Example]) -> bool:
    program = tuple((answer or "").split())
    return is_program(program) and fits(program, examples)


def environment(tries: int) -> type[ProgramsEnvironment]:
    """The environment's class for so many tests."""
    return type("ProgramsEnvironment", (ProgramsEnvironment,), {"_tries": tries})


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per step, number and word of a result."""
    return word_tokenizer([*PRIMITIVES, *NUMBERS, *WORDS], TAGS)


def make_model(hidden_size: int = 96, layers: int = 2) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A Llama with fresh weights (from torch's generator) and its tokenizer."""
    tokenizer = make_tokenizer()
    return tiny_llama(tokenizer, hidden_size, layers), tokenizer
