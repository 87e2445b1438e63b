"""Training curves of a run: reward, success, entropy and branch positions over optimizer steps.

Drawn from a run's records alone, so a picture can be made of any run, also of one that is still going:

    python -m appo.report.curves runs/kinship curves.png
"""

import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt

from appo.errors import UserError
from appo.rollout.metrics import mean
from appo.rollout.records import read_records

COLUMNS = ("step", "task", "rollout", "parent", "branch_position", "reward", "policy_mask", "entropies")
SMOOTHED_OVER = 8  # steps


def step_series(path: str | Path, success_reward: float = 1.0) -> dict[str, list[float]]:
    """Per-step means from records: `step`, `reward`, `branch_reward`, `success`, `entropy`, `branch_position`."""
    sums: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    lengths: dict[tuple[str, int], int] = {}  # a branch comes after its parent, in the same update
    for record in read_records(path, columns=COLUMNS):
        if record["step"] not in sums:
            lengths = {}
        step = sums[record["step"]]
        lengths[record["task"], record["rollout"]] = len(record["policy_mask"])
        reward = record["reward"]
        if record["parent"] is None:
            step["reward"] += [] if reward is None else [reward]
            step["success"] += [] if reward is None else [float(reward >= success_reward)]
            step["entropy"].append(mean(record.get("entropies") or ()))
        else:
            step["branch_reward"] += [] if reward is None else [reward]
            parent = lengths[record["task"], record["parent"]]
            step["branch_position"].append(record["branch_position"] / max(parent - 1, 1))
    series: dict[str, list[float]] = {"step": [float(step) for step in sorted(sums)]}
    for name in ("reward", "branch_reward", "success", "entropy", "branch_position"):
        series[name] = [mean(sums[step][name]) for step in sorted(sums)]
    return series


def smooth(values: list[float], over: int = SMOOTHED_OVER) -> list[float]:
    """Mean of the last `over` values at each place."""
    return [mean(values[max(0, i + 1 - over) : i + 1]) for i in range(len(values))]


def plot_curves(records: str | Path, picture: str | Path, success_reward: float = 1.0, marks: Any = None) -> None:
    """Draws four panels.

    Args:
        records: The directory of a run, or what else `read_records` takes.
        picture: Where to write the PNG.
        success_reward: Least reward that counts as success.
        marks: `{"before": Evaluation, "after": Evaluation}`, shown with their intervals in the success panel.
    """
    series = step_series(records, success_reward)
    figure, panels = plt.subplots(2, 2, figsize=(10, 6), layout="constrained", sharex=True)
    drawn = {
        "reward": [("reward", "initial rollouts"), ("branch_reward", "branches")],
        "success": [("success", "initial rollouts")],
        "entropy (nats per token)": [("entropy", "policy tokens")],
        "branch position (0 start, 1 end)": [("branch_position", "mean of a step")],
    }
    for panel, (title, lines) in zip(panels.flat, drawn.items(), strict=True):
        for (name, label), color in zip(lines, ("C0", "C1"), strict=False):
            panel.plot(series["step"], series[name], color=color, alpha=0.25, linewidth=0.8)
            panel.plot(series["step"], smooth(series[name]), color=color, label=label)
        panel.set_title(title)
        panel.grid(alpha=0.3)
    panels[0, 0].legend()
    last = max(series["step"], default=1.0)
    for (name, evaluation), x in zip((marks or {}).items(), (0.0, last), strict=False):
        error = [[evaluation.success - evaluation.low], [evaluation.high - evaluation.success]]
        label = f"{name}: {evaluation.success:.1%} of {evaluation.questions} fresh questions"
        panels[0, 1].errorbar([x], [evaluation.success], yerr=error, fmt="o", capsize=4, label=label)
        panels[0, 1].legend()
    for panel in panels[1]:
        panel.set_xlabel(f"optimizer step (line: mean of {SMOOTHED_OVER})")
    if all(math.isnan(value) for value in series["branch_position"]):
        panels[1, 1].text(0.5, 0.5, "no branches", transform=panels[1, 1].transAxes, ha="center")
    try:
        figure.savefig(picture, dpi=120)
    except (OSError, ValueError) as error:  # no such directory, or no such format
        raise UserError(f"the picture {picture} cannot be written: {' '.join(str(error).split())}.") from None
    finally:
        plt.close(figure)


def main(arguments: list[str]) -> None:
    """`RUN PICTURE.png`; ends the program with one sentence where there is nothing to draw."""
    if len(arguments) != 2:
        sys.exit("usage: python -m appo.report.curves RUN PICTURE.png")
    try:
        plot_curves(arguments[0], arguments[1])
    except UserError as error:
        sys.exit(f"appo: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
