"""The reference, made from the source: a page per package with every public name of its modules.

    write(Path("docs/reference"))       # docs/conf.py does it at each build; the folder is not in git

A name that a package exports (`__all__`) is shown with the package, all others with the module that defines them. So a
new module is in the manual without being listed anywhere.

Left out on purpose: commands (`appo COMMAND --help`), what needs vLLM or verl to be imported, and the modules of the
sandbox, whose package exports what there is to use.
"""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.pycode import ModuleAnalyzer

SECTIONS = Config()
NOT_SHOWN = ("appo.cli", "appo.doctor", "appo.integrations", "appo.engines.vllm_worker")


def is_shown(name: str) -> bool:
    private = any(part.startswith("_") for part in name.split("."))
    return not private and not any(f"{name}.".startswith(f"{left_out}.") for left_out in NOT_SHOWN)


def modules_of(package: str) -> Iterator[ModuleType]:
    """The package and its public modules, those of folders below it included."""
    module = importlib.import_module(package)
    yield module
    if package != "appo_sandbox":
        for found in sorted(pkgutil.iter_modules(module.__path__), key=lambda found: found.name):
            name = f"{package}.{found.name}"
            if is_shown(name):
                yield from modules_of(name) if found.ispkg else [importlib.import_module(name)]


def pages() -> dict[str, list[ModuleType]]:
    """The modules of each page: those of a folder stand together, the loose ones beside the package itself."""
    found: dict[str, list[ModuleType]] = {}
    for module in [*modules_of("appo"), *modules_of("appo_sandbox")]:
        folder = ".".join(module.__name__.split(".")[:2])
        loose = not hasattr(importlib.import_module(folder), "__path__")
        found.setdefault("appo" if loose else folder, []).append(module)
    return found


def own_names(module: ModuleType) -> list[str]:
    """What a module defines, in the order of its source; of a package that says what it exports, that."""
    if hasattr(module, "__path__") and hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]


def write(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    texts, shown = {}, set[int]()
    for page, modules in pages().items():
        texts[f"{page}.rst"] = "\n".join(page_text(page, modules, shown))
    for old in {path.name for path in folder.glob("*.rst")} - texts.keys():
        (folder / old).unlink()
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:  # a page that is as it was is not read again
            path.write_text(text)


def page_text(page: str, modules: list[ModuleType], shown: set[int]) -> Iterator[str]:
    yield from (page, "=" * len(page), "")
    exported = {f"{module.__name__}.{name}" for module in modules for name in own_names(module)}
    for module in modules:
        if module.__name__ != page:
            yield from (module.__name__, "-" * len(module.__name__), "")
        yield f".. automodule:: {module.__name__}"
        # A function may be called as its module is, and is then what the name means.
        yield from ("   :no-index:", "") if module.__name__ in exported else ("",)
        for name in own_names(module):
            value = getattr(module, name)
            if id(value) not in shown:
                shown.add(id(value))
                yield from entry(module, name, value)


def entry(module: ModuleType, name: str, value: object) -> Iterator[str]:
    if inspect.isclass(value):
        yield from (f".. autoclass:: {module.__name__}::{name}", "   :members:", "   :show-inheritance:", "")
    elif callable(value):
        yield from (f".. autofunction:: {module.__name__}::{name}", "")
    else:
        yield from (f".. autodata:: {home_of(name, module.__name__)}::{name}", "   :no-value:", "")


def home_of(constant: str, package: str) -> str:
    """The module that defines a constant, and says above it (`#:`) what it is."""
    for module in sorted(sys.modules):
        is_within = f"{module}.".startswith(f"{package}.")
        if is_within and ("", constant) in ModuleAnalyzer.for_module(module).find_attr_docs():
            return module
    raise LookupError(f"no module of {package} says in a comment `#: ..` what {constant} is")


# ---- docstrings ----


def as_written(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with `code` and Google's sections; Sphinx reads RST.

    An indented paragraph of a module's is code, and one with columns is shown as it is.
    """
    text: list[str] = []
    for paragraph in paragraphs(lines):
        is_code = what == "module" and paragraph[0].startswith("    ")
        if is_code or re.search(r"\S {2,}\S", paragraph[0]):
            text += ["::", "", *(f"    {line}" for line in paragraph), ""]
        else:
            text += [*map(rst, paragraph), ""]
    # Of a property it would take what stands before a colon for a type.
    kind = "function" if what in ("property", "attribute", "data") else what
    lines[:] = [*GoogleDocstring(text, SECTIONS, None, kind, name, obj, options).lines(), *own_fields(obj)]


def paragraphs(lines: list[str]) -> Iterator[list[str]]:
    """The lines between empty ones. Names of arguments that go on in a second line stand in one, as napoleon wants."""
    found: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            if found and re.fullmatch(r" +[\w, ]+,", found[-1]):
                found[-1] += f" {line.strip()}"
            else:
                found.append(line)
        elif found:
            yield found
            found = []


def rst(line: str) -> str:
    parts = re.split(r"`([^`]+)`", line)
    parts[::2] = [re.sub(r"([*|\\])|(?<=\w)(_)(?=\W|$)", r"\\\g<0>", part) for part in parts[::2]]
    parts[1::2] = [f"\\ ``{part.strip() or '␣'}``\\ " for part in parts[1::2]]
    return "".join(parts).rstrip()


def own_fields(obj: object) -> Iterator[str]:
    """The fields of a dataclass that say what they are for, as `--help` does; those of its base stand there."""
    if inspect.isclass(obj) and dataclasses.is_dataclass(obj):
        own = [field for field in dataclasses.fields(obj) if field.name in inspect.get_annotations(obj)]
        for field in own:
            if "help" in field.metadata:
                is_required = field.default is dataclasses.MISSING
                default = "" if is_required else f" = {field.default!r}"
                yield from ("", f"- ``{field.name}{default}``: {rst(field.metadata['help'])}")
        yield ""


def short_signature(app, what, name, obj, options, signature, returns):  # type: ignore[no-untyped-def]
    """A configuration takes hundreds of arguments, which its help tells better (`appo train --help`)."""
    return ("(...)", returns) if signature and len(signature) > 1500 else None
