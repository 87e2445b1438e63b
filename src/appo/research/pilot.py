"""The paper's pilot study on a testbed that knows its true decisions: which tokens matter, and which score finds them.

A few updates (of GRPO, which favours no criterion) move a policy away from the one that wrote the studied rollouts, as
within a generation. Scored as before branching, the rollouts tell whether the choice of a token that a criterion picks
decides the reward (it is drawn anew many times), and what Omega says that entropy does not.

Left out on purpose: drawing every token anew (those picked are), and tasks without `decision_positions`. Minutes:

    python -m appo.research.pilot MODEL_DIR --task kinship:LOUD --output DIR
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from math import comb, inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from torch import Tensor

from appo.algorithm import (
    FUTURE_CLIP,
    allocate_budget,
    branching_priority,
    clip_future_value,
    entropy_score,
    fork_weight,
    future_value,
    half_life_to_gamma,
    random_score,
)
from appo.algorithm.branching_score import z_scores
from appo.cli.loading import load_model, load_task
from appo.cli.recipe import RunConfig
from appo.config import APPOConfig
from appo.environments.base import Task
from appo.report.bar import Stages
from appo.report.intervals import Interval
from appo.research.pilot_report import Rows, draw, markdown
from appo.rollout.metrics import rollout_metrics
from appo.rollout.rewards import rewards_of
from appo.rollout.tree import BranchPoint
from appo.rollout.types import Rollout
from appo.trainer import APPOTrainer

# Shapes: R rollouts (one per question), T completion tokens, V vocabulary, M draws of a token, K continuations.

Place = tuple[int, int]  # rollout, position
Picks = list[list[int]]  # positions of each rollout
Report = Callable[[str, int, int], None]  # called along the way: what is done, how much, of how much
BINS = (-0.001, 0.5, 1, 2, 3, 99)  # nats
TOP, RANDOM, HORIZON = 3, 6, 32  # picks per rollout of a criterion, and of chance; positions of a counterfactual fall
WITNESS_STREAM, DRAW_STREAM = 50_000, 60_000
HALF_LIFE = 32.0  # the paper's
SETTINGS = ((4, 4e-4), (2, 4e-4), (8, 4e-4), (16, 4e-4), (4, 1e-4), (4, 1e-3))  # updates per generation, rate


def variance_parts(rewards_MK: Tensor) -> tuple[float, float]:
    """(Var_a[Q], Var[reward]) from K continuations of each of M draws of a token, unbiased (one-way ANOVA)."""
    within = rewards_MK.double().var(dim=1).mean().item()
    decision = rewards_MK.double().mean(dim=1).var().item() - within / rewards_MK.shape[1]
    return decision, decision + within


def pass_at(rewards_MK: Tensor, k: int, success: float) -> float:
    """Chance that one of k draws succeeds; the draws of one column are independent, columns are averaged."""
    failures = (rewards_MK < success).sum(dim=0).tolist()
    return 1 - sum(comb(n, k) for n in failures) / len(failures) / comb(rewards_MK.shape[0], k)


def mean_over(picks: Picks, values: Any, draws: int = 4000) -> Interval:
    """Mean of `values[rollout, position]` over picks, with a 95 % bootstrap interval over rollouts."""
    size, counts = len(picks), np.array([*map(len, picks)])
    sums = [float(sum(values[row, i] for i in positions)) for row, positions in enumerate(picks)]
    drawn_DR = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=draws)
    drawn_DR = drawn_DR[drawn_DR @ counts > 0]  # a draw without any pick has no mean
    if not len(drawn_DR):
        return Interval(nan, nan, nan, 0)
    low, high = np.quantile((drawn_DR @ np.array(sums)) / (drawn_DR @ counts), [0.025, 0.975])
    return Interval(sum(sums) / int(counts.sum()), float(low), float(high), int(counts.sum()))


def tabulate(label: str, groups: dict[str, Picks], values: dict[str, Any]) -> Rows:
    """A row per group of picks and a mean per table of values."""
    return [
        {label: name, "tokens": sum(map(len, picks)), **{key: mean_over(picks, v) for key, v in values.items()}}
        for name, picks in groups.items()
    ]


def spearman(a: list[float], b: list[float]) -> float:
    """Rank correlation; equal values share the mean of their ranks. NaN where one has no variance."""
    ranks = [np.searchsorted(np.sort(x), x) + np.searchsorted(np.sort(x), x, "right") for x in (a, b)]
    return nan if min(map(np.ptp, ranks)) == 0 else float(np.corrcoef(np.stack(ranks))[0, 1])


def distance_to(decisions: Picks, length: int) -> Tensor:
    """Tokens (R, T) between each position and the rollout's nearest decision; over a million without one."""
    rows = [torch.arange(length)[:, None] - torch.tensor(positions or [-(10**7)]) for positions in decisions]
    return torch.stack([row.abs().amin(dim=1) for row in rows])


def kinds_of(words: list[str], decisions: list[int], task: Task) -> list[str]:
    """A name for each token: decision, and what else the task tells apart."""
    kinds = task.token_kinds(words) if task.token_kinds else ["other"] * len(words)
    if len(kinds) != len(words):
        raise ValueError(
            f"token_kinds of the task returned {len(kinds)} kinds for {len(words)} tokens; give one each."
        )
    return ["decision" if i in decisions else kind for i, kind in enumerate(kinds)]


class Studied(transformers.TrainerCallback):
    """Rollouts of the policy before update `at`, and (from `look_back`) how the policy that it became scores them."""

    trainer: APPOTrainer

    def __init__(self, rows: list[dict[str, Any]], at: int) -> None:
        self.rows, self.at = rows, at

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.at:
            self.trainer.model.train()  # or no environment would be kept
            self.trees = self.trainer.writer.write(self.rows, 1, WITNESS_STREAM)
            self.rollouts = [tree.initial[0] for tree in self.trees]
            self.batch, self.behaviour = self.trainer.writer.score(self.rollouts)

    def look_back(self, task: Task) -> None:
        trainer, mask_RT = self.trainer, self.batch.policy_mask_BT
        scores, args = trainer.writer.score_batch(self.batch), trainer.args
        self.logps_RT, self.entropies_RT, self.mask_RT = scores.logps_BT, scores.entropies_BT, mask_RT.bool()
        ratios_RT = self.logps_RT - self.behaviour.logps_BT
        self.omega_RT = future_value(ratios_RT, mask_RT, gamma=half_life_to_gamma(HALF_LIFE))
        self.priority_RT = branching_priority(self.omega_RT, self.entropies_RT, mask_RT)
        self.success = rollout_metrics(self.rollouts, args.success_reward)["success"]
        self.failed = (rewards_of(self.rollouts) < args.success_reward).tolist()  # no unscored one
        self.words = [trainer.tokenizer.convert_ids_to_tokens(rollout.completion_ids) for rollout in self.rollouts]
        assert task.decision_positions is not None
        decisions = map(task.decision_positions, self.words)
        self.decisions = [[i for i in p if mask_RT[row, i]] for row, p in enumerate(decisions)]
        self.kinds = [kinds_of(words, found, task) for words, found in zip(self.words, self.decisions, strict=True)]

    @torch.no_grad()
    def next_logps(self) -> Tensor:
        """Log-probabilities (R, T, V) of every token at every position."""
        batch, model, kept = self.batch, self.trainer.model.eval(), self.mask_RT.shape[1] + 1
        ids = torch.cat([batch.prompt_ids_BP, batch.completion_ids_BT], dim=1)
        mask = torch.cat([batch.prompt_mask_BP, batch.completion_mask_BT], dim=1)
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=kept).logits[:, :-1]
        return torch.log_softmax(logits.float() / self.trainer.temperature, dim=-1)

    def top(self, score_RT: Tensor, points: int = TOP) -> Picks:
        """The best positions of each rollout, by the choice that training makes."""
        rows = zip(score_RT.split(1), self.mask_RT.split(1), strict=True)
        return [[i for _, i in allocate_budget(*row, num_points=points, budget=points)] for row in rows]


def move(options: argparse.Namespace, updates: int, rate: float, warm_up: int) -> Studied:
    """`warm_up` updates, then the studied rollouts, then the updates of a generation but its last."""
    config = RunConfig(task=options.task, model=options.model)
    task = load_task(config)
    if task.decision_positions is None:
        raise SystemExit(f"task = {options.task} does not know its decisions; use a testbed such as kinship:LOUD.")
    args = APPOConfig(
        output_dir=str(options.output), seed=options.seed, method="grpo",
        per_device_train_batch_size=16 * options.tasks, learning_rate=rate,
        steps_per_generation=updates, max_steps=warm_up + updates - 1, lr_scheduler_type="constant",
        max_completion_length=options.max_length, tool_protocol="tags", result_format=" <result> {} </result> ",
        deterministic=True, tool_join_steps=1, rollout_batch_size=options.rows,
        use_cpu=not torch.cuda.is_available(), bf16=False,
        gradient_checkpointing=False, dataloader_pin_memory=False, report_to="none", save_strategy="no",
        save_records=False, disable_tqdm=True,
    )  # fmt: skip
    model, tokenizer = load_model(config, args, task, options.model)
    studied = Studied(list(task.questions(options.questions, options.seed + 5_000_000)), warm_up)
    studied.trainer = APPOTrainer(
        model, args=args, train_dataset=task.dataset(2048, options.seed), callbacks=[studied],
        processing_class=tokenizer, **task.for_trainer(),
    )  # fmt: skip
    studied.trainer.remove_callback(transformers.PrinterCallback)
    studied.trainer.train()
    studied.look_back(task)
    return studied


def counterfactual_fall(moved: Studied, logps_RTV: Tensor, report: Report) -> Tensor:
    """How many nats the next policy tokens lose (R, T) when the likeliest other token stands at a position."""
    trainer, rollouts, size = moved.trainer, moved.rollouts, moved.trainer.args.rollout_batch_size
    other_RT = logps_RTV.scatter(2, moved.batch.completion_ids_BT[:, :, None], -inf).argmax(dim=2)
    fall_RT = torch.zeros_like(moved.logps_RT)
    places = sorted(moved.mask_RT.nonzero().tolist(), key=lambda place: place[1])
    for first in range(0, len(places), size):
        report("tokens swapped", first, len(places))
        part, changed = places[first : first + size], []
        for row, i in part:
            ids, end = rollouts[row].completion_ids, i + 1 + HORIZON
            ids = [*ids[:i], int(other_RT[row, i]), *ids[i + 1 : end]]
            changed.append(Rollout(rollouts[row].prompt_ids, None, ids, rollouts[row].policy_mask[:end]))
        batch, scores = trainer.writer.score(changed)
        for n, (row, i) in enumerate(part):
            after = slice(i + 1, len(changed[n].completion_ids))
            mask = batch.policy_mask_BT[n, after]
            fall_RT[row, i] = ((moved.logps_RT[row, after] - scores.logps_BT[n, after]) * mask).sum()
    report("tokens swapped", len(places), len(places))
    return fall_RT


def draw_anew(
    moved: Studied, places: set[Place], logps_RTV: Tensor, draws: int, repeats: int, report: Report
) -> dict[Place, Tensor]:
    """Rewards (M, K) at each (rollout, position): M draws of the token, each followed by K continuations.

    A position with a continuation that no reward function scored is left out.
    """
    trainer = moved.trainer
    generator = torch.Generator().manual_seed(trainer.args.seed)
    ordered = sorted(places, key=lambda place: (place[1], place[0]))
    size = max(1, 8 * trainer.args.rollout_batch_size // (draws * repeats))
    rewards: dict[Place, Tensor] = {}
    for first in range(0, len(ordered), size):
        report("tokens drawn anew", first, len(ordered))
        part, pairs, starts = ordered[first : first + size], [], []
        for row, i in part:
            tokens = torch.multinomial(logps_RTV[row, i].exp().cpu(), draws, replacement=True, generator=generator)
            for token in tokens.repeat_interleave(repeats).tolist():
                start = trainer.writer.start_at(BranchPoint(moved.trees[row], 0, i))
                prefix = start.rollout
                prefix.append([token], [logps_RTV[row, i, token].item()])
                pairs.append((moved.trees[row], prefix))
                if token not in trainer.eos_token_ids:  # after it there is nothing to write
                    starts.append(start)
        trainer.writer.run(starts, DRAW_STREAM + first, keep_snapshots=False)
        trainer.writer.reward(pairs)
        found = rewards_of([rollout for _, rollout in pairs]).view(-1, draws, repeats)
        rewards.update((place, own) for place, own in zip(part, found, strict=True) if not own.isnan().any())
    report("tokens drawn anew", len(ordered), len(ordered))
    return rewards


def pick(moved: Studied, logps_RTV: Tensor, fall_RT: Tensor) -> dict[str, Picks]:
    """The tokens that each criterion picks."""
    generator = torch.Generator().manual_seed(moved.trainer.args.seed)
    other_RT = logps_RTV.scatter(2, moved.batch.completion_ids_BT[:, :, None], -inf).amax(dim=2).exp()
    return {
        "branching score": moved.top(moved.priority_RT),
        "entropy": moved.top(entropy_score(moved.entropies_RT, moved.mask_RT)),
        "fork weight": moved.top(fork_weight(moved.entropies_RT, (2 * logps_RTV).logsumexp(dim=2), floor=0.0)),
        "fall x entropy": moved.top(fall_RT.clamp(min=0) * moved.entropies_RT),
        "fall x chance of the other": moved.top(fall_RT.clamp(min=0) * other_RT),
        "random": moved.top(random_score(moved.mask_RT, generator=generator), RANDOM),
        "true decision": moved.decisions,
        "just before": [[i - 1 for i in p if moved.mask_RT[row, i - 1]] for row, p in enumerate(moved.decisions)],
    }


def study_tokens(moved: Studied, draws: int, repeats: int, report: Report = lambda *_: None) -> dict[str, Rows]:
    """What the picks of each criterion decide, and where entropy lies."""
    logps_RTV = moved.next_logps()
    fall_RT = counterfactual_fall(moved, logps_RTV, report)
    picks = pick(moved, logps_RTV, fall_RT)
    places = {(row, i) for lists in picks.values() for row, positions in enumerate(lists) for i in positions}
    rewards = draw_anew(moved, places, logps_RTV, draws, repeats, report)
    picks = {name: [[i for i in p if (row, i) in rewards] for row, p in enumerate(x)] for name, x in picks.items()}
    parts = {place: variance_parts(found) for place, found in rewards.items()}
    names = ("decision variance", "outcome variance")
    variances = {name: {place: pair[n] for place, pair in parts.items()} for n, name in enumerate(names)}
    distance_RT = distance_to(moved.decisions, fall_RT.shape[1])
    near = {"is a decision": distance_RT == 0, "within 2 of one": distance_RT <= 2}
    by_third: dict[str, Picks] = {}
    for name, score_RT in (("entropy", moved.entropies_RT), ("branching score", moved.priority_RT)):
        third_RT = torch.bucketize(score_RT, score_RT[moved.mask_RT].quantile(torch.tensor([1 / 3, 2 / 3])))
        for n, third in enumerate(("low", "middle", "high")):
            inside = [[i for i in p if third_RT[row, i] == n] for row, p in enumerate(picks["random"])]
            by_third[f"{third} {name}"] = inside
    least = moved.trainer.args.success_reward
    lost = {name: [p if fail else [] for p, fail in zip(x, moved.failed, strict=True)] for name, x in picks.items()}
    chances = {f"pass@{k}": {x: pass_at(found, k, least) for x, found in rewards.items()} for k in range(1, draws + 1)}
    return {
        "What the picks decide": tabulate("criterion", picks, {**variances, **near}),
        "Failed rollouts whose pick is drawn anew": tabulate("criterion", lost, chances),
        "Random tokens by third of a score": tabulate("third", by_third, variances),
        "Policy tokens by kind": kinds(moved, fall_RT),
    }


def kinds(moved: Studied, fall_RT: Tensor) -> Rows:
    """Entropy and its histogram, counterfactual fall and Omega by kind of token."""
    names = dict.fromkeys(["decision", *sorted({kind for kinds in moved.kinds for kind in kinds})])
    found: dict[str, Picks] = {kind: [[] for _ in moved.words] for kind in names}
    for row, i in moved.mask_RT.nonzero().tolist():
        found[moved.kinds[row][i]][row].append(i)
    entropy = moved.entropies_RT
    spans = {f"H {max(a, 0):g}-{b:g}": (entropy > a) & (entropy <= b) for a, b in pairwise(BINS)}
    return tabulate("kind", found, {"entropy": entropy, "fall": fall_RT, "Omega": moved.omega_RT, **spans})


def describe_omega(moved: Studied) -> dict[str, Any]:
    """How Omega is spread, and whether picks by branching score differ from picks by entropy."""
    mask_RT, entropy_RT, clip = moved.mask_RT, moved.entropies_RT, FUTURE_CLIP
    omega = moved.omega_RT[mask_RT]
    ranked = [z_scores(x, mask_RT)[mask_RT].tolist() for x in (clip_future_value(moved.omega_RT, clip), entropy_RT)]
    score, entropy = moved.top(moved.priority_RT), moved.top(entropy_score(entropy_RT, mask_RT))
    shared = {(row, i): i in entropy[row] for row, positions in enumerate(score) for i in positions}
    decision_RT = distance_to(moved.decisions, mask_RT.shape[1]) == 0
    return {
        "success": moved.success, "mean Omega": omega.mean().item(),
        "std": omega.std(correction=0).item(), "below clip": (omega < clip[0]).double().mean().item(),
        "above clip": (omega > clip[1]).double().mean().item(), "rank correlation": spearman(*ranked),
        "shared top 3": mean_over(score, shared), "decisions, branching score": mean_over(score, decision_RT),
        "decisions, entropy": mean_over(entropy, decision_RT),
    }  # fmt: skip


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="directory of the policy that is looked at")
    parser.add_argument("--task", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    sizes = {"questions": 48, "draws": 4, "repeats": 4, "warm-up": 8, "tasks": 4, "max-length": 240, "rows": 512}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options.output.mkdir(parents=True, exist_ok=True)
    tables, omega = dict[str, Rows](), list[dict[str, Any]]()
    settings = [*((*setting, options.warm_up) for setting in SETTINGS), (*SETTINGS[0], 0)]
    with Stages(Console()) as report:
        for done, (updates, rate, warm_up) in enumerate(settings):
            report("settings", done, len(settings))
            moved = move(options, updates, rate, warm_up)
            tables = tables or study_tokens(moved, options.draws, options.repeats, report)
            omega.append({"setting": f"{updates} updates, {rate:g}, after {warm_up}", **describe_omega(moved)})
        report("settings", len(settings), len(settings))
    tables["Omega at the last update of a generation"] = omega
    record = {"options": {**vars(options), "output": str(options.output)}, "tables": tables}
    (options.output / "pilot.json").write_text(json.dumps(record, indent=1, default=asdict) + "\n")
    (options.output / "pilot.md").write_text(markdown(tables))
    draw(tables, options.output / "pilot.png")


if __name__ == "__main__":
    _main()
