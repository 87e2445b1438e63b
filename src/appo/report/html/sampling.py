"""Which tasks a small report keeps: whole trees, evenly over the updates, the same ones whenever it is asked.

What a report says of the whole run (curves, atlas, the check of the credit equation) is of all rollouts; a sample only
says which ones can be opened. Left out on purpose: choosing by interest, which would show an odd run.
"""

from pathlib import Path

import numpy as np

from appo.report.html.columns import Part
from appo.rollout.records import read_records

SEED = 0
Trees = set[tuple[int, str]]  # step and task


def chosen_trees(records: Path, kind: str, rollouts: int) -> Trees:
    """About `rollouts` rollouts' worth of trees, at least one.

    Args:
        records: Where the records are.
        kind: "train" or "evaluation".
        rollouts: How many are wanted; of a tree all are taken.
    """
    steps: dict[int, dict[str, int]] = {}
    for record in read_records(records, kind=kind, columns=("step", "task")):
        of_step = steps.setdefault(record["step"], {})
        of_step[record["task"]] = of_step.get(record["task"], 0) + 1
    sizes = [size for of_step in steps.values() for size in of_step.values()]
    if not sizes:
        return set()
    wanted = min(len(sizes), max(1, round(rollouts / (sum(sizes) / len(sizes)))))
    generator = np.random.default_rng(SEED)
    queues = [[(step, task) for task in generator.permutation(sorted(steps[step])).tolist()] for step in sorted(steps)]
    found: Trees = set()
    while len(found) < wanted:
        busy = [queue for queue in queues if queue]
        turns = min(wanted - len(found), len(busy))
        for place in np.linspace(0, len(busy) - 1, turns).round().astype(int).tolist():
            found.add(busy[place].pop())
    return found


def among(part: Part, trees: Trees) -> np.ndarray:
    """Which rollouts of a part belong to the trees: bool (R,)."""
    keys = zip(part.values("step"), part.values("task"), strict=True)
    return np.array([key in trees for key in keys], bool)
