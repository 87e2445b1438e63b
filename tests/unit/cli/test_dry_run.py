"""The dry run: the plan's arithmetic by hand, every recipe, and no weights."""

from pathlib import Path

import pytest
from datasets import Dataset

from appo import APPOConfig, APPOTrainer
from appo.cli.main import main
from appo.cli.recipe import read_recipe
from appo.cli.run_plan import RunPlan, cold_start_updates

RECIPES = Path(__file__).parents[3] / "recipes"
PAPER = sorted(path.name for path in RECIPES.glob("paper-*.yaml"))


def plan_of(capsys):
    lines = capsys.readouterr().out.splitlines()
    return {line[2:20].strip(): line[21:] for line in lines if line.startswith("  ")}, lines


# ---- the plan ----


def test_a_plan_by_hand(recipe, tmp_path, capsys, model_directory):
    assert main(["train", recipe(model=model_directory), "--dry-run"]) == 0
    plan, lines = plan_of(capsys)
    # 40 tasks in generations of 8 x 2 / 4 = 4; 3 epochs of 10 generations of 2 updates of 2 tasks
    assert plan["tasks"] == "40, 4 rollouts each (branches included)"
    assert plan["generation"] == "4 tasks, 8 initial rollouts; then 2 updates"
    assert plan["update"] == "2 tasks (processes x tasks: 1 x 2), 4 branches; forwards on each: 1 x 4 rollouts"
    # 30 generations x 8 initial rollouts, 60 updates x 4 branches
    assert plan["run"] == "30 generations, 60 updates, 480 rollouts"
    # 8 rollouts of an update x 32 tokens, half of them initial; 480 x 32
    assert plan["tokens, at most"] == "32 a rollout; 256 an update, 128 of them trained on; 15,360 in all"
    assert plan["checkpoints"] == "30, every 2 updates"
    # 20 / 4 = 5 batches, 3 epochs
    assert plan["cold start"].endswith("batches of 4; 3 epoch(s); at most 256 tokens each; 15 updates")
    assert plan["tools"] == "search; protocol tags"
    assert plan["evaluation"] == "10 questions, before and after"
    assert "0.2 M parameters, all trained; context of 1,024 tokens" in plan["model"]
    assert lines[-1] == "No mistakes found."
    assert not (tmp_path / "run").exists()


def test_several_processes_multiply_tasks(recipe, tmp_path):
    _, args, sft_args = read_recipe(recipe(num_processes=8), [])
    plan = RunPlan(args, 8, 100)
    assert (plan.tasks_per_update, plan.tasks_per_generation) == (16, 32)
    assert plan.updates == 3 * 3 * 2  # 3 epochs of 100 // 32 generations
    assert cold_start_updates(sft_args, 8, 100) == 3 * 4  # ceil(100 / 32)


@pytest.mark.parametrize("values", [{"num_train_epochs": 2}, {"max_steps": 3}, {"num_iterations": 2}])
def test_the_updates_are_those_of_the_trainer(tmp_path, tiny, values):
    model, tokenizer = tiny
    args = APPOConfig(
        str(tmp_path), num_generations=4,
        method_args={"num_initial_rollouts": 2, "num_branch_points": 1}, per_device_train_batch_size=4,
        gradient_accumulation_steps=2, steps_per_generation=4, max_completion_length=2, tool_protocol="tags",
        use_cpu=True, bf16=False, report_to="none", save_strategy="no", **{"num_train_epochs": 1, **values},
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "boss e1"}] * 5)
    trainer = APPOTrainer(
        model, lambda completions, **_: [0.0] * len(completions), args, rows, processing_class=tokenizer
    )
    trainer.train()
    assert trainer.state.global_step == RunPlan(args, 1, 5).updates


@pytest.mark.parametrize(("method", "rollouts"), [("appo", 2 * 4 + 4 * 4), ("appo_rescue", 2 * (4 + 4))])
def test_the_rollouts_are_those_of_the_trainer_whoever_branches(tmp_path, tiny, method, rollouts):
    """4 updates in 2 generations of 2 tasks, which begin with 4 rollouts, trained on twice; 4 branches a round.

    APPO branches before every update, the rescue once per generation.
    """
    model, tokenizer = tiny
    args = APPOConfig(
        str(tmp_path), num_generations=4, method=method, per_device_train_batch_size=4, num_iterations=2,
        gradient_accumulation_steps=2, steps_per_generation=2, max_steps=4, max_completion_length=4, use_cpu=True,
        tool_protocol="tags",
        method_args={"num_initial_rollouts": 2} | ({"num_branch_points": 1} if method == "appo" else {}),
        bf16=False, report_to="none", save_strategy="no",
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "boss e1"}] * 5)
    trainer = APPOTrainer(
        model, lambda completions, **_: [0.0] * len(completions), args, rows, processing_class=tokenizer
    )
    trainer.train()
    assert trainer.counters.totals()["rollouts/generated"] == RunPlan(args, 1, 5).rollouts == rollouts


def test_a_plan_says_which_branches_are_written_once_per_generation(recipe, capsys, model_directory):
    flags = ["--method", "appo_rescue", "--method_args", "{}", "--num_iterations", "2"]
    assert main(["train", recipe(model=model_directory), "--dry-run", *flags]) == 0
    plan, _ = plan_of(capsys)
    # 40 tasks in generations of 4, of whose 4 rollouts half are branches; 3 epochs of 10 generations
    assert plan["generation"] == "4 tasks, 8 initial rollouts, at most 8 branches; then 4 updates"
    assert plan["update"] == "2 tasks (processes x tasks: 1 x 2); forwards on each: 1 x 4 rollouts"
    assert plan["run"] == "30 generations, 120 updates, 480 rollouts"


@pytest.mark.parametrize("method", ["appo_rescue", "arpo"])
def test_a_method_of_branches_that_has_none_is_noted(recipe, capsys, model_directory, method):
    path = recipe(model=model_directory, method=method, method_args={"num_initial_rollouts": 4})
    note = f"note: method = '{method}' has no branches, as num_initial_rollouts = num_generations = 4.\n"
    for flags, noted in (([], True), (["--method_args.num_initial_rollouts", "3"], False)):
        assert main(["train", path, "--dry-run", *flags]) == 0
        assert (note in capsys.readouterr().out) is noted


def test_a_flag_of_any_form_asks_for_it_and_false_does_not(recipe, tmp_path, capsys):
    path = recipe()
    for flags in (["--dry_run"], ["--dry-run", "--seed", "1"], ["--dry_run=true"]):
        assert main(["sft", path, *flags]) == 0
        assert "No mistakes found." in capsys.readouterr().out
    assert main(["train", recipe(dry_run=True), "--train_size", "3"]) == 2
    assert "do not fill a generation" in capsys.readouterr().out
    assert main(["sft", path, "--dry-run", "false", "--model", "/no/such/model"]) == 2
    assert "cannot be loaded" in capsys.readouterr().err


# ---- recipes ----


@pytest.mark.parametrize("name", sorted(path.name for path in RECIPES.glob("*.yaml")))
def test_every_recipe_passes(name, capsys):
    if name.startswith("smollm2"):
        pytest.importorskip("reasoning_gym", reason="needs pip install 'appo[smollm2]'")
    code = main(["train", str(RECIPES / name), "--dry-run", "--allow_unisolated", "true"])
    out = capsys.readouterr().out
    mistakes = [line for line in out.splitlines() if line.startswith("mistake:")]
    assert code == (2 if mistakes else 0)
    if name == "smollm2-qa.yaml":  # examples/smollm2_qa.py makes its files
        mistakes = [line for line in mistakes if "runs/smollm2-qa-data/" not in line]
    assert mistakes == []
    if name in PAPER:
        assert "not checked: model and tokenizer: " in out
        assert "not checked: traces: dongguanting/ARPO-SFT-54K" in out
        # Only an adapter may be trained beside weights of 16 bits without DeepSpeed.
        adapter = "lora" in name or "1gpu" in name
        assert ("note: all weights are trained in bfloat16" in out) is not adapter


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_settings(name):
    config, args, sft_args = read_recipe(str(RECIPES / name), [])
    plan = RunPlan(args, config.num_processes, config.train_size)
    assert (plan.tasks_per_generation, plan.tasks_per_update) == (128, 16)
    assert config.num_processes == (1 if "1gpu" in name else 8)
    assert args.engine == ("vllm_server" if name == "paper-search-14b.yaml" else "vllm")
    options = args.open_method().options
    tree = (args.num_generations, args.num_initial_rollouts, options.num_branch_points, options.num_branch_rounds)
    assert tree == (16, 4, 3, 1)
    assert (options.future_weight, options.half_life, options.future_clip) == (0.5, 32.0, [1.0, 1.2])
    assert (args.beta, args.epsilon, args.epsilon_high) == (0.0, 0.2, 0.28)
    reasoning = "reasoning" in name
    assert args.max_completion_length == (4096 if reasoning else 8192)
    assert (args.num_train_epochs, config.train_size) == ((2, 10_000) if reasoning else (5, 1071))
    assert config.task_args["data"].endswith("Reasoning-10K" if reasoning else "DeepSearch-1K")
    assert (sft_args.num_train_epochs, sft_args.max_length, sft_args.weight_decay) == (3, 4096, 0.1)
    batch = config.num_processes * sft_args.per_device_train_batch_size * sft_args.gradient_accumulation_steps
    assert batch == 128
    adapter = config.lora is not None
    assert adapter == ("lora" in name or "1gpu" in name)
    # An adapter's learning rates are ours: ten times the paper's.
    assert (args.learning_rate, sft_args.learning_rate) == ((1e-5, 7e-5) if adapter else (1e-6, 7e-6))
    assert args.output_dir == f"runs/{Path(name).stem}"
