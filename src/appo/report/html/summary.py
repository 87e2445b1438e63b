"""What the first page of a report says: how the run went, step by step, and its evaluations with their intervals.

Left out on purpose: smoothing, which the page does, and what single tokens say (`atlas.py`).
"""

import math
from collections import defaultdict
from typing import Any

import numpy as np

from appo.report.html.columns import Part
from appo.report.html.run import Run, evaluation_words, logged_series
from appo.report.intervals import rollouts_interval

# Shapes: R rollouts of a part, P tokens of all of them.

SHOWN = (
    "model", "task", "method", "method_args", "seed", "learning_rate", "max_steps", "num_generations",
    "num_iterations", "loss_type", "epsilon", "epsilon_high", "beta", "temperature", "max_completion_length",
    "per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "tool_protocol",
    "max_tool_calling_iterations", "use_vllm", "lora", "train_size", "train_seed", "world_size",
)  # fmt: skip
MEASURED = ("reward", "branch_reward", "success", "entropy", "branch_position", "omega", "calls", "errors", "tokens")


class Series:
    """Means per update, from records: `MEASURED`, NaN where a step has nothing of the kind."""

    def __init__(self, success_reward: float) -> None:
        self._success_reward = success_reward
        self._sums: dict[int, dict[str, np.ndarray]] = defaultdict(lambda: defaultdict(lambda: np.zeros(2)))
        self.factors: dict[str, None] = {}

    def add(self, part: Part) -> None:
        self.factors |= dict.fromkeys(part.factors)
        step_R = part.numbers("step", 0).astype(int)
        reward_R = part.numbers("reward")
        parent_R = part.numbers("parent", -1).astype(int)
        initial_R = parent_R < 0
        success_R = np.where(np.isnan(reward_R), np.nan, reward_R >= self._success_reward)
        calls = [calls or () for calls in part.values("tool_calls")]
        count_R = np.array([len(of) for of in calls], float)
        errors_R = np.array([sum(call["error"] is not None for call in of) for of in calls], float)
        found = {
            "reward": np.where(initial_R, reward_R, np.nan),
            "branch_reward": np.where(initial_R, np.nan, reward_R),
            "success": np.where(initial_R, success_R, np.nan),
            "entropy": np.where(initial_R, _row_means(part, "entropies"), np.nan),
            "omega": np.where(initial_R, _row_means(part, "omega"), np.nan),
            "branch_position": _places(part, parent_R),
            "calls": count_R,
            "errors": errors_R,
            "tokens": part.lengths_R.astype(float),
        }
        for step in np.unique(step_R).tolist():
            for name, values in found.items():
                known = values[(step_R == step) & np.isfinite(values)]
                self._sums[step][name] += known.sum(), known.size

    @property
    def steps(self) -> list[int]:
        return sorted(self._sums)

    def curves(self, logged: list[dict[str, Any]]) -> dict[str, list[float | None]]:
        """Curves over `step`: the measured ones, then what the trainer logged besides; None: nothing there."""
        known = {name: values for name, values in logged_series(logged).items() if name not in MEASURED}
        steps = self.steps or sorted({step for values in known.values() for step in values})
        curves: dict[str, list[float | None]] = {"step": [float(step) for step in steps]}
        for name in MEASURED:
            sums = [self._sums[step][name] if step in self._sums else np.zeros(2) for step in steps]
            means = [_short(total / count) if count else None for total, count in sums]
            if any(mean is not None for mean in means):
                curves[name] = means
        for name, values in known.items():
            curves[name] = [_short(values[step]) if step in values else None for step in steps]
        return curves


def _short(value: float) -> float:
    """Six digits, which a curve does not show."""
    return float(f"{value:.6g}")


def _row_means(part: Part, name: str) -> np.ndarray:
    """The mean over a rollout's tokens, (R,); NaN where it has none."""
    values = part.tokens.get(name)
    if values is None:
        return np.full(len(part.lengths_R), np.nan)
    known = np.isfinite(values)
    count = np.bincount(part.rows_P[known], minlength=len(part.lengths_R))
    total = np.bincount(part.rows_P[known], values[known], len(part.lengths_R))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _places(part: Part, parent_R: np.ndarray) -> np.ndarray:
    """Where branches begin, 0 to 1 of their parent; NaN for initial rollouts."""
    parents = parent_rows(part, parent_R)
    position_R = part.numbers("branch_position")
    with np.errstate(invalid="ignore"):
        places = position_R / np.maximum(part.lengths_R[np.maximum(parents, 0)] - 1, 1)
    return np.where(parents >= 0, places, np.nan)


def parent_rows(part: Part, parent_R: np.ndarray) -> np.ndarray:
    """The row of each branch's parent, -1 where there is none: parents stand in the same tree."""
    rollout_R = part.numbers("rollout", 0).astype(int)
    trees = list(zip(*(part.values(name) for name in ("kind", "step", "task")), strict=True))
    rows = {(tree, rollout): row for row, (tree, rollout) in enumerate(zip(trees, rollout_R.tolist(), strict=True))}
    found = [rows.get((tree, parent), -1) for tree, parent in zip(trees, parent_R.tolist(), strict=True)]
    return np.array(found, int)


class Evaluations:
    """The evaluations of a run: what its files say of them, and what their rollouts do."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._told = {name: dict(value) for name, value in run.evaluations.items()}
        self._rewards: dict[str, list[float]] = {name: [] for name in run.evaluations}
        self._calls: dict[str, int] = defaultdict(int)
        self._questions: dict[str, int] = defaultdict(int)
        self._steps: dict[str, int] = {}

    def number(self, name: str) -> int:
        """Which of the evaluations one is, a new one where its name is new."""
        self._rewards.setdefault(name, [])
        return list(self._rewards).index(name)

    def add(self, name: str, part: Part) -> None:
        self._questions[name] += int((part.numbers("rollout", 0) == 0).sum())
        self._rewards[name] += part.numbers("reward").tolist()
        self._calls[name] += sum(len(calls or ()) for calls in part.values("tool_calls"))
        self._steps[name] = int(part.numbers("step", 0).max(initial=0))

    def summary(self) -> list[dict[str, Any]]:
        return [self._one(name) for name in self._rewards]

    def _one(self, name: str) -> dict[str, Any]:
        told = self._told.get(name) or self._counted(name)
        last = self._run.settings.get("max_steps")
        guess = {"before": 0, "after": last if isinstance(last, int) and last > 0 else None}.get(name)
        label = f"after {words}" if (words := evaluation_words(name)) != name else name
        return {"key": name, "name": label, "step": self._steps.get(name, guess), **told}

    def _counted(self, name: str) -> dict[str, Any]:
        """What the file of an evaluation would say, from its rollouts; an unscored one is no failure."""
        rewards = [reward for reward in self._rewards[name] if not math.isnan(reward)]
        wins = sum(reward >= self._run.success_reward for reward in rewards)
        count = len(self._rewards[name])
        low, high = rollouts_interval(wins, len(rewards), count, self._questions[name])
        success = wins / len(rewards) if rewards else None
        calls = self._calls[name] / max(count, 1)
        return {"questions": self._questions[name], "success": success, "low": low, "high": high, "tool_calls": calls}


def settings_of(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that say most, and all others that have a value; those of the cold start by `cold_start.NAME`."""
    flat = {name: value for name, value in run.settings.items() if not isinstance(value, dict) or name in SHOWN}
    flat["method"], flat["method_args"] = run.method, run.method_options or None
    first = {name: flat[name] for name in SHOWN if flat.get(name) is not None}
    rest = {
        name: value for name, value in sorted(flat.items()) if name not in first and value not in (None, [], {}, "")
    }
    return first, rest
