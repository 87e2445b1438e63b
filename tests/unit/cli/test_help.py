"""Help of the commands: read from source text, and compared with the dataclasses that the text makes."""

import dataclasses
import inspect
import re
import subprocess
import sys
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

import pytest
from trl import SFTConfig

from appo import APPOConfig
from appo.agent.settings import AgentSettings
from appo.cli import field_sources, help
from appo.cli.chat import ChatSettings
from appo.cli.field_sources import REQUIRED, Either, FieldInfo, NotFound, fields_of
from appo.cli.loading import TASKS
from appo.cli.main import main
from appo.cli.run_config import RunConfig
from appo.evaluation.eval_config import EvalConfig
from appo.methods import METHODS, MethodOptions

KINDS = [RunConfig, APPOConfig, SFTConfig, EvalConfig, AgentSettings, ChatSettings, MethodOptions,
         *(kind.Options for kind in METHODS.values())]  # fmt: skip


def annotation(kind):
    """A type as text, without the modules of its parts."""
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(map(annotation, get_args(kind)))
    if kind is NoneType:
        return "None"
    text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    return re.sub(r"(\w+\.)+", "", text)


def default_of(field):
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


@pytest.mark.parametrize("kind", dict.fromkeys(KINDS), ids=lambda kind: kind.__name__)
def test_what_is_read_from_the_source_is_what_the_dataclass_has(kind):
    found = fields_of(kind.__module__, kind.__name__)
    real = dataclasses.fields(kind)
    assert [info.name for info in found] == [field.name for field in real]
    for info, field in zip(found, real, strict=True):
        assert re.sub(r"(\w+\.)+", "", info.type) == annotation(field.type), info.name
        possible = info.default.values if isinstance(info.default, Either) else [info.default]
        assert default_of(field) in possible, info.name
        assert type(default_of(field)) in map(type, possible), info.name  # 1 is True and 1.0
        assert info.help == field.metadata.get("help", ""), info.name


def test_the_classes_of_methods_options_are_found():
    found = {
        name: field_sources.attribute_of("appo.methods", kind, "Options")
        for name, kind in field_sources.keys_of("appo.methods", "METHODS")
    }
    assert found == {name: (kind.Options.__module__, kind.Options.__name__) for name, kind in METHODS.items()}


def test_the_help_of_task_names_every_task_of_ours():
    (task,) = [field for field in dataclasses.fields(RunConfig) if field.name == "task"]
    assert set(TASKS) - set(re.findall(r"\w+", task.metadata["help"])) == set()


def printed(capsys, *arguments):
    assert main([*arguments]) == 0
    return capsys.readouterr().out


def test_the_runs_own_fields_come_first_then_ours_then_methods_then_trls(capsys):
    out = printed(capsys, "train", "--help-all")
    titles = [
        "\nThe run:\n", "\nWhat APPOConfig adds to TRL's GRPOConfig", "\nOptions of every method,",
        "\nOptions of method appo:", "\nTRL's GRPOConfig:\n", "\ntransformers' TrainingArguments:\n",
        "\nThe cold start: TRL's SFTConfig",
    ]  # fmt: skip
    places = [out.index(title) for title in titles]
    assert places == sorted(places)
    for kind in (RunConfig, APPOConfig):
        assert all(f"\n  --{field.name}: " in out for field in dataclasses.fields(kind))
    assert "  --train_size: int = 4096\n      Number of training tasks.\n" in out
    assert "  --task: text (required)\n" in out
    assert "  --lora: mapping | null = null\n" in out
    assert "  --learning_rate: number = 1e-06\n" in out  # TRL's GRPOConfig has another than transformers
    assert "  --cold_start.learning_rate: number = 2e-05\n" in out
    assert "  half_life: number = 32.0\n" in out


@pytest.mark.parametrize("command", ["train", "sft", "eval"])
def test_the_short_help_says_how_to_get_the_rest(capsys, command):
    out = printed(capsys, command, "recipes/any.yaml", "--help")
    assert "--train_size: int = 4096" in out and "--method: text = appo" in out
    assert "--learning_rate:" not in out
    inherited = len(dataclasses.fields(APPOConfig)) - len(field_sources.own_fields("appo.config", "APPOConfig"))
    assert f"`appo train --help-all` adds the {inherited} fields of TRL's GRPOConfig" in " ".join(out.split())


def test_the_options_of_benchmarks_have_types_and_defaults(capsys):
    out = printed(capsys, "benchmark", "--help")
    assert "  --model: text (required)\n" in out
    assert "  --samples: int = 1\n" in out
    assert all(f"  --{field.name}: " in out for field in dataclasses.fields(EvalConfig))


def test_the_options_of_chat_are_told_without_importing_torch():
    program = "import sys; from appo.cli.main import main; main(['chat', '--help']); print('torch' in sys.modules)"
    text = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert text.startswith("usage: appo chat MODEL [--option value ...]") and text.endswith("\nFalse\n")
    assert "  --tools: text | null = null\n" in text and "  --batch_size: int = 32\n" in text


def test_the_options_of_serve_are_told_without_those_of_tools_that_run_elsewhere(capsys):
    out = printed(capsys, "serve", "--help")
    assert out.startswith("usage: appo serve MODEL [--option value ...]")
    assert "  --port: int = 8000\n" in out and "  --temperature: number | null = null\n" in out
    assert "--tool_timeout" not in out and "--max_tool_calls" not in out


@pytest.mark.parametrize("width", [50, 80])
def test_no_line_is_wider_than_the_terminal(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    long = [line for line in help.of_recipes(everything=True).splitlines() if len(line) > width]
    assert [line for line in long if len(line.split()) > 2] == []  # a word that is longer stays whole


def test_without_the_source_of_trl_it_says_so_and_shows_our_own(monkeypatch):
    original = field_sources.source_path

    def without_trl(module):
        if module.startswith("trl"):
            raise NotFound(module)
        return original(module)

    monkeypatch.setattr(field_sources, "source_path", without_trl)
    field_sources.parsed.cache_clear()
    try:
        text = help.of_recipes(everything=True)
    finally:
        field_sources.parsed.cache_clear()
    assert "--tool_timeout: number = 30.0" in text
    assert "TRL's source is not here" in text
    assert "learning_rate" not in text


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("int | None", "int | null"),
        ("dict[str, Any] | str | None", "mapping | null"),
        ("OptimizerNames | str", "text"),
        ("list[str] | None", "list of text | null"),
        ("list[float]", "list of number"),
        ("Literal['a', 'b'] | None", "a or b | null"),
        ("str | None | Literal[False]", "text | null | false"),
    ],
)
def test_a_type_is_written_as_a_recipe_has_it(written, read):
    assert help.kind(written) == read


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1e-6, "1e-06"),
        ("kinship", "kinship"),
        ("", '""'),
        ("\n{}", '"\\n{}"'),
        ([], "[]"),
    ],
)
def test_a_default_is_written_as_a_recipe_has_it(value, text):
    assert help.shown(value) == text


def test_what_cannot_be_worked_out_is_shown_as_it_stands(tmp_path, monkeypatch):
    (tmp_path / "some_settings.py").write_text(
        "from dataclasses import dataclass, field\nimport os\n\n\n@dataclass\nclass Own:\n"
        "    cores: int = os.cpu_count()\n    names: list = field(default_factory=list, metadata={'help': 'A' 'B'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = fields_of("some_settings", "Own")
    assert found == [
        FieldInfo("cores", "int", field_sources.Source("os.cpu_count()"), "", "Own"),
        FieldInfo("names", "list", [], "AB", "Own"),
    ]
    assert list(help.lines(found)) == ["  --cores: int = os.cpu_count()", "  --names: list = []", "      AB"]


@pytest.mark.parametrize("arguments", [["sft", "--help"], ["chat", "--help"], ["--help"]])
def test_a_reader_that_has_seen_enough_is_no_fault(arguments):
    program = subprocess.Popen(
        [sys.executable, "-m", "appo", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    program.stdout.close()
    assert program.stderr.read() == ""
    assert program.wait() == 0
