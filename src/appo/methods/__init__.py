"""Methods by name: one file each, one line here. What a method is: `base.py`; how to write one: `docs/methods.md`."""

from typing import Any

from appo.methods.appo import APPO
from appo.methods.appo_rescue import Rescue
from appo.methods.arpo import ARPO
from appo.methods.base import Credit, Method, MethodOptions, Needs, Setting, TreeOptions, Writer
from appo.methods.dapo import DAPO
from appo.methods.gigpo import GiGPO
from appo.methods.gppo import GPPO
from appo.methods.grpo import GRPO
from appo.methods.raft import RAFT
from appo.methods.registry import find_method, make_method
from appo.methods.reinforce_pp import ReinforcePP
from appo.methods.tree_grpo import TreeGRPO
from appo.methods.vineppo import VinePPO
from appo.methods.whole_tree import WholeTree

#: The methods that a recipe can name (docs/methods.md), and their classes.
METHODS: dict[str, type[Method]] = {
    "appo": APPO,
    "appo_rescue": Rescue,
    "arpo": ARPO,
    "dapo": DAPO,
    "gigpo": GiGPO,
    "gppo": GPPO,
    "grpo": GRPO,
    "raft": RAFT,
    "reinforce_pp": ReinforcePP,
    "tree_grpo": TreeGRPO,
    "vineppo": VinePPO,
    "whole_tree": WholeTree,
}


def open_method(name: str, values: dict[str, Any] | None, args: Setting) -> Method:
    """The method of a run; see `registry.make_method`."""
    return make_method(METHODS, name, values, args)


def options_of(name: str) -> type[MethodOptions]:
    """The dataclass of a method's options; `UserError` where there is no such method."""
    return find_method(METHODS, name).Options


__all__ = [
    "METHODS",
    "Credit",
    "Method",
    "MethodOptions",
    "Needs",
    "Setting",
    "TreeOptions",
    "Writer",
    "open_method",
    "options_of",
]
