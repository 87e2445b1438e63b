"""The manual is built without a warning, and every public name is in it."""

import html
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the manual needs the extra docs: pip install 'appo[docs]'")

import pages
import reference_pages
from sphinx.util.inventory import InventoryFile

DOCS = pages.REPOSITORY / "docs"
# Packages whose names are no part of the reference, and why.
LEFT_OUT = {
    "appo.cli": "commands: `appo COMMAND --help`",
    "appo.doctor": "a command",
    "appo.integrations": "needs verl, in an environment of its own",
    "appo.engines.vllm_worker": "runs inside of vLLM",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The manual's directory. Links between pages and to their headings are looked up by the build."""
    out = tmp_path_factory.mktemp("manual")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-b", "html"]
    done = subprocess.run([*command, str(DOCS), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def shown(built):
    """The names of the reference's entries, but for attributes and methods."""
    inventory = InventoryFile.loads((built / "objects.inv").read_bytes(), uri="")
    kinds = ("py:class", "py:exception", "py:function", "py:data")
    return {name for kind in kinds for name in inventory.data.get(kind, ())}


def named(name):
    """What a dotted name stands for: a function rather than the module that is called as it is."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def module_names():
    """Every module of both packages, from the files."""
    for path in sorted((pages.REPOSITORY / "src").rglob("*.py")):
        name = ".".join(path.relative_to(pages.REPOSITORY / "src").with_suffix("").parts).removesuffix(".__init__")
        private = any(part.startswith("_") for part in name.split("."))
        left_out = any(f"{name}.".startswith(f"{folder}.") for folder in LEFT_OUT)
        if not private and not left_out and (name == "appo_sandbox" or not name.startswith("appo_sandbox.")):
            yield name


def public_names():
    """(module, name, value) of what a package exports, and of the functions and classes that a module defines."""
    for module_name in module_names():
        module = importlib.import_module(module_name)
        exported = getattr(module, "__all__", None) if hasattr(module, "__path__") else None
        for name in exported or vars(module):
            value = getattr(module, name)
            defined = inspect.isclass(value) or inspect.isfunction(value)
            if exported or (defined and not name.startswith("_") and value.__module__ == module_name):
                yield module_name, name, value


def test_every_public_name_is_in_the_reference(shown):
    entries = {id(named(name)) for name in shown}
    names = list(public_names())
    assert len(names) > 300
    assert [f"{module}.{name}" for module, name, value in names if id(value) not in entries] == []


def test_every_public_name_says_what_it_is():
    silent = [
        f"{module}.{name}"
        for module, name, value in public_names()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not (value.__doc__ or "").strip()
    ]
    assert silent == []


def test_a_dataclass_without_a_docstring_would_be_found():
    """Python gives a dataclass its signature as a docstring, which says nothing."""
    generated = [
        f"{module}.{name}"
        for module, name, value in public_names()
        if inspect.isclass(value) and (value.__doc__ or "").startswith(f"{value.__name__}(")
    ]
    assert generated == []


def test_every_page_is_reached_from_the_front_page(built):
    front = (built / "index.html").read_text()
    names = {page.stem for page in DOCS.glob("*.md")} - {"index"}
    assert {name for name in names if f'href="{name}.html"' not in front} == set()


def test_no_page_has_the_name_of_one_of_sphinxs_own(built):
    """`search.html` and the like would be replaced, without a warning."""
    for page in DOCS.glob("*.md"):
        title = html.escape(page.read_text().removeprefix("# ").partition("\n")[0], quote=False)
        assert f"<h1>{smart(title)}<a" in (built / f"{page.stem}.html").read_text(), page.name


def smart(text):
    """The typographer's marks that docutils puts in."""
    return text.replace("'", "’")


def test_code_in_docstrings_is_shown_as_code():
    lines = ["Writes `a_b` to *args, see `x`s.", "    indented"]
    reference_pages.as_written(None, "function", "f", None, None, lines)
    assert lines[0] == r"Writes \ ``a_b``\  to \*args, see \ ``x``\ s."


def test_columns_in_docstrings_stay_columns():
    lines = ["One.", "", "a     the first", "long  the second"]
    reference_pages.as_written(None, "function", "f", None, None, lines)
    assert lines[:6] == ["One.", "", "::", "", "    a     the first", "    long  the second"]


def test_names_of_arguments_may_go_on_in_a_second_line():
    assert list(reference_pages.paragraphs(["Args:", "    a, b,", "        c: Three."])) == [
        ["Args:", "    a, b, c: Three."]
    ]


def test_the_links_of_the_readme_lead_somewhere():
    text = (pages.REPOSITORY / "README.md").read_text()
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", text)
    assert links
    missing = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = pages.REPOSITORY / path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert missing == []


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
