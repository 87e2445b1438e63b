"""A run's records, task by task: a tree of rollouts at a time, however long the run was.

Left out on purpose: how a task is shown (`task_table.py`, `transcript.py`), and torch.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from appo.data.rows import ANSWER_COLUMNS
from appo.errors import UserError
from appo.rollout.record_files import EVALUATION, UPDATE, record_files
from appo.rollout.records import read_records

Record = dict[str, Any]
PART = re.compile(r"-\d+$")  # of an evaluation that was written in several files


@dataclass
class RecordedTask:
    """The rollouts of one task in one update, or in one evaluation.

    Args:
        source: "update 60" or "evaluation after".
        step: Of the optimizer; None where an older run did not say.
        id: The task's name.
        records: Its rollouts, initial ones first.
    """

    source: str
    step: int | None
    id: str
    records: list[Record] = field(default_factory=list)

    @property
    def initial(self) -> list[Record]:
        """The rollouts that were written from the prompt."""
        return [record for record in self.records if record.get("parent") is None]

    @property
    def branches(self) -> list[Record]:
        return [record for record in self.records if record.get("parent") is not None]

    def branches_of(self, rollout: int) -> list[Record]:
        """The branches that left a rollout, in order of position."""
        found = [record for record in self.branches if record["parent"] == rollout]
        return sorted(found, key=lambda record: record["branch_position"])

    def rollout(self, number: int) -> Record | None:
        """The rollout at a place in the tree; None where there is none."""
        return next((record for record in self.records if record.get("rollout") == number), None)

    @property
    def prompt(self) -> Any:
        """A text or messages; None where an older run did not keep it."""
        return self.records[0].get("prompt")

    @property
    def reference(self) -> Any:
        """The answer in the data's row, under the names that circulate; None where there is none."""
        row = self.records[0].get("row")
        if not isinstance(row, dict):
            return None
        return next((row[name] for name in ANSWER_COLUMNS if row.get(name) not in (None, "", [])), None)


def mean_reward(records: Iterable[Record]) -> float | None:
    """Of those that were scored; None where none was."""
    rewards = [record["reward"] for record in records if record.get("reward") is not None]
    return sum(rewards) / len(rewards) if rewards else None


def question(prompt: Any) -> str:
    """The text of a prompt, or of its last message by the user."""
    if not isinstance(prompt, list):
        return "" if prompt is None else str(prompt)
    asked = [message for message in prompt if message.get("role") == "user"] or prompt
    return message_text(asked[-1].get("content")) if asked else ""


def message_text(content: Any) -> str:
    """The text of a message; of one in parts, their texts."""
    if isinstance(content, list):
        return "".join(part.get("text", f"({part.get('type', 'part')})") for part in content)
    return "" if content is None else str(content)


def recorded_tasks(
    files: Sequence[Path], columns: Iterable[str] | None = None, step: int | None = None
) -> Iterator[RecordedTask]:
    """The tasks in these files, in order.

    Args:
        files: Of records, as `files_of` finds them.
        columns: As for `read_records`; those that a task needs are added.
        step: Those of one update alone, where a file holds several.
    """
    wanted = None if columns is None else {*columns, "step", "task", "rollout", "parent"}
    for file in files:
        records = read_records(file, kind=None, columns=wanted)
        for (at, name), group in groupby(records, lambda record: (record.get("step"), record.get("task", ""))):
            if step in (None, at):
                yield RecordedTask(source_of(file, at), at, str(name), list(group))


def source_of(file: Path, step: int | None) -> str:
    """What a file's rollouts come from, in words."""
    if name := EVALUATION.fullmatch(file.name):
        return f"evaluation {PART.sub('', name[1])}"
    return "an update" if step is None else f"update {step}"


def files_of(run: str, kind: str, step: int | str | None) -> list[Path]:
    """The files of an update, of an evaluation, or of all.

    Args:
        run: As in `record_files`.
        kind: "train" or "evaluation".
        step: Of the optimizer; "all"; None: the last one that there is.

    Raises:
        UserError: where there are no records, none of this kind, or none of this update.
    """
    files = record_files(run, kind)
    if not files:
        other = "evaluation" if kind == "train" else "train"
        raise UserError(f"{run} holds no records of kind {kind}; try --kind {other}.")
    if step == "all" or files == [Path(run)]:  # a file that was named is what is wanted
        return files
    steps = {file: number for file in files if (number := _step_of(file)) is not None}
    if not steps:
        return files  # of an older run, whose one file holds all updates
    wanted = max(steps.values()) if step is None else step
    found = [file for file in files if steps.get(file) == wanted]
    if not found:
        raise UserError(
            f"{run} holds nothing of step {wanted}; there are steps {min(steps.values())} to {max(steps.values())}."
        )
    return found


def files_of_task(run: str, kind: str, task: str) -> list[Path]:
    """The files of the last step that has a task of this name; an evaluation may have several.

    Raises:
        UserError: where no file has one.
    """
    found: list[Path] = []
    steps = {file: _step_of(file) for file in files_of(run, kind, "all")}
    for file in sorted(steps, key=lambda file: -(steps[file] or 0)):  # in their order, where steps are equal
        if found and steps[file] != steps[found[0]]:
            break
        if any(str(record.get("task", "")) == task for record in read_records(file, kind=None, columns=["task"])):
            found.append(file)
    if not found:
        raise UserError(f"task = {task!r}: {run} holds none of this name; `appo show {run}` lists what there is.")
    return found


def last_step(files: Iterable[Path]) -> int | None:
    """The last update of an older run's file, which holds several; None where it is not said."""
    steps = (record.get("step") for file in files for record in read_records(file, kind=None, columns=["step"]))
    return max((step for step in steps if step is not None), default=None)


def _step_of(file: Path) -> int | None:
    """The one step of a file; None where it holds several, or no rollout."""
    if match := UPDATE.fullmatch(file.name):
        return int(match[1])
    if not EVALUATION.fullmatch(file.name):
        return None
    return next((record["step"] for record in read_records(file, kind=None, columns=["step"])), None)
