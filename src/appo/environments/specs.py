"""What TRL's `GRPOTrainer` is given, as the parts of a task: `Task.from_spec`.

TRL's specs (`trl.experimental.openreward.OpenRewardSpec`, `trl.experimental.harbor.HarborSpec`) and scripts name the
same few things: `train_dataset`, `environment_factory`, `reward_funcs`, perhaps `eval_dataset` and `tools`. A recipe
asks for more, which is made here: rows in an order of a seed, and rows for evaluations that are not trained on.

Left out on purpose: streamed data sets, of which no share can be held out, and reward models, which are no functions.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from datasets import Dataset

from appo.data.content import deciding_columns, is_held_out, key_of, question_text, repeats
from appo.environments.choosing import choose
from appo.errors import UserError, did_you_mean

FIELDS = ("train_dataset", "eval_dataset", "environment_factory", "reward_funcs", "tools")
EMPTY = [{"role": "user", "content": ""}]  # TRL's prompt where `reset` gives it


def spec_parts(spec: Any, held_out: float, copies: bool) -> dict[str, Any]:
    """Arguments of a `Task`; see `Task.from_spec`.

    Raises:
        UserError: for what is missing, or of another kind than a task takes.
    """
    given = _given(spec)
    if isinstance(held_out, bool) or not isinstance(held_out, int | float) or not 0 <= held_out < 1:
        raise UserError(f"held_out must lie in [0, 1), got {held_out!r}.")
    factory = _factory(given["environment_factory"])
    train, evaluation = (_table(name, given[name]) for name in ("train_dataset", "eval_dataset"))
    if train is None and (factory is None or isinstance(factory, dict)):
        raise UserError(
            "Task.from_spec: train_dataset is missing; only one environment_factory whose reset() returns the prompt "
            "does without."
        )
    if not copies and factory is not None:
        several = isinstance(factory, dict)
        factory = {k: _uncopied(f) for k, f in factory.items()} if several else _uncopied(factory)
    return {
        **_datasets(train, evaluation, held_out, factory is not None),
        "environment_factory": factory,
        "reward_funcs": _several("reward_funcs", given["reward_funcs"]),
        "tools": _several("tools", given["tools"]),
    }


def _given(spec: Any) -> dict[str, Any]:
    """The fields of an object or a mapping; None for those that it has not."""
    if isinstance(spec, Mapping):
        if unknown := [name for name in spec if name not in FIELDS]:
            hint = did_you_mean(str(unknown[0]), FIELDS, f"it takes {', '.join(FIELDS)}.")
            raise UserError(f"Task.from_spec: a task has no {unknown[0]}; {hint}")
        return {name: spec.get(name) for name in FIELDS}
    # Statically, as a property may ask a server, and what fails in it should be seen.
    found = [name for name in FIELDS if inspect.getattr_static(spec, name, None) is not None]
    if inspect.isclass(spec) or not found:
        kind = f"the class {spec.__name__}; make one: {spec.__name__}(..)" if inspect.isclass(spec) else repr(spec)
        raise UserError(f"Task.from_spec takes an object or a dict with {', '.join(FIELDS)}, got {kind}.")
    return {name: getattr(spec, name) if name in found else None for name in FIELDS}


def _several(name: str, given: Any) -> list[Callable[..., Any]]:
    functions = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    for one in functions:
        if not callable(one):
            raise UserError(f"Task.from_spec: {name} must be a function or a list of functions, got {one!r}.")
    return functions


def _factory(given: Any) -> Any:
    """A function, a dict of functions by name, or None."""
    factories = given.values() if isinstance(given, Mapping) else [] if given is None else [given]
    for one in factories:
        if not callable(one):
            kind = type(one).__name__
            raise UserError(
                f"Task.from_spec: environment_factory must make environments, got an object of class {kind}; give the "
                f"class, {kind}, or a function that returns one."
            )
    return dict(given) if isinstance(given, Mapping) else given


def _table(name: str, given: Any) -> Dataset | None:
    if given is None or (isinstance(given, Dataset) and len(given)):
        return given
    if isinstance(given, Dataset):
        raise UserError(f"Task.from_spec: {name} has no rows; give some.")
    kind = type(given).__name__
    remedy = {
        "DatasetDict": f"give one of its parts, such as {name}[{next(iter(given), 'train')!r}]" if given else "",
        "dict": "give one of its data sets",
        "IterableDataset": "write Dataset.from_list(list(rows.take(1000)))",
    }.get(kind)
    raise UserError(
        f"Task.from_spec: {name} must be a datasets.Dataset, got a {kind}; "
        f"{remedy or 'write Dataset.from_list(rows)'}."
    )


def _datasets(
    train: Dataset | None, evaluation: Dataset | None, held_out: float, with_environment: bool
) -> dict[str, Any]:
    """`dataset` and `eval_dataset` of the task; without rows the environment draws its episodes itself."""
    sides = cache(lambda: (train, evaluation) if evaluation is not None else _split(train, held_out, with_environment))
    of = f"train_dataset: held_out = {held_out} leaves no rows"
    none = (
        f"{of} to train on; lower it, or give the spec an eval_dataset.",
        f"{of} for evaluations; raise it, give the spec an eval_dataset, or set eval_size to 0.",
    )

    def questions(size: int, seed: int) -> Dataset:
        return choose(sides()[1], size, seed, "eval_size", "the data for evaluations", none[1])

    if train is None:
        return {"dataset": _placeholders, "eval_dataset": None if evaluation is None else questions}
    return {
        "dataset": lambda size, seed: choose(sides()[0], size, seed, "train_size", "train_dataset", none[0]),
        "eval_dataset": questions,
    }


def _split(rows: Dataset, held_out: float, with_environment: bool) -> tuple[Dataset, Dataset]:
    """Rows to train on and rows to evaluate on: all on both sides, where the environment draws what they are about."""
    if not with_environment:
        texts = [question_text(row.get("prompt")) for row in rows]
    else:
        columns = deciding_columns(rows.column_names, True)
        keys = [key_of(row, columns) for row in rows]
        if repeats(keys):
            return rows, rows
        texts = [key.hex() for key in keys]
    out = [is_held_out(text, held_out) for text in texts]
    train, held = (rows.select([i for i, o in enumerate(out) if o is side]) for side in (False, True))
    return train, held


def _placeholders(size: int, seed: int) -> Dataset:
    return Dataset.from_dict({"prompt": [EMPTY] * size})


def _uncopied(factory: Callable[[], Any]) -> Callable[[], Any]:
    return partial(_make_uncopied, factory)


def _make_uncopied(factory: Callable[[], Any]) -> Any:
    environment = factory()
    environment.fork = None  # see `appo.rollout.loop.snapshot`
    return environment
