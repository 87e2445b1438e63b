"""`UserError`: a mistake of the user's, told in one sentence.

The commands print it and exit with code 2; every other exception keeps its traceback, because it is a fault of code.
"""

import difflib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# What reads a user's values while a trainer is made, beside this package.
LIBRARIES = (
    "accelerate", "deepspeed", "httpcore", "httpx", "huggingface_hub", "jinja2", "liger_kernel", "peft", "tokenizers",
    "transformers", "trl",
)  # fmt: skip


class UserError(ValueError):
    """A mistake in what the user gave: one sentence that names the field, its value and the remedy."""


class MissingPackage(UserError, ModuleNotFoundError):
    """A package that an extra brings is not installed; the sentence says which extra."""


class Mistakes:
    """Sentences on what is wrong with what belongs together, so that all are told at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def kept(self, but: type[UserError] | tuple[()] = ()) -> Iterator[None]:
        """Keeps a mistake that is raised inside; one of the kind `but` is dropped."""
        try:
            yield
        except UserError as error:
            if not isinstance(error, but):
                self.found.append(str(error))

    def of(self, make: Callable[[Any], Any], given: Iterable[Any]) -> list[Any]:
        """What is made of each that has no mistake."""
        made = []
        for one in given:
            with self.kept():
                made.append(make(one))
        return made

    def raise_if_any(self) -> None:
        """
        Raises:
            UserError: with all of them.
        """
        if self.found:
            *others, last = dict.fromkeys(self.found)
            raise UserError("".join(f"{said.rstrip('.')}; also: " for said in others) + last)


def did_you_mean(name: str, known: Iterable[str], otherwise: str, form: str = "{}") -> str:
    """The end of a sentence about a name that there is not.

    Args:
        otherwise: The end where no known name is like it.
        form: How a name is written, with one {}.
    """
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {form.format(close[0])}?" if close else otherwise


def is_complaint(error: BaseException) -> bool:
    """Whether a library raised `error` and nothing but libraries and this package ran: no code of a user's."""
    modules = []
    trace = error.__traceback__
    while trace is not None:
        modules.append(str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0])
        trace = trace.tb_next
    # jinja calls what it makes of a chat template <template>; that is a value of the user's, too.
    ours = {"appo", "appo_sandbox"}
    known = {*ours, "<template>", *LIBRARIES, *sys.stdlib_module_names}
    return bool(modules) and modules[-1] not in ours and known.issuperset(modules)
