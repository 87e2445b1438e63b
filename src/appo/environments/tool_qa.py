"""The paper's task: questions of mathematics and knowledge, answered with search and Python, in the paper's tags.

A function, so that a recipe says where data and search come from:

    task: tool_qa
    task_args: {data: train_10k.parquet, search: "retrieval:http://localhost:8000"}

Prompt, tools and reward are the paper's: `appo.environments.prompts.system_prompt`, `appo.tools`,
`appo.rewards.paper_reward_func`. Data is read by `appo.data.load_rl_data`; of its prompts only the question counts.
Where no validation file is given, a share of the data, chosen by the checksum of the question, is held out of
training and used for evaluations.

Left out on purpose: other tools and rewards (write a task of your own, `README.md`), and the benchmarks, which
`appo benchmark` measures.
"""

import logging
import random
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from datasets import Dataset

from appo.data import load_rl_data
from appo.data.rows import DataError
from appo.environments.base import Task
from appo.environments.prompts import system_prompt
from appo.errors import UserError
from appo.rewards import paper_reward_func
from appo.tools import PythonSandbox
from appo.tools.search.source import open_search

logger = logging.getLogger(__name__)

TOOLS = ("search", "python")


def TASK(
    data: str,
    valid: str | None = None,
    held_out: float = 0.02,
    tools: Sequence[str] = TOOLS,
    search: str | None = None,
    search_options: dict[str, Any] | None = None,
    sandbox: dict[str, Any] | None = None,
    python_session: bool = False,
    prompt: str | None = None,
) -> Task:
    """The task.

    Args:
        data: A file or hub name of RL data.
        valid: The same for evaluations; with it, nothing of `data` is held out.
        held_out: Share of `data` for evaluations, 0 to 1; 0 trains on all and evaluates on nothing.
        tools: Of `search` and `python`.
        search: Where to search, as `appo.tools.search.source` has it.
        search_options: Further arguments of that search, for example `cache`.
        sandbox: Arguments of `appo.tools.PythonSandbox`, for example `timeout_s` and `memory_mb`.
        python_session: Whether the programs of a rollout share their variables.
        prompt: The system prompt; None: the paper's for these tools; empty: no system message.

    Raises:
        ValueError: for values that contradict each other, and what opening the search raises. Data is read later.
        RuntimeError: where programs cannot be isolated and need to be.
    """
    _check(tools, held_out, {"data": data, "valid": valid, "prompt": prompt, "search": search})
    _check_options(tools, search, {"search_options": search_options, "sandbox": sandbox})
    functions: list[Callable[..., Any]] = []
    session = None
    if "search" in tools:
        functions.append(open_search(str(search), **(search_options or {})).search)
    if "python" in tools:
        python = _sandbox({**(sandbox or {}), "stateful": python_session})
        session = python.session if python_session else None
        functions += [] if python_session else [python.python]
    # Read once, when first asked for.
    system = system_prompt(tools) if prompt is None else prompt
    questions = cache(lambda: _split(data, valid, held_out, system))
    return Task(
        dataset=lambda size, seed: _choose(questions()[0], size, seed, data),
        eval_dataset=lambda size, seed: _choose(questions()[1], size, seed, valid or f"the held-out part of {data}"),
        reward_funcs=[paper_reward_func],
        tools=functions,
        environment_factory=session,
    )


def _check(tools: Any, held_out: Any, texts: dict[str, Any]) -> None:
    """Raises a UserError for what is not of its kind."""
    if not isinstance(tools, list | tuple) or not tools or any(tool not in TOOLS for tool in tools):
        raise UserError(f"tools must be some of {', '.join(TOOLS)}, got {tools!r}.")
    for name, value in texts.items():
        if not isinstance(value, str | None):
            raise UserError(f"{name} must be a text, got {value!r}.")
    if not isinstance(held_out, int | float) or not 0 <= held_out < 1:
        raise UserError(f"held_out must lie in [0, 1), got {held_out}.")


def _check_options(tools: Sequence[str], search: str | None, options: dict[str, Any]) -> None:
    """Raises a UserError for options that are no mapping, or whose tool is not there."""
    for name, given in options.items():
        if not isinstance(given, dict | None):
            raise UserError(f"{name} must be a mapping, got {given!r}.")
    if "search" in tools and search is None:
        raise UserError("search is missing: name one, for example pages:search_cache.json, or leave it out of tools.")
    of_search, of_python = search or options["search_options"], options["sandbox"]
    if ("search" not in tools and of_search) or ("python" not in tools and of_python):
        raise UserError(f"search and sandbox belong to tools that are not among tools = {list(tools)}.")
    if "stateful" in (of_python or {}):
        raise UserError("sandbox: stateful is what python_session says; remove it and set python_session.")


def _sandbox(options: dict[str, Any]) -> PythonSandbox:
    try:
        return PythonSandbox(**options)
    except TypeError as error:
        raise UserError(f"sandbox: {str(error).split(')', 1)[-1].strip()}.") from None


def _split(data: str, valid: str | None, held_out: float, prompt: str) -> tuple[Dataset, Dataset]:
    """Rows to train on and rows to evaluate on."""
    rows = _rows("data", data, prompt)
    if valid is not None:
        return rows, _rows("valid", valid, prompt)
    # By the text, so that a question that is there twice lies on one side.
    out = [zlib.crc32(question.encode()) % 10_000 < held_out * 10_000 for question in rows["question"]]
    return tuple(rows.select([i for i, o in enumerate(out) if o is side]) for side in (False, True))


def _rows(name: str, source: str, prompt: str) -> Dataset:
    """`prompt` (messages), `question`, `answers`, `id` and `source`."""
    try:
        rows = load_rl_data(source)
    except DataError as error:
        raise type(error)(f"task_args: {name}: {error}") from error
    system = [{"role": "system", "content": prompt}] if prompt else []
    prompts = [[*system, {"role": "user", "content": question}] for question in rows["question"]]
    kept = rows.select_columns(["id", "source", "question", "answers"])
    return kept.add_column("prompt", prompts)


def _choose(rows: Dataset, size: int, seed: int, source: str) -> Dataset:
    """`size` rows in an order of that seed, or all where there are fewer, which is logged."""
    if not len(rows):
        raise UserError(f"{source} has no rows; give valid, or raise held_out, or set eval_size to 0.")
    if size > len(rows):
        logger.warning("%s has %d rows, so all of them are used instead of %d.", source, len(rows), size)
    order = list(range(len(rows)))
    random.Random(f"tool_qa {seed}").shuffle(order)
    return rows.select(order[:size])
