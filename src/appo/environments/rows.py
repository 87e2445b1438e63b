"""A task from a file of yours: rows with a prompt and an answer, your functions as tools, a reward by name.

    task: rows
    task_args:
      file: tickets.csv
      prompt: "{ticket_text}"
      answer: status
      tools: [my_tools:order_status]
      reward: exact_match

In Python `appo.rows_task(file=..., ...)` takes the same, with functions in place of their names. `docs/your_data.md`
walks through it. A share of the rows, chosen by the prompt's text alone, is held out of training and used for
evaluations: the same text is never on both sides, and a row that is added moves no other.

Left out on purpose: demonstrations (`traces:` in a recipe), and the paper's tools with their options (`tool_qa`).
"""

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset

from appo import rewards
from appo.data.content import deciding_columns, is_held_out, key_of, question_text
from appo.data.own_rows import OwnRows, read_own_rows
from appo.data.prompt_template import is_messages
from appo.data.rows import DataError, HubError
from appo.environments.agents import AgentProgram
from appo.environments.base import Task, tool_methods
from appo.environments.choosing import choose
from appo.environments.named import load_named
from appo.environments.prompts import short_prompt, system_prompt
from appo.errors import Mistakes, UserError
from appo.rewards.answers import CALLS
from appo.tools.python import python

Spec = str | Callable[..., Any]
SUFFIX = "_reward_func"
REWARDS = {name.removesuffix(SUFFIX): getattr(rewards, name) for name in rewards.__all__ if name.endswith(SUFFIX)}
PAPERS = ("paper", "format")  # they read the paper's tags, in which no other tools are called
TOOLS = {"python": python}
PROTOCOLS = ("chat_template", "tags")
UNSTORABLE = (pyarrow.ArrowException, OverflowError, UnicodeError)  # what Arrow raises for values
# What TRL gives a reward function besides the columns.
TAKEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


def rows_task(
    file: str | Path,
    prompt: str | None = None,
    answer: str | None = None,
    *,
    reward: Spec | Sequence[Spec] | None = None,
    tools: Spec | Sequence[Spec] = (),
    environment: Spec | None = None,
    system: str | None = None,
    held_out: float = 0.1,
    eval_file: str | Path | None = None,
    chat: bool = True,
    tool_protocol: str = "chat_template",
    agent: Spec | AgentProgram | None = None,
    command: Sequence[str] | None = None,
    agent_timeout: float = 600.0,
    agents_at_once: int = 32,
) -> Task:
    """The task.

    Args:
        file: A .csv, .jsonl, .json or .parquet file, else a name on the hub, whose split `train` is read.
        prompt: A column, or a template such as `"{city}: what is its {property}?"`; may be left out where the
            environment's `reset` returns the prompt.
        answer: The column with the right answer. Reward functions get it as `answer`, or as `answers` where the file
            holds lists; the file's other columns reach them and the environment under their own names.
        reward: paper, math, exact_match, f1 or format (`appo.rewards`), `my_rewards:function`, or several.
        tools, environment: `my_tools:function`, several, or `python`; `my_env:Class` (`appo.environments.base`).
        system: The system prompt; None: one that tells what `reward` and `tool_protocol` need; empty: none.
        held_out: Share of the file for evaluations, 0 to 1; 0 trains on all and evaluates on nothing.
        eval_file: A file for evaluations, with the same columns; nothing of `file` is held out then.
        chat: Whether prompts are messages; else plain text, for models without a chat template.
        tool_protocol: The run's; a recipe's is given by itself.
        agent: `my_agent:run`, an agent that asks the policy through OpenAI's API (`appo.environments.agents`), in
            place of an environment. It gets each row, and calls its tools itself: here they are for traces alone.
            Prompt and reward may be left out.
        command: The same as a program: `["python", "agent.py", "{question}"]`.
        agent_timeout: Seconds of a rollout of either.
        agents_at_once: Rollouts of either that run at once.

    Raises:
        UserError: for all that contradicts itself, and names that there are not. Without mistakes the file waits.
    """
    texts = {"file": file, "eval_file": eval_file, "prompt": prompt, "answer": answer, "system": system}
    _check(texts, held_out, tool_protocol)
    program = _agent(agent, command, agent_timeout, agents_at_once)
    _check_prompt(prompt, environment or program)
    functions, factory, in_tags, scoring = _parts(
        tools, environment, reward, answer, tool_protocol, program is not None,
        lambda: _split(file, eval_file, held_out, prompt, answer, False, ("", chat)),
    )  # fmt: skip
    said = _system(_several(reward), in_tags, tool_protocol == "tags") if system is None and not program else system
    whole = factory is not None or program is not None  # rows are told apart by all that they hold
    parts = cache(lambda: _split(file, eval_file, held_out, prompt, answer, whole, (said or "", chat)))
    held, none = str(eval_file or f"the held-out part of {file}"), _none_left(file, held_out, whole)
    return Task(
        dataset=lambda size, seed: choose(parts()[0], size, seed, "train_size", str(file), none[0]),
        eval_dataset=lambda size, seed: choose(parts()[1], size, seed, "eval_size", held, none[1]),
        reward_funcs=scoring,
        tools=functions,
        environment_factory=factory,
        agent=program,
    )


TASK = rows_task


def _parts(
    tools: Any,
    environment: Any,
    reward: Any,
    answer: str | None,
    protocol: str,
    rewards_itself: bool,
    read: Callable[[], Any],
) -> tuple[list[Any], Any, list[Any], list[Any]]:
    """Tools, the environment's factory, what a prompt in tags tells of, and reward functions.

    Raises:
        UserError: with all mistakes, those that `read` finds in the file too.
    """
    mistakes = Mistakes()
    functions = mistakes.of(_tool, _several(tools))
    factory = next(iter(mistakes.of(_environment, [] if environment is None else [environment])), None)
    in_tags = _tools_in_tags(functions, factory) if protocol == "tags" else []
    rewarded = _several(reward) or ([] if rewards_itself or (environment is not None and factory is None) else [None])
    scoring = mistakes.of(lambda one: _reward_functions(_several(one), answer, factory, in_tags), rewarded)
    if mistakes.found:  # else the file is read when it is needed
        with mistakes.kept(but=HubError):
            read()
    mistakes.raise_if_any()
    return functions, factory, in_tags, list(chain(*scoring))


def _several(given: Any) -> list[Any]:
    return [] if given is None else list(given) if isinstance(given, list | tuple) else [given]


def _name(reward: Any) -> str:
    """The short name of a reward, where it has one."""
    name = reward if isinstance(reward, str) else getattr(reward, "__name__", type(reward).__name__)
    return name.removesuffix(SUFFIX)


def _check(texts: dict[str, Any], held_out: Any, tool_protocol: Any) -> None:
    """Raises a UserError for what is not of its kind."""
    for name, value in texts.items():
        if value is not None and not isinstance(value, str | Path):
            raise UserError(f"{name} must be a text, got {value!r}.")
    if isinstance(held_out, bool) or not isinstance(held_out, int | float) or not 0 <= held_out < 1:
        raise UserError(f"held_out must lie in [0, 1), got {held_out!r}.")
    if tool_protocol not in PROTOCOLS:
        raise UserError(f"tool_protocol must be one of {', '.join(PROTOCOLS)}, got {tool_protocol!r}.")


def _check_prompt(prompt: Any, writer: Any) -> None:
    """Raises a UserError where nothing gives a prompt: neither the file, nor an environment or an agent."""
    if prompt is None and writer is None:
        raise UserError("prompt is missing; name a column, or write a template with columns in braces.")


def _agent(agent: Any, command: Any, timeout: Any, at_once: Any) -> AgentProgram | None:
    """
    Raises:
        UserError: for both, and for what is no agent.
    """
    if agent is not None and command is not None:
        raise UserError("agent and command are two ways to name an agent; give one.")
    if (agent is None and command is None) or isinstance(agent, AgentProgram):
        return agent
    run = command if command is not None else load_named("agent", agent)
    return AgentProgram(run, timeout=timeout, at_once=at_once)


def _none_left(file: Any, held_out: float, with_environment: bool) -> tuple[str, str]:
    """What to say where the split leaves no rows to train on, and where it leaves none for evaluations."""
    alike = "equal rows stay together" if with_environment else "rows with the same prompt stay together"
    leaves = f"{file}: held_out = {held_out} leaves no rows"
    return (
        f"{leaves} to train on; lower it ({alike}), or give eval_file.",
        f"{leaves} for evaluations; raise it ({alike}), give eval_file, or set eval_size to 0.",
    )


def _tool(given: Any) -> Callable[..., Any]:
    if isinstance(given, str) and given in TOOLS:
        return TOOLS[given]
    found = load_named("tools", given)
    if inspect.isclass(found):
        raise UserError(f"tools = {given!r} is a class; name its instance, or give environment: {given}.")
    return found


def _environment(given: Any) -> Callable[[], Any]:
    found = load_named("environment", given)
    if inspect.isclass(found) and not callable(getattr(found, "reset", None)):
        raise UserError(f"environment = {given!r} has no method reset(self, **row); give it one.")
    return found


def _tools_in_tags(functions: list[Any], factory: Any) -> list[Any]:
    """What a prompt has to tell of. A chat template tells itself, and keeps calls apart from what a reward reads."""
    return [*functions, *(tool_methods(factory()) if factory else [])]


def _reward_functions(given: list[Any], answer: str | None, factory: Any, in_tags: list[Any]) -> list[Any]:
    """The functions that score; none where the environment does.

    Raises:
        UserError: where nothing scores, or by what the task does not have.
    """
    known = ", ".join(REWARDS)
    if not given and not hasattr(factory, "get_reward"):
        raise UserError(f"reward is missing; give one of {known}, or my_rewards:function.")
    functions = []
    for one in given:
        name = one.removesuffix(SUFFIX) if isinstance(one, str) else None
        if name is None or ":" in name:
            functions.append(load_named("reward", one))
            continue
        if name not in REWARDS:
            raise UserError(f"reward = {one!r} is none of {known}; a function of yours reads my_rewards:function.")
        if name != "format" and answer is None:
            raise UserError(f"reward = {one!r} compares with the right answer; give answer: COLUMN.")
        functions.append(REWARDS[name])
    _check_paper(given, in_tags)
    return functions


def _check_paper(rewarded: list[Any], in_tags: list[Any]) -> None:
    """Raises a UserError for the paper's format with calls that it does not have."""
    papers = [one for one in map(_name, rewarded) if one in PAPERS]
    others = [tool.__name__ for tool in in_tags if tool.__name__ not in CALLS]
    if papers and others:
        raise UserError(
            f"reward = {papers[0]!r} takes calls of {others[0]} for a broken format, as the paper has search and "
            "python alone; use exact_match, f1 or math."
        )


def _system(rewarded: list[Any], in_tags: list[Any], tags: bool) -> str:
    """What the model is told where the user says nothing: how to call in tags, how to answer for the rewards."""
    names = list(map(_name, rewarded))
    if set(PAPERS).intersection(names):
        return system_prompt(tool.__name__ for tool in in_tags)
    return short_prompt(in_tags, answers=tags or bool(REWARDS.keys() & set(names)))


def _split(
    file: Any, eval_file: Any, held_out: float, prompt: Any, answer: Any, with_environment: bool, how: tuple[str, bool]
) -> tuple[Dataset, Dataset]:
    """Rows to train on and rows to evaluate on."""
    found = read_own_rows(file, prompt, answer)
    other = None if eval_file is None else read_own_rows(eval_file, prompt, answer, "eval_file")
    lists = found.lists or (other is not None and other.lists)  # both sides alike, so that they can be compared
    rows = _dataset(found, answer, lists, how)
    if other is not None:
        return rows, _dataset(other, answer, lists, how)
    # By the file's own words: another system prompt holds out the same rows.
    texts = list(map(question_text, found.prompts))
    if with_environment:  # the same words may begin another episode
        columns = deciding_columns(rows.column_names, True)
        own = zip(rows, found.prompts, strict=True)
        texts = [key_of({**row, "prompt": asked}, columns).hex() for row, asked in own]
    out = [is_held_out(text, held_out) for text in texts]
    train, held = (rows.select([i for i, o in enumerate(out) if o is side]) for side in (False, True))
    return train, held


def _dataset(found: OwnRows, answer: str | None, lists: bool, how: tuple[str, bool]) -> Dataset:
    """The file's columns, `prompt`, and `answer` or, for lists, `answers`.

    Raises:
        DataError: for columns whose names mean something else, and for those that hold values of several kinds.
    """
    columns = list(found.rows[0])
    if taken := [name for name in columns if name in TAKEN]:
        raise DataError(f"{found.source} has a column {taken[0]!r}, which means something else to rewards; rename it.")
    if "prompt" in columns and "prompt" not in found.prompt_columns:
        raise DataError(f"{found.source} has a column 'prompt', which would be lost; rename it, or name it as prompt.")
    target = "answers" if lists or answer == "answers" else "answer"
    others = [name for name in ("answers", "answer") if name in columns and name != answer]
    if answer is not None and others:
        raise DataError(
            f"answer = {answer!r}, but {found.source} has a column {others[0]!r} too, which rewards would read; "
            "rename it, or name it."
        )
    rows, all_lists = [], answer is not None and all(isinstance(row[answer], list) for row in found.rows)
    for row, prompt, answers in zip(found.rows, found.prompts, found.answers, strict=True):
        own = {**row, "prompt": _prompt(prompt, *how)}
        if answer is not None:
            own[target] = answers if target == "answers" else answers[0]
            if lists and not all_lists:  # a column holds values of one kind
                own[answer] = answers
        rows.append(own)
    try:
        return Dataset.from_list(rows)
    except UNSTORABLE as error:
        raise DataError(f"{found.source}: {_unstorable(rows, error)}.") from None


def _unstorable(rows: list[dict[str, Any]], error: Exception) -> str:
    """Which column cannot be stored, and why."""
    name = "a column"
    for column in rows[0]:
        try:
            Dataset.from_list([{column: row[column]} for row in rows])
        except UNSTORABLE as own:
            name, error = f"column {column!r}", own
            break
    said = " ".join(str(error).split())
    if isinstance(error, UnicodeError):
        return f"{name} holds a text that is no Unicode ({said}); repair it"
    if isinstance(error, OverflowError) or "too large" in said or "too big" in said:
        return f"{name} holds a whole number beyond 64 bits ({said}); make its values texts"
    return f"{name} holds values of several kinds ({said}); make them texts"


def _prompt(prompt: Any, system: str, chat: bool) -> Any:
    if is_messages(prompt):
        own = [{"role": "system", "content": system}] if system and prompt[0]["role"] != "system" else []
        return [*own, *prompt]
    if not chat:
        return f"{system}\n\n{prompt}\n" if system else f"{prompt}\n"
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": prompt}]
