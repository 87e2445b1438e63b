"""Training curves of a run: reward, success, entropy and branch positions over optimizer steps.

Drawn from a run's records alone, so a picture can be made of any run, also of one that is still going:

    python -m appo.report.curves runs/kinship curves.png
"""

import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

from appo.errors import UserError
from appo.rollout.metrics import mean
from appo.rollout.record_files import records_at
from appo.rollout.records import read_records

COLUMNS = ("step", "task", "rollout", "parent", "branch_position", "reward", "policy_mask", "entropies")
SMOOTHED_OVER = 8  # steps
COLORS = ("#0072b2", "#d55e00", "#009e73")  # of Okabe and Ito, which colour-blind people can tell apart
# Title, what is drawn upwards, and the lines.
PANELS = (
    ("Reward", "reward of a rollout (mean)", [("reward", "written from the prompt"), ("branch_reward", "branches")]),
    ("Success", "share of rollouts that succeed", [("success", "in training, written from the prompt")]),
    (
        "How unsure the policy is",
        "entropy of its next token (mean, nats; 0: sure)",
        [("entropy", "tokens that the policy wrote")],
    ),
    ("Where branches leave their rollout", "place in the rollout (mean)", [("branch_position", "branches")]),
)


class Mark(NamedTuple):
    """An evaluation in the panel of success.

    Args:
        name: What it is called.
        step: After how many updates; None for the last one.
        success, low, high: Share of successes, and its 95 % interval.
        questions: How many were asked.
    """

    name: str
    step: float | None
    success: float
    low: float
    high: float
    questions: int


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


def plot_curves(
    records: str | Path, picture: str | Path, success_reward: float = 1.0, marks: Sequence[Mark] = ()
) -> None:
    """Draws four panels, which say in words what they show.

    Args:
        records: The directory of a run, or what else `read_records` takes.
        picture: Where to write the PNG.
        success_reward: Least reward that counts as success.
        marks: Evaluations, shown with their intervals beside the success of training.
    """
    series = step_series(records, success_reward)
    figure, panels = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained", sharex=True)
    figure.suptitle(f"{_name_of(records)}: what training did, update by update", fontsize=13)
    for panel, (title, what, lines) in zip(panels.flat, PANELS, strict=True):
        for (name, label), color in zip(lines, COLORS, strict=False):
            if all(map(math.isnan, series[name])):
                continue
            panel.plot(series["step"], series[name], color=color, alpha=0.3, linewidth=0.8)
            panel.plot(series["step"], smooth(series[name]), color=color, label=label, linewidth=2)
        panel.set(title=title, ylabel=what, xlabel="updates of the policy (optimizer steps)")
        panel.tick_params(labelbottom=True)
        panel.grid(alpha=0.3)
    _draw_marks(panels[0, 1], marks, max(series["step"], default=1.0))
    panels[0, 1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panels[0, 1].set_ylim(0, 1.04)
    for panel in panels.flat:
        if panel.get_legend_handles_labels()[1]:
            panel.legend(fontsize=9)
    panels[1, 1].set_ylim(-0.04, 1.04)
    panels[1, 1].set_yticks([0, 0.25, 0.5, 0.75, 1], ["start", "a quarter", "half", "three quarters", "end"])
    if all(map(math.isnan, series["branch_position"])):
        panels[1, 1].text(0.5, 0.5, "no branches were written", transform=panels[1, 1].transAxes, ha="center")
    figure.supxlabel(f"thin: each update    thick: mean of the last {SMOOTHED_OVER}", fontsize=10)
    try:
        figure.savefig(picture, dpi=120)
    except (OSError, ValueError) as error:  # no such directory, or no such format
        raise UserError(f"the picture {picture} cannot be written: {' '.join(str(error).split())}.") from None
    finally:
        plt.close(figure)


def _draw_marks(panel: Any, marks: Sequence[Mark], last: float) -> None:
    """Evaluations as dots with their intervals; only the first and the last have a name, or there were too many."""
    for number, mark in enumerate(marks):
        named = number in (0, len(marks) - 1)
        panel.errorbar(
            [last if mark.step is None else mark.step],
            [mark.success],
            yerr=[[mark.success - mark.low], [mark.high - mark.success]],
            fmt="os"[number % 2],
            color=COLORS[1 + (number > 0)],
            capsize=4,
            label=f"{mark.name}: {mark.success:.1%} of {mark.questions} fresh questions" if named else None,
        )


def _name_of(records: str | Path) -> str:
    """The name of the run's directory."""
    found = records_at(records)
    return (found or Path(records)).resolve().parent.name


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
