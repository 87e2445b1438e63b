"""The directory of a run: which run lies in it, and what of it can be gone on with.

A run is the same run where its settings, its data, its tools and rewards, and what it starts from are the same. An
unfinished run of another kind is refused, never mixed. `run.json` says what a run is, before anything is trained.

Left out on purpose: what is done in it (`train.py`).
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list
from datasets import Dataset
from filelock import FileLock, Timeout
from rich.console import Console
from trl import SFTConfig

from appo.checkpoints import find_checkpoint, named_checkpoint
from appo.cli import content
from appo.cli.cold_start import cold_dir, cold_start_content, cold_start_settings, model_content
from appo.cli.mistakes import RecipeError
from appo.cli.run_config import RunConfig
from appo.config import NOT_SETTINGS, APPOConfig
from appo.environments.base import Task
from appo.files import read_json, write_json

# Besides NOT_SETTINGS: permissions, and what is done to a run as a whole.
NOT_SETTINGS_OF_RUN = ("allow_unisolated", "overwrite", "dry_run", "resume_from_checkpoint")
MADE_FROM = {
    "rows": "the training rows",
    "questions": "the evaluation's questions",
    "functions": "tools, rewards or environment",
    "model": "the model",
    "cold_start": "the cold start (demonstrations, tools or model)",
}
T = TypeVar("T")


def model_dir(args: APPOConfig) -> Path:
    return Path(args.output_dir) / "model"


def _run_path(args: APPOConfig) -> Path:
    return Path(args.output_dir) / "run.json"


def on_main(args: APPOConfig, work: Callable[[], T]) -> T:
    """What `work` returns on the main process, for every process; its errors are every process' errors, too."""
    found: list[Any] = [None, None]
    if args.distributed_state is None or args.distributed_state.is_main_process:
        try:
            found[0] = work()
        except Exception as error:
            if args.world_size == 1:
                raise
            found[1] = error
    broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]


@contextmanager
def alone_in(args: APPOConfig) -> Iterator[None]:
    """Holds `output_dir` for this command; a kill gives it back.

    Raises:
        RecipeError: where another command is at work in it, or nothing can be written there.
    """
    lock = FileLock(Path(args.output_dir) / ".lock")

    def acquire() -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RecipeError(
                f"another command is at work in output_dir = {args.output_dir!r}; wait for its end, or give another."
            ) from None
        except OSError as error:
            raise RecipeError(f"output_dir = {args.output_dir!r} cannot be written to: {error.strerror}.") from None

    on_main(args, acquire)
    try:
        yield
    finally:
        lock.release()


def run_settings(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> dict[str, Any]:
    """What decides a run's outcome, as JSON has it; two runs are the same if these are."""
    fields = {**asdict(config), **args.to_dict(), "cold_start": cold_start_settings(config, args, sft_args)}
    fields["world_size"] = args.world_size
    for name in (*NOT_SETTINGS, *NOT_SETTINGS_OF_RUN):
        fields.pop(name, None)
    return json.loads(json.dumps(fields, default=str))


def forget_run(args: APPOConfig) -> None:
    """Removes what an earlier run would be resumed from or reported by; its records are kept under another name."""
    directory = Path(args.output_dir)
    # First what says that there is a finished run: a kill here must not leave that without its model.
    for path in [directory / "result.json", _run_path(args), *directory.glob("evaluation-*.json")]:
        path.unlink(missing_ok=True)
    for path in [*directory.glob("checkpoint-*"), cold_dir(args), model_dir(args)]:
        shutil.rmtree(path, ignore_errors=True)


def read_found(path: Path, console: Console) -> dict[str, Any] | None:
    """A file that an earlier run wrote; None where there is none, or a broken one."""
    found = read_json(path)
    if path.exists() and not isinstance(found, dict):
        console.print(f"{path} is broken and left out")
        return None
    return found


def checkpoint_of(args: APPOConfig, mark: dict[str, Any], console: Console) -> str | None:
    """Where to go on from. One that the user names is taken as it is; another has to be of a run with these settings.

    Raises:
        RecipeError: where it is not.
    """
    if args.resume_from_checkpoint:
        return named_checkpoint(args.resume_from_checkpoint)
    checkpoint, notes = find_checkpoint(args.output_dir)
    for note in notes:
        console.print(note)
    if checkpoint and args.save_only_model:
        raise RecipeError(
            f"{checkpoint} holds weights alone, as save_only_model is true, so that the run cannot go on as it was; "
            "--overwrite true trains anew, resume_from_checkpoint: DIR goes on from the weights."
        )
    if checkpoint:
        # What it is made from is known, and compared, only once the task is loaded.
        _refuse_other(args, read_found(_run_path(args), console) or {}, {**mark, "made_from": {}})
    return checkpoint


def _refuse_other(args: APPOConfig, old: dict[str, Any], new: dict[str, Any]) -> None:
    remedy = "another output_dir, or --overwrite true to train anew"
    if not old:
        raise RecipeError(
            f"{args.output_dir} holds checkpoints, but no run.json that says which run they are of; name one as "
            "resume_from_checkpoint, or give another output_dir, or --overwrite true to train anew."
        )
    part = "made_from" if new["made_from"] else "settings"
    was, now = old.get(part) or {}, new[part]
    changed = sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
    if changed and part == "settings":
        values = ", ".join(f"{name} ({was.get(name)!r}, now {now.get(name)!r})" for name in changed)
        raise RecipeError(
            f"the unfinished run in {args.output_dir} has other values of {values}; give them as they were, {remedy}."
        )
    if changed:
        names = ", ".join(MADE_FROM[name] for name in changed)
        raise RecipeError(
            f"the unfinished run in {args.output_dir} was started with another content of {names}; give what it was "
            f"(the same at every call with one size and seed), {remedy}."
        )


def made_from(
    config: RunConfig,
    args: APPOConfig,
    task: Task,
    rows: Dataset,
    questions: Dataset | None,
    has_cold_start: bool,
    made: Any = None,
) -> dict[str, Any]:
    """Fingerprints of what a run is made from; keys are those of MADE_FROM.

    Args:
        made: The model that the task makes, where it is at hand.
    """
    factory = task.environment_factory
    factories = list(factory.values()) if isinstance(factory, dict) else [factory]
    # A command stands among the task's arguments; what its program holds nobody knows.
    agents = [task.agent.function] if task.agent is not None and task.agent.function else []
    content_of_start = cold_start_content if has_cold_start else model_content
    start = content_of_start(config, args, task, made)
    return {
        "rows": content.of_rows(rows),
        "questions": None if questions is None else content.of_rows(questions),
        "functions": content.of_code([*task.tools, *task.reward_funcs, *factories, *agents]),
        "cold_start" if has_cold_start else "model": start,
    }


def start_or_go_on(args: APPOConfig, mark: dict[str, Any], checkpoint: str | None) -> None:
    """Writes down what this run is, unless it goes on with one that has to be the same.

    Raises:
        RecipeError: where it is not.
    """
    old = read_json(_run_path(args))
    old = old if isinstance(old, dict) else {}
    if checkpoint and not args.resume_from_checkpoint:
        return _refuse_other(args, old, mark)
    if old != mark:
        for path in Path(args.output_dir).glob("evaluation-*.json"):  # of the other run
            path.unlink()
        write_json(_run_path(args), mark)
