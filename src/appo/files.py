"""Files that a later run trusts: written under another name, flushed to the disk, then renamed, so never half there.

A reader finds the old content or the new one, whenever the process is killed. JSON lines are the exception: they are
appended to, so that a kill may leave half a last line, which `read_lines` skips. Left out on purpose: locks between
processes (one process writes each file).

    with new_directory(output_dir / "cold_start") as directory:
        model.save_pretrained(directory)
"""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appo.errors import UserError

PARTIAL = ".partial"  # ends the name of what is being written
OLD = ".old"  # ends the name of a directory that is about to be replaced


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name to write a file under, which becomes `path` at the end and replaces what was there.

    Raises:
        OSError: as `open`, for example for a full disk; the old content is then untouched.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes or replaces a file at once.

    Raises:
        OSError: as `open`, for example for a full disk; the old content is then untouched.
    """
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where it is missing or cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def strict_json(value: Any) -> Any:
    """The value with None for numbers that JSON does not have; everything else to the last digit."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: strict_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict_json(item) for item in value]
    return value


def append_lines(path: str | os.PathLike[str], values: Iterable[Any]) -> None:
    """Appends values as JSON, one a line; NaN and infinity become null, and nothing is rounded."""
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(strict_json(value), default=str) + "\n" for value in values)


def read_lines(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Values in order of writing; a last line cut off by a kill is skipped.

    Raises:
        UserError: for a broken line elsewhere, with its number.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                if line.endswith("\n"):
                    raise UserError(f"{path}, line {number} is not JSON; move the file away or mend it.") from None


def set_aside(path: Path) -> Path | None:
    """Renames a file or directory to `name.1.suffix`, or the next number that is free; None where there is none."""
    if not path.exists():
        return None
    number = 1
    while (aside := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    path.rename(aside)
    return aside


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill, which becomes `path` at the end and replaces what was there.

    A kill between its two renames leaves no `path`: a reader finds nothing, never a mixture.
    """
    partial, old = path.with_name(path.name + PARTIAL), path.with_name(path.name + OLD)
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                with open(file, "rb") as opened:
                    os.fsync(opened.fileno())
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if path.exists():
        path.rename(old)
    partial.rename(path)
    sync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that the disk or the user's share of it is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # safetensors has a class of its own; torch says only that its file did not grow.
        if "No space left on device" in str(error) or "inline_container.cc" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def sync_directory(directory: Path) -> None:
    """Flushes the names in a directory, so that a rename outlives a power cut."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that change with the content of `value` (JSON; other objects by their `str`)."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint_files(paths: Iterable[Path]) -> str:
    """16 hexadecimal digits that change with the names (last part) or contents of files."""
    mark = hashlib.sha256()
    for path in sorted(paths):
        mark.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return mark.hexdigest()[:16]
