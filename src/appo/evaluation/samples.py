"""Which samples an evaluation needs, and the file that holds those there are.

`samples.jsonl` gets a line as each sample ends, `settings.json` says how they were made. A sample's seed is a function
of the evaluation's seed, the benchmark, the question's id and the sample's number: which samples are wanted (more
questions, more samples, other benchmarks) may change between runs, how they are made may not.

Left out on purpose: several processes that write one file.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from appo.data.benchmarks import BenchmarkRow
from appo.errors import UserError
from appo.files import append_lines, read_lines, set_aside, write_json

Key = tuple[str, str, int]  # benchmark, id, sample


@dataclass(frozen=True)
class Job:
    """One sample that is wanted."""

    benchmark: str
    row: BenchmarkRow
    sample: int

    @property
    def key(self) -> Key:
        return self.benchmark, self.row.id, self.sample

    def seed(self, seed: int) -> int:
        """The sample's own seed, 64 bits."""
        content = json.dumps([seed, *self.key]).encode()
        return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


class SampleFile:
    """The samples of a directory.

    Args:
        directory: Made if missing.
        settings: What decides how a sample is made; JSON.
        overwrite: Whether to start anew; the file that is there gets another name.

    Raises:
        UserError: where the directory cannot be made or written to, or its samples were made with other settings.
    """

    def __init__(self, directory: Path, settings: dict[str, Any], overwrite: bool) -> None:
        self.path, self._settings_path = directory / "samples.jsonl", directory / "settings.json"
        self._settings = json.loads(json.dumps(settings))
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=directory) as file:  # a directory that is there may refuse files
                file.write(b"?")
        except OSError as error:
            raise UserError(f"output_dir = {str(directory)!r} cannot be made or used: {error.strerror}.") from None
        if overwrite:
            set_aside(self.path)
        self.found: dict[Key, dict[str, Any]] = {}
        if self.path.exists():
            self._check_settings()
            # What a kill left of a last line has to go: the next one would be appended to it.
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
            try:
                records = list(read_lines(self.path))
            except ValueError as error:
                raise UserError(str(error)) from None
            self.found = {(record["benchmark"], record["id"], record["sample"]): record for record in records}

    def _check_settings(self) -> None:
        remedy = "give --overwrite or another --output_dir."
        try:
            old = json.loads(self._settings_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{self._settings_path} is missing, so the samples beside it cannot be kept; {remedy}"
            ) from None
        except ValueError:
            old = None
        if not isinstance(old, dict):
            raise UserError(f"{self._settings_path} is broken, so the samples beside it cannot be kept; {remedy}")
        changed = sorted(name for name in {*old, *self._settings} if old.get(name) != self._settings.get(name))
        if changed:
            values = ", ".join(f"{name} ({old.get(name)!r} before)" for name in changed)
            raise UserError(f"the samples in {self.path} were made with other values of {values}; {remedy}")

    def check_questions(self, jobs: Iterable[Job]) -> None:
        """Raises UserError where a sample there belongs to another question under the same id."""
        for job in jobs:
            record = self.found.get(job.key)
            if record and (record["question"], record["answers"]) != (job.row.question, job.row.answers):
                raise UserError(
                    f"the samples in {self.path} are of other data: {job.benchmark} {job.row.id} has another question "
                    "or answer; give --overwrite or another --output_dir."
                )

    def start(self) -> None:
        """Writes down the settings, before the first sample."""
        write_json(self._settings_path, self._settings)

    def add(self, record: dict[str, Any]) -> None:
        """Appends a sample; it is in the file when this returns."""
        append_lines(self.path, [record])
        self.found[record["benchmark"], record["id"], record["sample"]] = record
