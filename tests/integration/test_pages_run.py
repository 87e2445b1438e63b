"""What README and the manual tell a reader to type does what they say: every block is run, page by page, in its order.

Python is run in one namespace a page, in a folder with the parts that pages take for granted (`page_parts.py`).
Commands that read are run; those that train are dry runs, or have their fields checked where data or GPUs are missing;
of programs that are not ours the files that we name are looked up. YAML is a recipe, or a part of one.
"""

import contextlib
import io
import re
import shutil
import tomllib
from importlib.util import find_spec
from pathlib import Path

import page_parts
import pages
import pytest
import yaml

from appo.cli.main import main
from appo.cli.recipe import read_recipe
from appo.serve.api import ChatRequest, read_body

NOT_RUN = 6  # blocks at most; each says why in its page
PROJECT = tomllib.loads((pages.REPOSITORY / "pyproject.toml").read_text())["project"]
MAKEFILE = (pages.REPOSITORY / "Makefile").read_text()
APART = ("vllm", "verl")  # in environments of their own
KINSHIP = str(pages.REPOSITORY / "recipes" / "kinship.yaml")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The files that pages read, made once."""
    directory = tmp_path_factory.mktemp("parts")
    with contextlib.redirect_stdout(io.StringIO()):
        page_parts.make_hub(directory)
        page_parts.make_run(directory)
    page_parts.make_data(directory)
    for name in ("recipes", "studies", "examples", "benchmarks", "tests", "src"):
        (directory / name).symlink_to(pages.REPOSITORY / name)
    return directory


@pytest.fixture
def here(parts, tmp_path, monkeypatch):
    """A copy of them as the current directory, importable."""
    shutil.copytree(parts, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    return tmp_path


# ---- python ----


def run_python(block: pages.Block, names: dict) -> None:
    """Executes the block as a module of its own name; `# name.py` in its first line makes it a file, too."""
    first, _, _ = block.text.partition("\n")
    if found := re.match(r"# (\w+\.py)\b", first):
        Path(found[1]).write_text(block.text)
    padding = "\n" * (block.line - 1)  # so that a traceback names the page's line
    before = set(names)
    exec(compile(padding + block.text, str(block.page), "exec"), names)
    for name in set(names) - before:
        if name.startswith("test_"):
            names[name]()


# ---- yaml ----


def run_yaml(block: pages.Block) -> None:
    """A dry run of the recipe; of a part of one, with the testbed's recipe for the rest."""
    values = yaml.safe_load(block.text)
    rest = {} if {"task", "model"} <= values.keys() else yaml.safe_load(Path(KINSHIP).read_text())
    if "task" in values and rest:
        rest |= {"model": "Qwen/Qwen3-0.6B", "demonstrations": 0}
    named = re.match(r"# (\w+\.yaml)\b", block.text)
    path = named[1] if named else "recipe.yaml"
    Path(path).write_text(yaml.safe_dump({**rest, "output_dir": "runs/of_the_page", **values}))
    assert main(["train", path, "--dry-run"]) == 0, block.place


# ---- commands ----


def run_command(words: list[str], place: str) -> None:
    """Runs or checks one command, by its program."""
    while re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
        words = words[1:]
    program = words[0].removeprefix(".venv/bin/").removeprefix(".venv-vllm/bin/")
    assert program in PROGRAMS, f"{place}: what is {program}? Teach this test, or say `<!-- not run: why -->`."
    PROGRAMS[program](words[1:], place)


def appo(words: list[str], place: str) -> None:
    command, rest = words[0], words[1:]
    if command in ("train", "sft", "eval") and not rest[0].startswith("-"):
        recipe = rest[0] if Path(rest[0]).exists() else {"RECIPE": KINSHIP, "my_recipe.yaml": KINSHIP}[rest[0]]
        flags = [placeholder(word) for word in rest[1:]]
        if "--report_to" in flags:  # its package need not be here
            flags[flags.index("--report_to") + 1] = "none"
        is_other = "/" in recipe and recipe != KINSHIP and recipe != "recipes/kinship.yaml"
        if command != "eval" and not is_other:  # tests/unit/cli/test_dry_run.py has the others
            flags = [flag for flag in flags if flag != "--dry-run"]
            assert main([command, recipe, *flags, "--output_dir", "runs/of_the_page", "--dry-run"]) == 0, place
        else:
            read_recipe(recipe, [flag for flag in flags if flag != "--dry-run"])
    elif command == "benchmark" and "--help" not in rest:
        from appo.cli.benchmark import read_flags

        read_flags(rest if "--model" in rest else [*rest, "--model", "smollm2", "--benchmark", "gsm8k"])
    elif command == "chat" and "--help" not in rest:
        from appo.cli.chat import read_flags as read_chat

        read_chat(rest)
    elif command == "serve" and "--help" not in rest:
        from appo.cli.serve import read_flags as read_serve

        read_serve(rest)
    elif command == "study":
        from appo.research.__main__ import study_flags
        from appo.research.plan import read_study

        flags = study_flags(rest[1:])
        flags.pop("dry_run", None)  # tests/unit/research/test_study_dry_run.py does that
        read_study(rest[0], flags)
    else:
        for run in re.findall(r"runs/[\w-]+", " ".join(rest)):
            if not Path(run).exists():
                shutil.copytree("runs/kinship", run)
        words = re.sub(r"--task \S+", f"--task {page_parts.TASK}", " ".join(words)).split()
        assert main(words) == 0, place


def placeholder(word: str) -> str:
    return {"DIR_OR_NAME": "Qwen/Qwen3-0.6B", "DIR": "runs/kinship/model"}.get(word, word)


def make(words: list[str], place: str) -> None:
    for word in words:
        name, is_setting, _ = word.partition("=")
        known = re.search(rf"^{re.escape(name)} \?=|\$\(if \$\({re.escape(name)}\)", MAKEFILE, re.M)
        target = re.search(rf"^{re.escape(name)}:", MAKEFILE, re.M)
        assert known if is_setting else target, f"{place}: the Makefile has no {word}"


def python(words: list[str], place: str) -> None:
    if words[0] == "-c":
        compile(words[1], place, "exec")
    elif words[0] == "-m":
        if words[1] == "appo":
            appo(words[2:], place)
            return
        known = words[1].split(".")[0] in APART or find_spec(words[1])
        assert known, f"{place}: there is no module {words[1]}"
        for word in words[2:]:
            if word.startswith("tests/"):
                assert Path(word).exists(), f"{place}: there is no {word}"
    else:
        exists(words, place)


def curl(words: list[str], place: str) -> None:
    """What it sends is a request that the endpoint takes."""
    assert words[0].endswith("/v1/chat/completions"), place
    read_body(ChatRequest, words[words.index("-d") + 1].encode())


def exists(words: list[str], place: str) -> None:
    """The first word is a file, and so is every recipe."""
    for word in words[:1] + [word for word in words if word.endswith(".yaml")]:
        assert Path(word).exists(), f"{place}: there is no {word}"


def pip(words: list[str], place: str) -> None:
    assert words[0] == "install", place
    for extras in re.findall(r"(?:appo|\.)\[([^\]]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys(), f"{place}: no extra {extras}"


def accelerate(words: list[str], place: str) -> None:
    assert Path(words[words.index("--config_file") + 1]).exists(), place
    python(words[words.index("-m") :], place)


def activated(words: list[str], place: str) -> None:
    """`. .venv/bin/activate; PROGRAM ..`: a program of the extra `dev`."""
    assert words[0] == ".venv/bin/activate;" and words[1] in str(PROJECT["optional-dependencies"]["dev"]), place


def not_ours(words: list[str], place: str) -> None:
    """Nothing here can look it up."""


PROGRAMS = {
    ".": activated,
    "vllm": not_ours,
    "echo": not_ours,
    "head": not_ours,
    "trackio": not_ours,
    "appo": appo,
    "make": make,
    "python": python,
    "pip": pip,
    "accelerate": accelerate,
    "curl": curl,
    "sbatch": exists,
    "bash": exists,
}


@pytest.mark.slow
@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_what_a_page_tells_to_type_works(page, here, capsys):
    names = {"__name__": "__main__"}
    found = [block for block in pages.blocks(page) if block.not_run is None]
    if any(block.language == "python" for block in found):
        names |= page_parts.names(page.stem)
    for block in found:
        if block.language == "python":
            run_python(block, names)
        elif block.language == "yaml":
            run_yaml(block)
        elif block.language == "bash":
            for words in pages.commands(block.text):
                run_command(words, block.place)


def test_every_block_is_of_a_kind_that_is_run_or_is_text():
    found = [block for page in pages.PAGES for block in pages.blocks(page)]
    assert len(found) > 50
    kinds = {"python", "bash", "yaml", "text", "{toctree}"}
    assert [block.place for block in found if block.language not in kinds] == []


def test_no_command_hides_in_a_block_of_text():
    texts = [block for page in pages.PAGES for block in pages.blocks(page) if block.language == "text"]
    lines = [(block.place, line) for block in texts for line in block.text.splitlines()]
    assert [(place, line) for place, line in lines if line[:1].strip() and pages.is_command(line)] == []


def test_few_blocks_are_not_run_and_each_says_why():
    reasons = [block.not_run for page in pages.PAGES for block in pages.blocks(page) if block.not_run is not None]
    assert len(reasons) <= NOT_RUN
    assert all(len(reason.split()) >= 4 for reason in reasons)


def test_a_block_that_is_wrong_is_noticed(tmp_path, here):
    page = tmp_path / "page.md"
    page.write_text(
        "# P\n\n```python\nimport appo\nappo.nothing\n```\n\n<!-- not run: why not -->\n\n```bash\nx\n```\n"
    )
    wrong, marked = pages.blocks(page)
    assert (wrong.line, marked.not_run) == (4, "why not")
    with pytest.raises(AttributeError):
        run_python(wrong, {})
    with pytest.raises(AssertionError, match="what is cp"):
        run_command(["cp", "a", "b"], "here")
    with pytest.raises(AssertionError, match="no nothing"):
        run_command(["make", "nothing"], "here")


def test_commands_are_read_as_a_shell_does():
    text = "A=1 appo train R \\\n  --x '{a: 1}' [--field value ...]   # what it does\n\nappo doctor &\n"
    assert pages.commands(text) == [["A=1", "appo", "train", "R", "--x", "{a: 1}"], ["appo", "doctor"]]
