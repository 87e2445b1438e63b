"""The prompts of a data set's rows: present, and a text or messages, before anything is trained on them.

Only an environment may make up for a row without `prompt`, as in TRL: then what its `reset` returns is the prompt.
Left out on purpose: how a prompt is rendered (TRL), and whether it fits the model (`appo.cli.checks_task`).
"""

import reprlib
from collections.abc import Mapping
from typing import Any

from datasets import Dataset, IterableDataset

from appo.errors import UserError
from appo.rollout.environments import EnvironmentPool, opening

KINDS = "a text or a list of messages such as {'role': 'user', 'content': 'Where is Accra?'}"


def check_prompts(name: str, data: Any, with_environment: bool) -> None:
    """Looks at the first row of a data set, or of each in a mapping, and for None in all rows where that is cheap.

    Args:
        name: The data set's, for errors.
        data: A `datasets.Dataset` or `IterableDataset`, or a mapping of such; anything else is left to TRL.
        with_environment: Whether `reset` of an environment may give the prompt.

    Raises:
        UserError: where there is no `prompt`, or one that is none; it names the columns that there are.
    """
    if isinstance(data, Mapping):
        for part, own in data.items():
            check_prompts(f"{name}[{part!r}]", own, with_environment)
        return
    if not isinstance(data, Dataset | IterableDataset) or (row := next(iter(data), None)) is None:
        return
    if "prompt" in row:
        _check(row["prompt"], f"{name}, row 0", may_be_empty=with_environment)
    elif not with_environment:
        raise UserError(f"{name} {_no_prompt(row)}")
    # Rows that a transform makes are looked at when rollouts start from them.
    if isinstance(data, Dataset) and "prompt" in data.column_names and data.format["type"] != "custom":
        for number, prompt in enumerate(data.with_format("arrow")["prompt"][:].to_pylist()):
            _check(prompt, f"{name}, row {number}", may_be_empty=with_environment)


def check_rendered(name: str, data: Any, tokenizer: Any) -> None:
    """Whether the tokenizer can write the prompt of a data set's first row.

    Raises:
        UserError: for messages where it has no chat template.
    """
    row = next(iter(data), None) if isinstance(data, Dataset | IterableDataset) else None
    if row is not None and isinstance(row.get("prompt"), list) and tokenizer.chat_template is None:
        raise UserError(
            f"{name}: its prompts are messages, but the model's tokenizer has no chat template to write them with; "
            "use an instruct model, or prompts that are texts."
        )


def check_rows(task: str, name: str, data: Any, with_environment: bool) -> None:
    """As `check_prompts`, for what a function of a task returned.

    Args:
        task: The task's name, for errors.

    Raises:
        UserError: for anything but a `datasets.Dataset` with rows, too.
    """
    if not isinstance(data, Dataset):
        found = "None" if data is None else type(data).__name__
        raise UserError(
            f"task = {task!r}: {name} must be a datasets.Dataset, got {found}; return one, for example "
            "Dataset.from_list(rows)."
        )
    if not len(data):
        raise UserError(f"task = {task!r}: {name} must have rows, but there are none.")
    check_prompts(name, data, with_environment)


def check_reset(name: str, data: Dataset, pool: EnvironmentPool) -> None:
    """Whether `reset` of an environment makes up for the first row without a prompt, if there is one.

    Raises:
        UserError: where it does not.
    """
    for number, row in enumerate(data):
        if not _has_text(row.get("prompt")):
            starting_prompt(row, pool.open(row)[1], f"{name}, row {number}")
            return


def starting_prompt(row: Mapping[str, Any], observation: Any, place: str | None = None) -> Any:
    """What a rollout starts from: the row's prompt and, appended to it, what `reset` of the environment returned.

    Args:
        place: Of the row, for errors; else they show its other columns.

    Raises:
        UserError: where that is no prompt, or an empty one.
    """
    if "prompt" in row:
        _check(row["prompt"], place or _columns(row), may_be_empty=bool(observation))
    elif not observation:
        place = place or "a row"
        raise UserError(f"{place} {_no_prompt(row)} Else the environment's reset() has to return the prompt.")
    return opening(row, observation)


def _columns(row: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{name} = {reprlib.repr(value)}" for name, value in row.items() if name != "prompt")
    return f"the row with {shown}" if shown else "a row"


def _no_prompt(row: Mapping[str, Any]) -> str:
    columns = ", ".join(map(str, row)) or "no columns at all"
    return f"has no column `prompt`, but {columns}; rename the one that holds it: rows.rename_column(OLD, 'prompt')."


def _check(prompt: Any, place: str, may_be_empty: bool) -> None:
    messages = isinstance(prompt, list) and all(isinstance(part, Mapping) and "role" in part for part in prompt)
    if not (isinstance(prompt, str) or (messages and prompt)):
        shown = repr(prompt) if len(repr(prompt)) < 60 else f"a {type(prompt).__name__}"
        raise UserError(f"{place}: `prompt` is {shown}, but it must be {KINDS}; convert it, or leave such rows out.")
    if not _has_text(prompt) and not may_be_empty:
        raise UserError(f"{place}: `prompt` is empty; give {KINDS}, or have the environment's reset() return it.")


def _has_text(prompt: Any) -> bool:
    texts = [part.get("content") for part in prompt] if isinstance(prompt, list) else [prompt]
    return any(texts)
