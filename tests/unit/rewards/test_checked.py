"""What a reward function returns is one number, or None, per completion; anything else is told with its name."""

import asyncio

import numpy as np
import pytest
import torch
from datasets import Dataset

from appo import APPOConfig, APPOTrainer
from appo.errors import UserError
from appo.rewards.checked import check_parameters, checked

RULE = "return a list of 2, a number or None for each completion."


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (None, "returned None; "),
        (1.0, "returned 1.0; "),
        (torch.tensor(1.0), "returned tensor(1.); "),
        ("ab", "returned 'ab'; "),
        ({0: 1.0, 1: 1.0}, "returned {0: 1.0, 1: 1.0}; "),
        ([1.0], "returned 1 rewards for 2 completions; "),
        ([1.0, 1.0, 1.0], "returned 3 rewards for 2 completions; "),
        ([1.0, "a"], "returned 'a' as a reward; "),
        ([1.0, [1.0]], "returned [1.0] as a reward; "),
    ],
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_other_shapes_are_told_with_the_functions_name(returned, sentence, kind):
    async def waiting(completions, **columns):
        return returned

    function = checked(waiting if kind == "async" else lambda completions, **columns: returned, "mine")

    def call():
        found = function(prompts=["p"] * 2, completions=["c"] * 2)
        return asyncio.run(found) if kind == "async" else found

    with pytest.raises(UserError) as error:
        call()
    assert str(error.value) == f"reward function mine {sentence}{RULE}"


@pytest.mark.parametrize(
    "returned", [[1, None], (True, 0.5), np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), [np.float32(1), None]]
)
def test_rewards_pass_as_they_are(returned):
    assert checked(lambda completions, **columns: returned, "mine")(completions=["c"] * 2) is returned


def test_a_reward_model_is_left_to_trl():
    model = torch.nn.Linear(1, 1)
    assert checked(model, "model") is model


def test_the_trainer_looks_at_what_its_functions_return(tmp_path, tiny):
    model, tokenizer = tiny

    def short(completions, **columns):
        return [1.0]

    args = APPOConfig(
        str(tmp_path), num_generations=2, method="grpo", per_device_train_batch_size=2,
        steps_per_generation=1, max_steps=1, max_completion_length=4, tool_protocol="tags", use_cpu=True, bf16=False,
        report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "boss e1"}] * 4)
    trainer = APPOTrainer(model, short, args, rows, processing_class=tokenizer)
    with pytest.raises(UserError, match="reward function short returned 1 rewards for 2 completions"):
        trainer.train()


def given_everything(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, answer):
    return [0.0]


def with_more(completions, answer, bonus=1, environments=None, **columns):
    return [0.0]


def test_parameters_that_are_columns_or_have_defaults_are_taken():
    check_parameters(given_everything, "r", ["prompt", "answer", "completion"])
    check_parameters(with_more, "r", ["prompt", "answer", "other"])
    check_parameters(lambda environments, **_: [], "r", ["prompt"])


def test_a_parameter_that_is_no_column_is_named_with_the_closest():
    with pytest.raises(UserError) as error:
        check_parameters(with_more, "with_more", ["prompt", "answers", "id"])
    assert str(error.value) == (
        "reward function with_more takes 'answer', which is no column of the data (answers, id); did you mean "
        "'answers'?"
    )


def test_columns_that_nothing_takes_are_named():
    with pytest.raises(UserError) as error:
        check_parameters(given_everything, "r", ["prompt", "answer", "id"])
    assert str(error.value) == (
        "reward function r is given id too; take them with **columns: def r(completions, .., **columns)."
    )
