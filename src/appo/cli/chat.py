"""`appo chat MODEL`: asks a trained model in the terminal; its tools run, calls and results are shown.

    appo chat runs/kinship/model                        the tools are those of the run's task
    appo chat runs/tickets/model --tools my_tools:look_up --temperature 0
    appo chat smollm2 --tools none
    echo "What is 12 * 34?" | appo chat runs/x/model    each line is a question of its own

In a terminal, /reset begins a new conversation, /example asks a question of the task, /quit ends, Ctrl-C stops an
answer. In a pipe every line is a question, which is shown before its answer. A line that is a JSON object with a
`prompt` is a row as in training, for environments that take more than the prompt.

Left out on purpose: the loop (`appo.agent`).
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console

from appo.agent.agent import Agent
from appo.agent.answer import AgentAnswer
from appo.agent.live import Listener
from appo.agent.settings import AgentSettings
from appo.cli.fields import FLAGS, head, read_dataclasses, split_flags
from appo.cli.loading import check_source, load_task
from appo.cli.mistakes import RecipeError
from appo.cli.run_config import RunConfig
from appo.environments.base import Task
from appo.errors import UserError, did_you_mean
from appo.evaluation.eval_tools import function_tool, python_tool
from appo.files import read_json
from appo.rollout.types import ToolCall

SHOWN_CHARS = 1000  # of a result
EXAMPLES = 100  # questions of a task that /example goes through
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # would move the cursor, or worse


@dataclass(kw_only=True)
class ChatSettings(AgentSettings):
    """What `appo chat` takes."""

    model: str = field(metadata={"help": "Model directory or hub name, a LoRA adapter's directory, or smollm2."})
    tools: str | None = field(
        default=None,
        metadata={"help": "python, my.module:function, with commas; none. Default: those of the task."},
    )
    task: str | None = field(
        default=None, metadata={"help": "Task whose tools are used. Default: that of the run that the model is of."}
    )
    task_args: dict[str, Any] | str | None = field(default=None, metadata={"help": "Its arguments, as a mapping."})
    allow_unisolated: bool = field(
        default=False, metadata={"help": "Whether Python programs may run where bubblewrap is missing."}
    )


def read_flags(arguments: list[str]) -> ChatSettings:
    """
    Raises:
        RecipeError: for unknown flags and wrong values, in one sentence.
    """
    if arguments[0].startswith("-"):
        raise RecipeError("chat needs a model before its flags, for example: appo chat runs/kinship/model")
    flags = split_flags(arguments[1:])[0]
    names = [f.name for f in fields(ChatSettings) if f.name != "model"]  # which is no flag
    for name in map(head, flags):
        if name not in names:
            hint = did_you_mean(name, names, "see `appo chat --help`.", "--{}")
            raise RecipeError(f"unknown option --{name}; {hint}")
    return read_dataclasses((ChatSettings,), {"model": arguments[0]}, flags, FLAGS)[0]


def task_of(settings: ChatSettings) -> Task | None:
    """The task that is named, else that of the run in whose directory the model lies; None where there is none."""
    named = {"task": settings.task, "task_args": settings.task_args}
    if settings.task is None:
        run = read_json(Path(settings.model).resolve().parent / "run.json")
        found = run.get("settings") if isinstance(run, dict) and Path(settings.model).is_dir() else None
        named = {name: (found or {}).get(name) for name in named}
    if not isinstance(named["task"], str):
        return None
    return load_task(RunConfig(**named, allow_unisolated=settings.allow_unisolated))  # type: ignore[arg-type]


def open_agent(settings: ChatSettings) -> tuple[Agent, Task | None]:
    """The model with its tools, and the task where that gave them.

    Raises:
        UserError: for what cannot be loaded, or does not fit.
    """
    check_source(settings.model)
    options = {f.name: getattr(settings, f.name) for f in fields(AgentSettings)}
    if settings.tools is None:
        task = task_of(settings)
        if task is not None:
            tools = list(task.tools)
            return Agent(settings.model, tools, environment_factory=task.environment_factory, **options), task
    try:
        return Agent(settings.model, None if settings.tools is None else _named_tools(settings), **options), None
    except UserError as error:
        raise RecipeError(str(error).replace("tools=[..] or environment_factory=..", "--tools or --task")
                          .replace("tools=[]", "--tools none")) from None  # fmt: skip


def _named_tools(settings: ChatSettings) -> list[Callable[..., Any]]:
    specs = [spec.strip() for spec in str(settings.tools).split(",")]
    if specs == ["none"]:
        return []
    seconds = settings.tool_timeout or 30.0
    return [
        python_tool(seconds, settings.allow_unisolated) if spec == "python" else function_tool(spec) for spec in specs
    ]


class Chat:
    """One sitting.

    Args:
        agent: Answers.
        task: Whose questions `/example` asks; or None.
        console: Where to.
        live: Whether a person types: then lines with a slash are commands, and turns are a conversation, if the model
            knows of messages.
    """

    def __init__(self, agent: Agent, task: Task | None, console: Console, live: bool) -> None:
        self.agent, self.task, self.console, self.live = agent, task, console, live
        self._talk = agent.conversation() if live and agent.has_messages else None
        self._examples: Iterator[dict[str, Any]] = iter(())

    def say(self, text: str, style: str | None = None, end: str = "\n") -> None:
        """Prints text that a model or a tool wrote."""
        self.console.print(UNPRINTABLE.sub("\ufffd", text), style=style, end=end)

    def take(self, line: str) -> bool:
        """Does what a line says; whether to go on."""
        if not self.live:
            if line:
                self.say(f"> {line}", "dim")
                self.ask(_row(line) or line)
            return True
        if line == "/quit":
            return False
        if line == "/reset":
            if self._talk is not None:
                self._talk.reset()
            self.say("a new conversation", "dim")
        elif line == "/example":
            self._ask_example()
        elif line.startswith("/"):
            self.say(f"there is no {line.split()[0]}; there are /reset, /example and /quit", "red")
        elif line:
            self.ask(_row(line) or line)
        return True

    def _ask_example(self) -> None:
        if self.task is None:
            raise UserError("/example needs a task; give --task, or a model in the directory of its run.")
        row = next(self._examples, None)
        if row is None:
            self._examples = iter(self.task.questions(EXAMPLES, self.agent.settings.seed + 1_000_000))
            row = next(self._examples)
        prompt = row.get("prompt") or ""
        self.say(prompt if isinstance(prompt, str) else str(prompt[-1]["content"]), "bold")
        self.ask(row)
        reference = next((row[name] for name in ("answer", "answers") if row.get(name)), None)
        if reference is not None:
            self.say(f"reference: {reference}", "dim")

    def ask(self, question: str | dict[str, Any]) -> None:
        """Asks, and shows the answer as it comes."""
        listener = Listener(lambda text: self.say(text, end=""), self._show_call)
        if self._talk is None:
            answer = self.agent(question, listener=listener)
        else:
            if isinstance(question, dict):
                self._talk.reset()
            answer = self._talk(question, listener=listener)
        self._show_end(answer)

    def _show_call(self, call: ToolCall) -> None:
        # Its arguments were shown as they were written.
        result = _short(call.result).replace("\n", "\n    ")
        seconds = f"   ({call.seconds:.1f} s)" if call.seconds >= 0.05 else ""
        self.say("")
        self.say(f"  {call.name} -> {result}{seconds}", "red" if call.error else "cyan")

    def _show_end(self, answer: AgentAnswer) -> None:
        settings = self.agent.settings
        self.say("")
        if self.agent.is_tags and answer.answer is not None:
            self.say(f"answer: {answer.answer}", "bold")
        calls = f", {len(answer.calls)} call{'s' * (len(answer.calls) != 1)}" if self.agent.tools else ""
        ends = {
            "length": f"; cut off (max_completion_length = {settings.max_completion_length}, or the model's context)",
            "tool_limit": f"; ended by max_tool_calling_iterations = {settings.max_tool_calling_iterations}",
        }
        self.say(f"({answer.tokens} tokens{calls}{ends.get(answer.finish_reason, '')})", "dim")


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]} .. ({len(text):,} characters)"


def _row(line: str) -> dict[str, Any] | None:
    """The row that a line of JSON is."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "prompt" in found else None


def _typed() -> Iterator[str]:
    """Lines from a person; Ctrl-D ends."""
    import readline  # noqa: F401  # arrows and the lines before

    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


def chat(arguments: list[str]) -> int:
    """Asks until there are no more lines.

    Args:
        arguments: The model, then flags.

    Returns:
        0; 2 where a line of a pipe could not be asked.

    Raises:
        UserError: for whatever is wrong with the flags and what they name.
    """
    settings = read_flags(arguments)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    console = Console(markup=False, highlight=False, soft_wrap=True)
    live = sys.stdin.isatty()
    sitting = Chat(*open_agent(settings), console, live)
    if live:
        agent = sitting.agent
        protocol = "tags" if agent.is_tags else "the chat template"
        sitting.say(f"{settings.model}, tools {', '.join(agent.tools) or 'none'}, by {protocol}", "dim")
        sitting.say(f"/reset, {'/example, ' if sitting.task else ''}/quit; Ctrl-C stops an answer", "dim")
    code = 0
    for line in _typed() if live else sys.stdin:
        try:
            if not sitting.take(line.strip()):
                break
        except UserError as error:
            print(f"appo: {error}", file=sys.stderr)
            code = 0 if live else 2
        except KeyboardInterrupt:
            if not live:
                raise
            sitting.say("\nstopped", "dim")
    return code
