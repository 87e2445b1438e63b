"""What a recipe names of a user's own: `my_tools:order_status` is the function of that name in `my_tools.py`.

Left out on purpose: where modules are found (Python's path), and what a tool or a reward has to look like.
"""

from importlib import import_module
from typing import Any

from appo.errors import UserError, did_you_mean


def load_named(field: str, spec: Any) -> Any:
    """What `spec` names; a function or a class is returned as it is.

    Args:
        field: Who names it, for errors.
        spec: `module:name`, for example `my_tools:order_status`.

    Raises:
        UserError: where there is no such module, or nothing callable of that name in it.
        Exception: what the module itself raises when it is imported.
    """
    if callable(spec):
        return spec
    module, _, name = str(spec).partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise UserError(f"{field} = {spec!r} must read my_module:name, a function or class in a Python file of yours.")
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        if not (error.name and f"{module}.".startswith(f"{error.name}.")):
            raise  # a package that the module itself imports
        raise UserError(
            f"{field} = {spec!r}: there is no module {error.name}; its file must lie in the current folder or in one "
            "of PYTHONPATH."
        ) from None
    found = getattr(loaded, name, None)
    if callable(found):
        return found
    own = [key for key, value in vars(loaded).items() if callable(value) and not key.startswith("_")]
    hint = did_you_mean(name, own, f"it has {', '.join(own) or 'no functions'}.", module + ":{}")
    raise UserError(f"{field} = {spec!r}: {module} has no function or class {name}; {hint}")
