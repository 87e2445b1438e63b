"""A run's records, read once: packed for the page, counted for its figures, tried against the credit equation.

Left out on purpose: the file that comes of it (`write.py`).
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from appo.report.bar import SECONDS_BETWEEN_LINES, Stages
from appo.report.html.atlas import Atlas
from appo.report.html.columns import Part, parts_of, read_parts
from appo.report.html.compare import TRAINING, RowSuccess, gain
from appo.report.html.credit import CreditCheck
from appo.report.html.credit_words import base_of, factor_help
from appo.report.html.pack import NO_EVALUATION, RunPacker
from appo.report.html.run import Run, evaluation_name
from appo.report.html.sampling import Trees, among, chosen_trees
from appo.report.html.summary import Evaluations, Series, settings_of
from appo.rollout.record_files import record_files

# Shapes: R rollouts of a part.

EVALUATIONS_SHARE = 5  # of a sample, a fifth is of evaluations, where there are some
Emit = Callable[[str, int, int, int], None]


class Gathered:
    """One run.

    Args:
        run: The run.
        emit: Takes shards, as `RunPacker` gives them.
        sample: About how many rollouts can be opened; None: all.
        console: A `rich` console to tell progress to; None: none.
    """

    def __init__(self, run: Run, emit: Emit, sample: int | None = None, console: Any = None) -> None:
        self._run, self._sample = run, sample
        self._check = CreditCheck(base_of(run.method, run.method_options))
        self._packer = RunPacker(run, emit)
        self._series, self._evaluations = Series(run.success_reward), Evaluations(run)
        self._atlas = Atlas(run.texts)
        self._rollouts = self._tokens = 0
        self.rows = RowSuccess(run.success_reward)
        files = record_files(run.place, "evaluation")
        of_evaluations = max(1, sample // EVALUATIONS_SHARE) if sample and files else 0
        training = self._chosen("train", sample and max(1, sample - of_evaluations))
        for part in self._parts("train", console):
            parts_P = parts_of(part, run.texts, run.protocol)
            numbers_R = self._pack(part, parts_P, training)
            self._series.add(part)
            self._atlas.add(part, parts_P, numbers_R)
            self.rows.add(part, TRAINING)
        evaluated = self._chosen("evaluation", sample and of_evaluations)
        for file in files:
            name = evaluation_name(file.stem)
            for part in read_parts(file, "evaluation"):
                number = min(self._evaluations.number(name), NO_EVALUATION)
                self._evaluations.add(name, part)
                self.rows.add(part, name)
                if number != NO_EVALUATION:  # so many evaluations are told of, but not opened
                    self._pack(part, parts_of(part, run.texts, run.protocol), evaluated, number)

    def _chosen(self, kind: str, rollouts: int | None) -> Trees | None:
        return None if rollouts is None else chosen_trees(self._run.place, kind, rollouts)

    def _parts(self, kind: str, console: Any) -> Iterator[Part]:
        """The parts of all files; what takes long is told of."""
        files, begun = record_files(self._run.place, kind), time.monotonic()
        if console is None:
            for file in files:
                yield from read_parts(file, kind)
            return
        with Stages(console) as stages:
            for done, file in enumerate(files, 1):
                yield from read_parts(file, kind)
                if console.is_terminal or time.monotonic() - begun > SECONDS_BETWEEN_LINES:
                    stages(f"reading {self._run.directory.name}", done, len(files))

    def _pack(
        self, part: Part, parts_P: np.ndarray, chosen: Trees | None, evaluation: int = NO_EVALUATION
    ) -> np.ndarray:
        """Packs what is chosen; returns the number in the report of each rollout, -1 for those that are not in it."""
        count = len(part.lengths_R)
        keep_R = np.ones(count, bool) if chosen is None else among(part, chosen)
        numbers_R = np.where(keep_R, self._packer.rollouts + np.cumsum(keep_R) - 1, -1)
        differences = self._check.add(part, numbers_R)
        self._rollouts += count
        self._tokens += len(part.ids_P)
        if keep_R.all():
            self._packer.add(part, parts_P, differences, evaluation)
        elif keep_R.any():
            kept = part.select(keep_R), parts_P[np.repeat(keep_R, part.lengths_R)], differences.select(keep_R)
            self._packer.add(*kept, evaluation)
        return numbers_R

    def packed(self) -> dict[str, Any]:
        """The run as the page reads it, but for its shards."""
        found = self._packer.finish()
        summary, atlas = self._summary(), self._atlas.summary()
        return {
            "name": self._run.directory.name,
            "directory": str(self._run.directory),
            "summary": summary,
            "atlas": atlas,
            **found,
        }

    def _summary(self) -> dict[str, Any]:
        run = self._run
        settings, further = settings_of(run)
        evaluations = self._evaluations.summary()
        return {
            "method": run.method,
            "task": run.settings.get("task"),
            "model": run.settings.get("model"),
            "seed": run.settings.get("seed"),
            "protocol": run.protocol,
            "success_reward": run.success_reward,
            "settings": settings,
            "further_settings": further,
            "versions": run.versions,
            "num_rollouts": self._rollouts,
            "num_tokens": self._tokens,
            "num_steps": len(self._series.steps),
            "sampled": None if self._sample is None else self._packer.rollouts,
            "evaluations": evaluations,
            "gain": gain(self.rows, evaluations),
            "series": self._series.curves(run.logged),
            "credit_check": self._check.summary(),
            "base": self._check.base,
            "base_kind": self._check.base["kind"],
            "factor_help": factor_help(list(self._series.factors), run.method_options),
            "scales": self._packer.scales.summary(),
        }
