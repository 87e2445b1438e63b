"""Fingerprints of what a run was made from: its data, code and starting weights, by content and not by name.

A cold start or an interrupted run is gone on with only where these are the same. Left out on purpose: code that a
task's functions call, and the content of models on the hub.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset

from appo.environments.base import Demonstration, each_demonstration
from appo.files import fingerprint


def of_rows(rows: Dataset) -> str:
    """Of a data set's rows, in their order."""
    mark = hashlib.sha256()
    for row in rows:
        mark.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return mark.hexdigest()[:16]


def of_demonstrations(demonstrations: Iterable[Demonstration]) -> str:
    """Of what is said in demonstrations, and which of it carries loss."""
    mark = hashlib.sha256()
    for demonstration in each_demonstration(demonstrations):
        pieces = [(segment.text, segment.trained, segment.token_ids) for segment in demonstration.segments]
        mark.update(json.dumps([demonstration.prompt, pieces], default=str).encode() + b"\n")
    return mark.hexdigest()[:16]


def of_weights(model: Any) -> str:
    """Of a model's parameters; for models made on the spot, which are small."""
    mark = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        mark.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        mark.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return mark.hexdigest()[:16]


def of_model_directory(source: str) -> str | None:
    """Of the files' names, sizes and times (their content may be many gigabytes); None for what is no directory."""
    if not Path(source).is_dir():
        return None
    stats = {path.name: path.stat() for path in Path(source).iterdir() if path.is_file()}
    return fingerprint({name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()})


def of_outsides(functions: Iterable[Callable[..., Any]]) -> str:
    """Of names, signatures and docstrings: what a model is told of tools."""
    return fingerprint(
        [[_name(function), str(inspect.signature(function)), function.__doc__] for function in functions]
    )


def of_code(functions: Iterable[Any]) -> str:
    """Of the functions' own source."""
    return fingerprint([_source(function) for function in functions])


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # a class instance, a partial, something typed at a prompt
        return _name(function)
