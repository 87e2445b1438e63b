"""Success of a policy on fresh questions, sampled as in training, with a 95 % interval.

Left out on purpose: benchmarks and their metrics; this measures the task that is trained on.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from datasets import Dataset

from appo.report.intervals import wilson_interval
from appo.rollout.metrics import mean
from appo.rollout.trainer import RolloutTrainer
from appo.rollout.tree import RolloutTree
from appo.rollout.writer import EVALUATION_STREAM
from appo.rollout.zeros import Ending, likely_reason


@dataclass
class Evaluation:
    """Success on `questions` questions, one rollout each.

    Args:
        success: Share of the scored rollouts whose reward reaches `success_reward`.
        low, high: 95 % Wilson interval of `success`.
        reward: Mean reward of the scored rollouts.
        tool_calls, tool_failures, tokens: Means per question; tokens are those of the policy.
        truncated: Share of rollouts that reached the token limit.
        unscored: Rollouts that no reward function scored; they are in no share or mean of success and reward.
        why_zero: Where nothing succeeded, the likely reason, if there is one.
    """

    questions: int
    success: float
    low: float
    high: float
    reward: float
    tool_calls: float
    tool_failures: float
    tokens: float
    truncated: float
    unscored: int = 0
    why_zero: str | None = None

    def __str__(self) -> str:
        left_out = f" ({self.unscored} without a reward left out)" if self.unscored else ""
        why = f" ({self.why_zero})" if self.why_zero else ""
        return f"{self.success:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.questions} questions{left_out}{why}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Outcome:
    """What counts of the rollout of question `index`."""

    index: int
    success: bool
    reward: float | None
    ending: Ending


def evaluate(
    trainer: RolloutTrainer,
    questions: Dataset,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda done: None,
    records: str | None = None,
) -> Evaluation:
    """Writes one rollout per question with the trainer's present policy.

    The processes share the questions out, and each gets the whole result. A question's random numbers depend on the
    run's seed and its place alone: another number of processes, or a later step, changes nothing.

    Args:
        trainer: Its model, tools, rewards and sampling settings are used; its state is left as it was.
        questions: Rows like those of the training set.
        batch_size: Questions written at once by each process.
        on_batch: Called with the number of questions done so far.
        records: A name under which the rollouts are written down, if the trainer keeps records; None: not at all.
    """
    training = trainer.model.training
    trainer.model.eval()
    outcomes: dict[int, _Outcome] = {}
    processes, process = trainer.accelerator.num_processes, trainer.accelerator.process_index
    for start in range(0, len(questions), batch_size * processes):
        batch = range(start, min(start + batch_size * processes, len(questions)))
        each = -(-len(batch) // processes)
        # Rewards are gathered, so that all take as many: the last question again, where there are none left.
        mine = [batch[min(process * each + i, len(batch) - 1)] for i in range(each)]
        trees = _write(trainer, questions, mine)
        if records is not None:
            trainer.record_evaluation(f"{records}-{start:06d}", trees[: max(0, len(batch) - process * each)])
        found = gather_object(_outcomes(trees, mine, trainer.args.success_reward))
        outcomes.update((outcome.index, outcome) for outcome in found)
        on_batch(len(outcomes))
    trainer.model.train(training)
    return _summary([outcomes[index] for index in sorted(outcomes)], bool(trainer.pool.all_tools()))


def _write(trainer: RolloutTrainer, questions: Dataset, indices: list[int]) -> list[RolloutTree]:
    seeds = [
        int(np.random.SeedSequence([trainer.args.seed, EVALUATION_STREAM, i]).generate_state(1, np.uint64)[0])
        for i in indices
    ]
    trees = trainer.writer.write([questions[i] for i in indices], 1, seeds=seeds)
    trainer.writer.release(trees)
    return trees


def _outcomes(trees: list[RolloutTree], indices: list[int], least: float) -> list[_Outcome]:
    return [
        _Outcome(
            index,
            success=rollout.reward is not None and rollout.reward >= least,
            reward=rollout.reward,
            ending=Ending.of(rollout),
        )
        for index, tree in zip(indices, trees, strict=True)
        for rollout in tree.initial
    ]


def _summary(outcomes: list[_Outcome], with_tools: bool) -> Evaluation:
    count = len(outcomes)
    endings = [outcome.ending for outcome in outcomes]
    errors = [error for ending in endings for error in ending.errors]
    scored = [outcome.success for outcome in outcomes if outcome.reward is not None]
    low, high = wilson_interval(sum(scored), len(scored))
    return Evaluation(
        questions=count,
        success=mean(map(float, scored)),
        low=low,
        high=high,
        reward=mean(outcome.reward for outcome in outcomes),
        tool_calls=len(errors) / count,
        tool_failures=sum(error is not None for error in errors) / count,
        tokens=sum(ending.tokens for ending in endings) / count,
        truncated=sum(ending.finish_reason == "length" for ending in endings) / count,
        unscored=count - len(scored),
        why_zero=likely_reason(endings, with_tools) if scored and not any(scored) else None,
    )
