"""Success of a policy on fresh questions, sampled as in training, with a 95 % interval.

Left out on purpose: benchmarks and their metrics; this measures the task that is trained on.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset

from appo.metrics import mean
from appo.trainer import EVALUATION_STREAM, APPOTrainer


@dataclass
class Evaluation:
    """Success on `questions` questions, one rollout each.

    Args:
        success: Share of rollouts whose reward reaches `success_reward`; an unscored one counts as a failure.
        low, high: 95 % Wilson interval of `success`.
        reward: Mean reward of the scored rollouts.
        tool_calls, tool_failures, tokens: Means per question; tokens are those of the policy.
        truncated: Share of rollouts that reached the token limit.
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

    def __str__(self) -> str:
        return f"{self.success:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.questions} questions"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def wilson_interval(successes: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (E. B. Wilson, 1927); (0, 1) for no observations."""
    if count == 0:
        return 0.0, 1.0
    share = successes / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, center - half), min(1.0, center + half)


def evaluate(
    trainer: APPOTrainer, questions: Dataset, batch_size: int, on_batch: Callable[[int], None] = lambda done: None
) -> Evaluation:
    """Writes one rollout per question with the trainer's present policy.

    Args:
        trainer: Its model, tools, rewards and sampling settings are used; its state is left as it was.
        questions: Rows like those of the training set.
        batch_size: Questions written at once.
        on_batch: Called with the number of questions done so far.
    """
    rollouts = []
    training = trainer.model.training
    trainer.model.eval()
    for start in range(0, len(questions), batch_size):
        rows = [questions[i] for i in range(start, min(start + batch_size, len(questions)))]
        trees = trainer.write_initial(rows, 1, EVALUATION_STREAM + start)
        rollouts += [rollout for tree in trees for rollout in tree.initial]
        trainer.release_environments(trees)
        on_batch(len(rollouts))
    trainer.model.train(training)
    least = trainer.args.success_reward
    successes = sum(rollout.reward is not None and rollout.reward >= least for rollout in rollouts)
    calls = [call for rollout in rollouts for call in rollout.tool_calls]
    count = len(rollouts)
    low, high = wilson_interval(successes, count)
    return Evaluation(
        questions=count,
        success=successes / count,
        low=low,
        high=high,
        reward=mean(rollout.reward for rollout in rollouts),
        tool_calls=len(calls) / count,
        tool_failures=sum(call.error is not None for call in calls) / count,
        tokens=sum(sum(rollout.policy_mask) for rollout in rollouts) / count,
        truncated=sum(rollout.finish_reason == "length" for rollout in rollouts) / count,
    )
