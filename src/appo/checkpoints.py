"""Checkpoints that are whole, or do not count.

transformers writes a checkpoint file by file, so a kill or a full disk may leave any part of one. A finished one is
therefore sealed: a list of its files, their sizes and (of all but the largest) their content, written last. Only
sealed ones are gone on from, and only once one is sealed are older ones removed.

Left out on purpose: what is in a checkpoint (transformers', and `rollout/batches.py`).
"""

import os
import re
from pathlib import Path

from appo.errors import UserError
from appo.files import fingerprint_files, read_json, write_json

SEAL = "whole.json"
LARGE = 64 * 2**20  # bytes from which a file is known by its size alone: reading it again would take too long
STATE = "trainer_state.json"


def unseal(directory: Path) -> None:
    """Has a checkpoint count as unfinished, before it is written over."""
    (directory / SEAL).unlink(missing_ok=True)


def seal(directory: Path) -> None:
    """Flushes a finished checkpoint to the disk and writes down what it consists of."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != SEAL]
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    marks = {path.relative_to(directory).as_posix(): _mark(path) for path in files}
    write_json(directory / SEAL, {"files": marks})


def _mark(path: Path) -> list[int | str]:
    """Size and, where the file is not large, what stands for its content."""
    size = path.stat().st_size
    return [size] if size >= LARGE else [size, fingerprint_files([path])]


def fault_of(directory: Path) -> str | None:
    """Why a checkpoint cannot be used, or None where it is whole."""
    if not (directory / SEAL).is_file():
        return f"{SEAL} is missing: it was not written to its end"
    found = read_json(directory / SEAL)
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        return f"{SEAL} is broken"
    for name, (size, *_) in found["files"].items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes of {size}"
    changed = [name for name, mark in found["files"].items() if _mark(directory / name) != mark]
    return f"{changed[0]} has another content" if changed else None


def find_checkpoint(output_dir: str | os.PathLike[str]) -> tuple[str | None, list[str]]:
    """The newest whole checkpoint of a run.

    Returns:
        Its path, or None where there is none; and a sentence for each newer one that cannot be used.
    """
    numbered = [
        (int(match[1]), path)
        for path in Path(output_dir).glob("checkpoint-*")
        if path.is_dir() and (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    notes: list[str] = []
    for _, path in sorted(numbered, reverse=True):
        fault = fault_of(path)
        if fault is None:
            return str(path), notes
        notes.append(f"{path} is left out: {fault}.")
    return None, notes


def named_checkpoint(directory: str) -> str:
    """A checkpoint that the user named, which need not be sealed (TRL writes none).

    Raises:
        UserError: where it is none, or where its seal says that something is missing.
    """
    path = Path(directory)
    if not path.is_dir():
        raise UserError(
            f"resume_from_checkpoint = {directory!r} is no directory; name one, such as out/checkpoint-100."
        )
    fault = fault_of(path) if (path / SEAL).exists() else None
    if fault is None and not isinstance(read_json(path / STATE), dict):
        fault = f"its {STATE} is missing or broken"
    if fault:
        raise UserError(f"resume_from_checkpoint = {directory!r} cannot be used: {fault}; name another, or none.")
    return directory
