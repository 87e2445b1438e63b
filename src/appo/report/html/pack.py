"""A run as the page reads it: an index of rollouts, shards of their tokens, the tasks, the texts, and a summary.

`RunPacker` takes a run's parts one after another and hands on a shard whenever it has enough tokens, so that memory
does not grow with the run. `docs/report.md` has the format; the page (`page/00_data.js`) undoes it.

Left out on purpose: reading (`columns.py`), the numbers' encoding (`quantise.py`), HTML (`write.py`).
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from appo.data.rows import ANSWER_COLUMNS
from appo.files import fingerprint, strict_json
from appo.report.html.columns import Part
from appo.report.html.credit import Differences
from appo.report.html.details import details
from appo.report.html.quantise import column, exact, heat, ids_column, json_column, rounded
from appo.report.html.run import Run

# Shapes: R rollouts of a part, P tokens of all of them.

POLICY, CREDITED = 1, 2  # bits of a token's flags; its part stands above them
PART_SHIFT = 2
SHARD_TOKENS = 500_000  # that a shard has at least, but for the last one
FINISH = {"stop": 0, "length": 1, "tool_limit": 2, "failed": 3}
NO_FINISH = NO_EVALUATION = 255
RENAMED = {"entropies": "entropy", "logprobs": "logprob"}
NOT_HEAT = ("behaviour_logprobs", "advantages")
NUMBERS = {
    "step": (np.uint32, 0), "rollout": (np.uint32, 0), "parent": (np.int32, -1), "branch_position": (np.int32, -1),
    "branch_rank": (np.int32, 0), "branch_score": (np.float32, np.nan), "reward": (np.float32, np.nan),
    "initial_mean": (np.float32, np.nan), "initial_std": (np.float32, np.nan), "branch_mean": (np.float32, np.nan),
    "branch_std": (np.float32, np.nan),
}  # fmt: skip


class RunPacker:
    """Packs one run.

    Args:
        run: The run.
        emit: Takes each shard, as JSON text, with its first rollout, its rollouts and its tokens.
    """

    def __init__(self, run: Run, emit: Callable[[str, int, int, int], None]) -> None:
        self._run, self._emit = run, emit
        self._index: dict[str, list[np.ndarray]] = {}
        self._tasks: dict[tuple[Any, ...], int] = {}
        self._used: set[int] = set()
        self._reward_names: dict[str, int] = {}
        self._waiting: list[tuple[Part, np.ndarray, Differences]] = []  # of the next shard
        self._tree = -1
        self._last_tree: Any = None
        self._shard = 0
        self._first = 0  # rollout of the next shard
        self.rollouts = self.tokens = self._waiting_tokens = 0
        self.scales = Scales()

    def add(self, part: Part, parts_P: np.ndarray, differences: Differences, evaluation: int = NO_EVALUATION) -> None:
        """Packs a part.

        Args:
            part: Whole trees.
            parts_P: What each token is part of, as `columns.parts_of` says.
            differences: Where the credit equation does not hold.
            evaluation: Which of the summary's evaluations; `NO_EVALUATION`: training.
        """
        self._add_index(part, evaluation)
        self._used.update(np.unique(part.ids_P).tolist())
        self._used.update(other["token"] for others in part.values("alternatives") for other in others or [])
        flags_P = part.policy_P * POLICY + part.loss_P * CREDITED + (parts_P << PART_SHIFT)
        self._waiting.append((part, flags_P.astype(np.uint8), differences))
        self.rollouts += len(part.lengths_R)
        self.tokens += len(part.ids_P)
        self._waiting_tokens += len(part.ids_P)
        if self._waiting_tokens >= SHARD_TOKENS:
            self._flush()

    def finish(self) -> dict[str, Any]:
        """The packed run but for its shards and its summary."""
        self._flush()
        index = {name: column(np.concatenate(parts)) for name, parts in self._index.items()}
        words = [[token, self._run.texts[token]] for token in sorted(self._used) if token in self._run.texts]
        return {
            "index": {"n": self.rollouts, "columns": index},
            "tasks": json_column([_task(*key) for key in self._tasks]),
            "vocabulary": json_column(words),
        }

    # ---- the index ----

    def _add_index(self, part: Part, evaluation: int) -> None:
        count = len(part.lengths_R)
        found: dict[str, np.ndarray] = {}
        for name, (kind, missing) in NUMBERS.items():
            found[name] = part.numbers(name, missing).astype(kind)
        found["branch_score"] = rounded(found["branch_score"])
        found["n_tokens"] = part.lengths_R.astype(np.uint32)
        found["n_policy"] = np.bincount(part.rows_P, part.policy_P, count).astype(np.uint32)
        found["finish"] = np.array([FINISH.get(r, NO_FINISH) for r in part.values("finish_reason")], np.uint8)
        calls = [calls or () for calls in part.values("tool_calls")]
        found["n_calls"] = np.array([len(of) for of in calls], np.uint16)
        found["n_errors"] = np.array([sum(c["error"] is not None for c in of) for of in calls], np.uint16)
        found["kind"] = np.full(count, evaluation != NO_EVALUATION, np.uint8)
        found["evaluation"] = np.full(count, evaluation, np.uint8)
        found["shard"] = np.full(count, self._shard, np.uint16)
        found["task"], found["tree"] = self._add_tasks(part)
        for name, values in found.items():
            self._index.setdefault(name, []).append(values)

    def _add_tasks(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """The task, and the running number of the tree, of each rollout."""
        tasks, trees = [], []
        keys = zip(*(part.values(name) for name in ("task", "row", "prompt", "kind", "step")), strict=True)
        for task, row, prompt, *when in keys:
            if (task, when) != self._last_tree:
                self._tree, self._last_tree = self._tree + 1, (task, when)
            tasks.append(self._tasks.setdefault((task, row, prompt), len(self._tasks)))
            trees.append(self._tree)
        return np.array(tasks, np.uint32), np.array(trees, np.uint32)

    # ---- shards ----

    def _flush(self) -> None:
        if not self._waiting:
            return
        parts = [part for part, _, _ in self._waiting]
        found = [one for part in parts for one in details(part, self._reward_names, self._run.texts)]
        flags = np.concatenate([flags for _, flags, _ in self._waiting])
        shard: dict[str, Any] = {
            "first": self._first,
            "n": self.rollouts - self._first,
            "tokens": len(flags),
            "ids": ids_column(np.concatenate([part.ids_P for part in parts])),
            "flags": column(flags),
            "heat": self._heat(parts),
            "credit": self._credit(parts),
            "reward_names": list(self._reward_names),
            "details": json_column(found),
        }
        text = json.dumps(strict_json(shard), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        self._emit(text, self._first, shard["n"], shard["tokens"])
        self._waiting, self._waiting_tokens, self._first = [], 0, self.rollouts
        self._shard += 1

    def _heat(self, parts: list[Part]) -> dict[str, Any]:
        names = dict.fromkeys(RENAMED.get(n, n) for part in parts for n in part.tokens if n not in NOT_HEAT)
        if any("behaviour_logprobs" in part.tokens for part in parts):
            names["ratio"] = None
        found = {}
        for name in names:
            values = np.concatenate([_heat_values(part, name)[part.policy_P] for part in parts])
            if np.isfinite(values).any():
                self.scales.add(name, values)
                found[name] = heat(values, name)
        return found

    def _credit(self, parts: list[Part]) -> dict[str, Any]:
        """The factors at tokens that carry loss; the advantage itself only where it is not their product."""
        names = dict.fromkeys(name for part in parts for name in part.factors if name != "loss_mask")
        found: dict[str, list[np.ndarray]] = {name: [] for name in names}
        rows, advantages, start = [], [], 0
        for part in parts:
            places = np.flatnonzero(part.loss_P)
            rows.append(start + part.rows_P[places])
            start += len(part.lengths_R)
            for name in names:
                values = part.factors.get(name)
                found[name].append(np.full(len(places), np.nan) if values is None else values[places])
            if "advantages" in part.tokens:
                advantages.append(part.tokens["advantages"][places])
        rows_L = np.concatenate(rows)
        if advantages:
            self.scales.add("advantage", np.concatenate(advantages))
        unexplained = not names and rows_L.size
        return {
            "factors": {name: exact(np.concatenate(values), rows_L) for name, values in found.items()},
            "advantage": exact(np.concatenate(advantages), rows_L) if unexplained else None,
            "differences": self._differences(parts),
        }

    def _differences(self, parts: list[Part]) -> list[list[float]]:
        found, start = [], 0
        for part, (_, _, wrong) in zip(parts, self._waiting, strict=True):
            rows = zip((start + wrong.rows).tolist(), wrong.tokens.tolist(), wrong.recorded.tolist(), strict=True)
            found += [list(row) for row in rows]
            start += len(part.lengths_R)
        return found


def _heat_values(part: Part, name: str) -> np.ndarray:
    if name == "ratio":
        now, before = part.tokens.get("logprobs"), part.tokens.get("behaviour_logprobs")
        values = None if now is None or before is None else now - before
    else:
        values = part.tokens.get({new: old for old, new in RENAMED.items()}.get(name, name))
    if values is None:
        return np.full(len(part.ids_P), np.nan, np.float32)
    if name == "logprob":  # before its own first token a branch has its parent's
        own_R = np.where(part.credited_R, 0, part.numbers("branch_position", 0)).astype(int)
        place_P = np.arange(len(part.ids_P)) - np.repeat(part.starts_R, part.lengths_R)
        values = np.where(place_P < np.repeat(own_R, part.lengths_R), np.nan, values)
    return values


class Scales:
    """Bounds and percentiles of what heat maps show, over the whole run, from a sample of bounded size."""

    KEPT = 20_000

    def __init__(self) -> None:
        self._low: dict[str, float] = {}
        self._high: dict[str, float] = {}
        self._sample: dict[str, np.ndarray] = {}
        self._random = np.random.default_rng(0)

    def add(self, name: str, values: np.ndarray) -> None:
        known = values[np.isfinite(values)].astype(np.float64)
        if not known.size:
            return
        self._low[name] = min(self._low.get(name, np.inf), float(known.min()))
        self._high[name] = max(self._high.get(name, -np.inf), float(known.max()))
        if known.size > self.KEPT:
            known = self._random.choice(known, self.KEPT, replace=False)
        both = np.concatenate([self._sample.get(name, known[:0]), known])
        self._sample[name] = both if both.size <= self.KEPT else self._random.choice(both, self.KEPT, replace=False)

    def summary(self) -> dict[str, dict[str, float]]:
        found = {}
        for name, sample in self._sample.items():
            p1, p50, p99 = np.quantile(sample, [0.01, 0.5, 0.99]).tolist()
            found[name] = {"low": self._low[name], "high": self._high[name], "p1": p1, "p50": p50, "p99": p99}
        return found


def _task(task: str, row: str | None, prompt: str | None) -> dict[str, Any]:
    found = None if row is None else json.loads(row)
    fields = found if isinstance(found, dict) else {}
    return {
        "id": task,
        "row": found,
        "prompt": None if prompt is None else json.loads(prompt),
        "answers": _answers(fields),
        "row_key": None if (text := row if row is not None else prompt) is None else fingerprint(json.loads(text)),
    }


def _answers(row: dict[str, Any]) -> list[str]:
    """The reference answers of a row, by the names that data sets give them."""
    for place in (row, row.get("reward_model"), row.get("extra_info")):
        for key in ANSWER_COLUMNS:
            answers = place.get(key) if isinstance(place, dict) else None
            if answers is not None:
                return [str(answer) for answer in (answers if isinstance(answers, list) else [answers])]
    return []
