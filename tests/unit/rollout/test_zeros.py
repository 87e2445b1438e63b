"""Why nothing was right, from how samples ended; and a run whose rewards are all equal."""

import pytest
from datasets import Dataset

from appo import APPOConfig, APPOTrainer
from appo.rollout.types import Rollout
from appo.rollout.zeros import Ending, EqualRewards, likely_reason

PLAIN = Ending("stop", 5, [], answered=True)


@pytest.mark.parametrize(
    ("endings", "reason"),
    [
        ([Ending("length", 0, [])] * 3, "all 3 samples are empty: the prompts leave no room in the model's context"),
        ([Ending("length", 9, [])] * 2 + [PLAIN], "2 of 3 samples reached the token limit"),
        ([Ending("failed", 9, [None])] * 2 + [PLAIN], "2 of 3 samples ended as the agent failed"),
        ([Ending("tool_limit", 9, [None])] * 2, "all 2 samples reached the limit of tool calls"),
        (
            [Ending("stop", 9, ["timeout", "timeout", "bad arguments"])],
            "every tool call failed (3 calls; 2 with 'timeout')",
        ),
        (
            [Ending("stop", 9, [], answered=False)] * 2,
            "no sample followed the format: none holds <answer>..</answer> or \\boxed{..}",
        ),
        (
            [Ending("stop", 9, [None], answered=False)] * 2 + [PLAIN],
            "2 of 3 samples hold no <answer>..</answer> or \\boxed{..}",
        ),
        ([PLAIN] * 3, "no sample called a tool"),
        ([PLAIN, Ending("stop", 5, [None]), Ending("length", 9, [])], None),
    ],
)
def test_the_likely_reason_for_nothing_right(endings, reason):
    assert likely_reason(endings, with_tools=True) == reason


def test_without_tools_none_can_be_called():
    assert likely_reason([PLAIN], with_tools=False) is None


def rollouts(reward, count):
    return [Rollout([1], completion_ids=[2], policy_mask=[1], reward=reward, finish_reason="stop")] * count


def test_equal_rewards_are_told_once_when_enough_were_seen():
    watch = EqualRewards(with_tools=True)
    assert watch.look(rollouts(0.0, 31)) is None
    sentence = watch.look(rollouts(0.0, 1))
    assert sentence.startswith("all of the first 32 rollouts have the reward 0, and equal rewards teach nothing; no ")
    assert watch.look(rollouts(0.0, 64)) is None


def test_different_rewards_say_nothing_ever():
    watch = EqualRewards(with_tools=False)
    assert watch.look([*rollouts(0.0, 1), *rollouts(1.0, 1)]) is None
    assert watch.look(rollouts(0.0, 64)) is None


def test_rollouts_that_nothing_scores_are_told():
    assert "no reward function scored any of the first 32" in EqualRewards(False).look(rollouts(None, 32))


def test_a_training_warns_of_equal_rewards(tmp_path, tiny):
    model, tokenizer = tiny
    args = APPOConfig(
        str(tmp_path), num_generations=8, method="grpo", per_device_train_batch_size=32, steps_per_generation=1,
        max_completion_length=2, max_steps=1, tool_protocol="tags", use_cpu=True, bf16=False, report_to="none",
        save_strategy="no",
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": f"boss e{n}"} for n in range(4)])
    trainer = APPOTrainer(
        model, lambda completions, **_: [0.0] * len(completions), args, rows, processing_class=tokenizer
    )
    with pytest.warns(UserWarning, match="all of the first 32 rollouts have the reward 0, and equal rewards teach no"):
        trainer.train()
