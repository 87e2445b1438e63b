"""Names that look like fields of a configuration and are none: options of methods, fields that are gone, slips.

Left out on purpose: reading old recipes; they are told what to write instead.
"""

import difflib
import functools
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from appo.errors import UserError
from appo.methods import METHODS

# Fields that are gone, and what to write instead; a recipe that has one is told so.
RENAMED = {
    "preset": "write `method: raft`, `num_iterations: 2` and `method_args: {token_weight: fork}` for what was plus",
    "advantage": "write `method: grpo`, `raft` or `whole_tree` for group, success or tree; the others are an option "
    "of appo, under method_args",
    "train_on": "write `method: whole_tree` for what was train_on: all",
    "rival": "write its name as `method: ..`",
    "control": "write `method: appo.research.controls:OracleBranching` or another of its classes",
    "loss_on": "write `method: appo.research.controls:DecisionWeights`",
    "dynamic_sampling": "write `method: dapo` with `loss_type: dapo`",
    "max_tool_turns": "write `max_tool_calling_iterations`, as in TRL",
}


def methods_with(option: str) -> list[str]:
    """The methods that have an option of this name."""
    return [name for name, kind in METHODS.items() if option in {f.name for f in fields(kind.Options)}]


def unknown_field(name: str, known: Iterable[str], value: Any, otherwise: str) -> str:
    """A sentence about a name that is no field.

    Args:
        name: As it was given.
        known: The fields that there are.
        value: What it was given; None where that is not known.
        otherwise: What to do where nothing comes close.
    """
    if name in RENAMED:
        instead = RENAMED[name] if value is None else RENAMED[name].replace("..", str(value))
        return f"the field {name} is gone; {instead}."
    if owners := methods_with(name):
        whose = "every method" if len(owners) == len(METHODS) else f"a method ({', '.join(owners)})"
        shown = ".." if value is None else value
        return (
            f"the field {name} is an option of {whose}; write it under method_args: "
            f"`method_args: {{{name}: {shown}}}`."
        )
    close = difflib.get_close_matches(name, list(known), 1)
    return f"unknown field {name}; " + (f"did you mean {close[0]}?" if close else otherwise)


def refuses_unknown_fields(kind: Any) -> Any:
    """Has a dataclass refuse what it has no field for in one sentence, where Python's own would only name it."""
    make = kind.__init__

    @functools.wraps(make)
    def init(self: Any, *values: Any, **given: Any) -> None:
        known = [f.name for f in fields(kind)]
        for name in given:
            if name not in known:
                said = unknown_field(name, known, given[name], f"help({kind.__name__}) lists them.")
                python = f"method_args={{{name!r}: {given[name]!r}}}"
                raise UserError(said.replace(f"method_args: {{{name}: {given[name]}}}", python))
        make(self, *values, **given)

    kind.__init__ = init
    return kind
