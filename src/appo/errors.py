"""`UserError`: a mistake of the user's, told in one sentence.

The commands print it and exit with code 2; every other exception keeps its traceback, because it is a fault of code.
"""

import sys

# What reads a user's values while a trainer is made, beside this package.
LIBRARIES = (
    "accelerate", "deepspeed", "httpcore", "httpx", "huggingface_hub", "jinja2", "liger_kernel", "peft", "tokenizers",
    "transformers", "trl",
)  # fmt: skip


class UserError(ValueError):
    """A mistake in what the user gave: one sentence that names the field, its value and the remedy."""


class MissingPackage(UserError, ModuleNotFoundError):
    """A package that an extra brings is not installed; the sentence says which extra."""


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
