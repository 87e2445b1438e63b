"""What a run says of itself besides its records: settings, versions, evaluations, what was logged.

All of it may be missing: a run that is not finished has no `result.json`, one made in Python no `run.json`, an older
one no `meta.json`. What is missing is None, and the report leaves it out.

Left out on purpose: the records themselves (`columns.py`).
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appo.errors import UserError
from appo.files import read_json
from appo.rollout.record_files import DIRECTORY, LINES, records_at
from appo.rollout.records import read_meta, read_vocabulary

EVALUATION_PART = re.compile(r"(.+?)-\d+(?:\.\d+)?$")  # an evaluation is recorded in several files, by each process
EVALUATION_NAME = re.compile(r"(\d+)(?:-(.+))?")  # of one in training: its update, perhaps its data set
NOT_CURVES = ("step", "epoch", "total_flos", "train_runtime")


@dataclass
class Run:
    """A run's directory, read.

    Args:
        place: Its records: a folder, or a file.
        directory: Its `output_dir`, as far as it can be told.
        settings: What it was started with; empty where nothing says so.
        versions: Of appo, of torch, transformers and TRL, and of the columns of records.
        texts: The text of each token id; may be empty.
        logged: What the trainer logged, a mapping per log with its `step`.
        evaluations: Success before and after, with its interval, as `evaluation-NAME.json` has it, by name.
    """

    place: Path
    directory: Path
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    logged: list[dict[str, Any]] = field(default_factory=list)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def method(self) -> str | None:
        found = self.settings.get("method")
        return found if found and isinstance(found, str) else ("appo" if self.settings else None)

    @property
    def method_options(self) -> dict[str, Any]:
        """All of them where the records say so, else those that were given."""
        known = _mapping(self.settings.get("method_options"))
        return {**known, **_mapping(self.settings.get("method_args"))}

    @property
    def success_reward(self) -> float:
        """Least reward that counts as success; 1 where nothing says so, as `APPOConfig` has it.

        Raises:
            UserError: where the run's settings give no number.
        """
        found = self.settings.get("success_reward")
        try:
            return 1.0 if found is None else float(found)
        except (TypeError, ValueError):
            raise UserError(
                f"success_reward = {found!r} in the settings of {self.directory} is no number; mend run.json there."
            ) from None

    @property
    def report(self) -> Path:
        """Where its report goes unless somebody says otherwise; what was set aside, or is a part, has its own."""
        if self.place in (self.directory, self.directory / DIRECTORY, self.directory / LINES):
            return self.directory / "report.html"
        return self.directory / f"report-{self.place.stem if self.place.is_file() else self.place.name}.html"

    @property
    def protocol(self) -> str | None:
        return self.settings.get("tool_protocol")


def read_run(path: str | Path) -> Run:
    """
    Args:
        path: A run's `output_dir`, its `records`, one file of it, or an older `records.jsonl`.

    Raises:
        UserError: where there are no records.
    """
    place = records_at(path)
    if place is None:
        missing = "does not exist" if not Path(path).exists() else "holds no records"
        raise UserError(f"{path} {missing}; give a run's output_dir (with save_records, the default), or its records.")
    folder = place if place.is_dir() else place.parent
    directory = folder.parent if folder.name.startswith(DIRECTORY) else folder
    meta = read_meta(path)
    of_now = folder.name == DIRECTORY or folder == directory  # what was set aside is another run's
    started = _mapping(read_json(directory / "run.json")).get("settings") if of_now else None
    result = _mapping(read_json(directory / "result.json")) if of_now else {}
    settings = {**_mapping(meta.get("settings")), **_mapping(result.get("settings")), **_mapping(started)}
    of_records = meta.get("version", 1 if place.suffix == ".jsonl" else None)
    versions = {"appo": meta.get("appo"), **_mapping(meta.get("versions")), "records": of_records}
    if isinstance(result.get("versions"), dict):
        versions.update(result["versions"])
    return Run(
        place,
        directory,
        settings,
        {name: value for name, value in versions.items() if value is not None},
        read_vocabulary(path),
        _logged(directory) if of_now else [],
        _evaluations(directory, result) if of_now else {},
    )


def _mapping(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _logged(directory: Path) -> list[dict[str, Any]]:
    """The log of the trainer's newest state: at the end beside the records, before that in checkpoints."""
    states = [directory / "trainer_state.json"]
    numbered = [(int(path.name.rpartition("-")[2]), path) for path in directory.glob("checkpoint-*[0-9]")]
    states += [path / "trainer_state.json" for _, path in sorted(numbered, reverse=True)]
    for state in states:
        history = _mapping(read_json(state)).get("log_history")
        if isinstance(history, list):
            return [entry for entry in history if isinstance(entry, dict) and isinstance(entry.get("step"), int)]
    return []


def _evaluations(directory: Path, result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {name: result[name] for name in ("before", "after") if isinstance(result.get(name), dict)}
    for path in sorted(directory.glob("evaluation-*.json")):
        value = read_json(path)
        if isinstance(value, dict) and "success" in value:
            found[path.stem.removeprefix("evaluation-")] = value
    return {name: found[name] for name in sorted(found, key=evaluation_order)}


def evaluation_order(name: str | None) -> tuple[int, str]:
    """Sorts the names of evaluations: before, those in between, after."""
    return {"before": 0, "after": 2}.get(name or "", 1), name or ""


def evaluation_name(stem: str) -> str:
    """The evaluation that a file `evaluation-NAME.parquet` is a part of: "before-000256" belongs to "before"."""
    name = stem.removeprefix("evaluation-")
    match = EVALUATION_PART.fullmatch(name)
    return match[1] if match else name.partition(".")[0]


def evaluation_words(name: str) -> str:
    """An evaluation's name as people say it: "000020-hard" is "update 20, hard"."""
    match = EVALUATION_NAME.fullmatch(name)
    return name if match is None else ", ".join(filter(None, (f"update {int(match[1])}", match[2])))


def logged_series(logged: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """What was logged as curves: by name, then by step; the last of several logs of a step."""
    curves: dict[str, dict[int, float]] = {}
    for entry in logged:
        for name, value in entry.items():
            if name not in NOT_CURVES and isinstance(value, (int, float)) and not name.startswith("train_"):
                curves.setdefault(name, {})[entry["step"]] = float(value)
    return curves
