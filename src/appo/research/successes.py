"""How many more successes a branch brings per token, by where it starts: what to know before training on any.

A policy writes rollouts; then, from every failed one, branches from each kind of start, by the same policy. A branch
pays for its own tokens alone. Beside them stand fresh rollouts, of all tasks and of those failed rollouts (`root`):
what the same tokens would buy without branching. Nothing is trained.

    python -m appo.research.successes recipes/kinship.yaml --model runs/kinship/cold_start --output DIR

Left out on purpose: what the successes are worth once they are trained on (`appo study`).
"""

import argparse
import json
from dataclasses import asdict
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from appo.algorithm import entropy_score, fork_weight
from appo.cli.loading import load_model, load_task
from appo.cli.recipe import read_recipe
from appo.environments.base import Task
from appo.files import write_text
from appo.report.intervals import Interval
from appo.research.pilot_report import Rows, markdown
from appo.rollout.tree import BranchPoint, RolloutTree
from appo.rollout.types import Rollout
from appo.trainer import APPOTrainer

# Shapes: R failed rollouts, T completion tokens, G tasks.

STREAM, FRESH_STREAM, BRANCH_STREAM = 70_000, 70_001, 80_000
QUESTIONS = 6_000_000  # the seed of what is asked
Place = tuple[RolloutTree, int]


def starts_of(trainer: APPOTrainer, failed: list[Place], branches: int) -> dict[str, list[list[int]]]:
    """For each kind of start, the positions in each failed rollout from which its `branches` branches are written."""
    generator = trainer.writer.generator(STREAM)
    rollouts = [tree.rollouts[index] for tree, index in failed]
    own = [[i for i, mask in enumerate(rollout.policy_mask) if mask] for rollout in rollouts]
    batch, scores = trainer.writer.score(rollouts)
    assert scores.log_sum_sq_probs_BT is not None
    mask_RT = batch.policy_mask_BT
    ranked = {
        "entropy": entropy_score(scores.entropies_BT, mask_RT),
        "fork weight": fork_weight(scores.entropies_BT, scores.log_sum_sq_probs_BT, floor=0.0),
    }

    def drawn(among: list[list[int]]) -> list[list[int]]:
        return [[p[int(torch.randint(len(p), (), generator=generator))] for _ in range(branches)] for p in among]

    found = {
        "root": [[places[0]] * branches for places in own],
        "random": drawn(own),
        "late": drawn([places[len(places) // 2 :] for places in own]),
        **{name: best(score_RT, mask_RT, branches) for name, score_RT in ranked.items()},
    }
    if trainer.method.judge is not None:
        judged = [trainer.method.judge(tree.row, tree.rollouts[index], 1.0) for tree, index in failed]
        wrong = [[decision.position for decision in decisions if not decision.right] for decisions in judged]
        found["first wrong decision"] = [places[:1] * branches for places in wrong]
        found["any decision"] = drawn([[d.position for d in decisions] or [0] for decisions in judged])
    return found


def best(score_RT: Tensor, mask_RT: Tensor, count: int) -> list[list[int]]:
    """The `count` best policy tokens of each rollout; the best ones again where it has fewer."""
    score_RT = score_RT.masked_fill(mask_RT == 0, -torch.inf)
    order_RT = score_RT.argsort(dim=1, descending=True, stable=True)
    sizes = mask_RT.sum(dim=1).tolist()
    return [[int(order_RT[row, i % size]) for i in range(count)] for row, size in enumerate(sizes)]


def described(rollouts: list[Rollout], tasks: list[int], solved: set[int], success: float) -> dict[str, Any]:
    """A row of the table; intervals are bootstrapped over tasks.

    Args:
        rollouts: Branches, or fresh rollouts.
        tasks: The task of each rollout.
        solved: Tasks that had a success before.
        success: What a reward has to reach.
    """
    sums = {task: np.zeros(5) for task in tasks}  # rollouts, successes, distinct ones, solved anew, tokens
    seen: set[tuple[int, ...]] = set()
    for task, rollout in zip(tasks, rollouts, strict=True):
        succeeded = rollout.reward is not None and rollout.reward >= success
        new = succeeded and (task, *rollout.completion_ids) not in seen
        seen |= {(task, *rollout.completion_ids)} if succeeded else set()
        anew = succeeded and task not in solved and sums[task][3] == 0
        sums[task] += [1, succeeded, new, anew, sum(rollout.policy_mask[rollout.branch_position or 0 :])]
    sums_G5 = np.stack(list(sums.values())) if sums else np.zeros((1, 5))
    total = sums_G5.sum(axis=0)
    return {
        "written": len(rollouts),
        "tokens each": total[4] / max(1.0, total[0]),
        "success": ratio(sums_G5[:, 1], sums_G5[:, 0]),
        "successes per 1,000 tokens": ratio(1000 * sums_G5[:, 1], sums_G5[:, 4]),
        "distinct ones": ratio(1000 * sums_G5[:, 2], sums_G5[:, 4]),
        "tasks solved anew": ratio(1000 * sums_G5[:, 3], sums_G5[:, 4]),
    }


def ratio(above_G: Any, below_G: Any, draws: int = 2000) -> Interval:
    """Sum over sum, with a 95 % bootstrap interval over tasks; NaN over nothing."""
    if not below_G.sum():
        return Interval(nan, nan, nan, 0)
    picks = np.random.default_rng(0).integers(len(below_G), size=(draws, len(below_G)))
    low, high = np.nanpercentile(above_G[picks].sum(1) / np.maximum(below_G[picks].sum(1), 1e-9), [2.5, 97.5])
    return Interval(float(above_G.sum() / below_G.sum()), float(low), float(high), len(below_G))


def failures(trees: list[RolloutTree], success: float) -> list[Place]:
    """The initial rollouts that were scored, and too low for a success; what was not scored is no failure."""
    return [
        (tree, index)
        for tree in trees
        for index, rollout in enumerate(tree.initial)
        if any(rollout.policy_mask) and rollout.reward is not None and rollout.reward < success
    ]


def measure(trainer: APPOTrainer, rows: list[dict[str, Any]], size: int, branches: int) -> Rows:
    """The table: a row for fresh rollouts and one per kind of start."""
    success, writer = trainer.args.success_reward, trainer.writer
    trainer.model.train()  # or no environment would be kept
    trees = writer.write(rows, size, STREAM)
    failed = failures(trees, success)
    number = {id(tree): n for n, tree in enumerate(trees)}
    first = [r for tree in trees for r in tree.initial]
    tasks = [n for n, tree in enumerate(trees) for _ in tree.initial]
    solved = {n for n, r in zip(tasks, first, strict=True) if r.reward is not None and r.reward >= success}
    fresh = [r for tree in writer.write(rows, size, FRESH_STREAM) for r in tree.initial]
    table = [{"start": "fresh rollouts of all tasks", **described(fresh, tasks, solved, success)}]
    for n, (name, positions) in enumerate(starts_of(trainer, failed, branches).items()):
        points = [
            BranchPoint(tree, index, place)
            for (tree, index), places in zip(failed, positions, strict=True)
            for place in places
        ]
        writer.branch(trees, points, BRANCH_STREAM + n, counted=False)
        written = [branch for tree in trees for branch in tree.branches]
        of = [number[id(tree)] for tree in trees for _ in tree.branches]
        table.append({"start": name, **described(written, of, solved, success)})
        for tree in trees:
            tree.drop_branches()
    return table


def open_trainer(recipe: str, overrides: list[str]) -> tuple[APPOTrainer, Task]:
    """A trainer that writes as the recipe says; it is not to train."""
    config, args, _ = read_recipe(recipe, overrides)
    args.method, args.method_args = "raft", {"token_weight": "fork"}  # so that fork weights are measured
    args.save_records, args.save_strategy = False, "no"
    task = load_task(config, args.tool_protocol)
    model, tokenizer = load_model(config, args, task, config.model)
    trainer = APPOTrainer(
        model,
        args=args,
        train_dataset=task.dataset(config.train_size, config.train_seed),
        processing_class=tokenizer,
        **task.for_trainer(),
    )
    return trainer, task


def read_flags(given: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The options, and flags of the recipe's; `given` in place of the command line's."""
    parser = argparse.ArgumentParser(
        prog="python -m appo.research.successes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Other flags are the recipe's, as those of `appo train`: --max_completion_length 64, --use_cpu true.",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="what a rollout is: task, tools, lengths; a YAML file")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True,
                        help="where successes.md and successes.json go")  # fmt: skip
    parser.add_argument("--model", metavar="DIR", help="the policy, such as a cold start; default: the recipe's model")
    sizes = {
        "questions": (64, "questions asked"),
        "rollouts": (8, "rollouts of each question"),
        "branches": (4, "branches of each failed rollout, from each kind of start"),
    }
    for name, (default, text) in sizes.items():
        parser.add_argument(f"--{name}", metavar="N", type=int, default=default, help=f"{text}; default {default}")
    options, overrides = parser.parse_known_args(given)
    return options, [*overrides, *(["--model", options.model] if options.model else [])]


def _main() -> None:
    options, overrides = read_flags()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    trainer, task = open_trainer(options.recipe, overrides)
    rows = list(task.questions(options.questions, QUESTIONS))
    table = measure(trainer, rows, options.rollouts, options.branches)
    options.output.mkdir(parents=True, exist_ok=True)
    text = markdown({f"Successes by where they start, {options.recipe} {' '.join(overrides)}": table})
    write_text(options.output / "successes.md", text)
    write_text(options.output / "successes.json", json.dumps(table, indent=1, default=asdict) + "\n")
    print(text)


if __name__ == "__main__":
    _main()
