"""What the commands do: cold start, training, evaluation, in the directory `output_dir`.

    cold_start/            the model after the demonstrations
    checkpoint-*/          transformers' checkpoints; an interrupted run goes on from the last
    records.jsonl          one line per rollout and step
    model/                 the trained model and its tokenizer
    curves.png, result.json

Left out on purpose: reading recipes (`recipe.py`).
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig

from appo.analysis.curves import plot_curves
from appo.config import APPOConfig
from appo.environments.base import Task
from appo.evaluation import Evaluation, evaluate
from appo.progress import RichProgress, progress_bar
from appo.recipe import RecipeError, RunConfig
from appo.sft import make_sft_trainer
from appo.trainer import APPOTrainer

TASKS = {"kinship": "appo.environments.kinship", "reasoning_gym": "appo.environments.reasoning_gym"}
SHOWN = {
    "success": "success {:.2f}",
    "reward": "reward {:.2f}",
    "entropy": "entropy {:.2f}",
    "tokens/generated": "{:,.0f} tokens",
}
ModelAndTokenizer = tuple[Any, Any]


def sft(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> None:
    """The cold start alone."""
    console = _console(args)
    _cold_start(config, args, sft_args, _load_task(config), console)
    console.print(f"cold start in {_cold_dir(args)}")


def train(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> None:
    """Cold start, evaluation, APPO, evaluation, picture. Finished parts are not done again."""
    console = _console(args)
    result_path = Path(args.output_dir) / "result.json"
    if result_path.exists() and not config.overwrite:
        _report(json.loads(result_path.read_text()), console)
        console.print("This run had finished before; --overwrite true (make train FRESH=1) trains again.")
        return
    task = _load_task(config)
    if config.demonstrations:
        model, tokenizer = _cold_start(config, args, sft_args, task, console)
    else:
        model, tokenizer = _load_model(config, args, task, config.model)
    checkpoint = None if config.overwrite else get_last_checkpoint(args.output_dir)
    trainer = _make_trainer(config, args, task, model, tokenizer)
    before = _evaluation("before", trainer, config, task, console, fresh=config.overwrite)
    if checkpoint:
        console.print(f"going on from {checkpoint}")
    RichProgress.attach(trainer, "APPO", SHOWN, console)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(_model_dir(args)))
    tokenizer.save_pretrained(_model_dir(args))
    trainer.save_state()
    after = _evaluation("after", trainer, config, task, console, fresh=True)
    result = _result(config, args, before, after)
    marks = {name: mark for name, mark in (("before", before), ("after", after)) if mark}
    if args.save_records:
        plot_curves(Path(args.output_dir) / "records.jsonl", result["curves"], args.success_reward, marks)
    result_path.write_text(json.dumps(result, indent=2) + "\n")
    _report(result, console)


def eval(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> None:
    """Success of `--model`, else of the trained model, else of the cold start."""
    console = _console(args)
    task = _load_task(config)
    found = [path for path in (_model_dir(args), _cold_dir(args)) if (path / "config.json").exists()]
    source = config.model or (str(found[0]) if found else None)
    if source is None and task.make_model is None:
        raise RecipeError(f"there is no model in {args.output_dir} yet; run `appo train` first or give --model DIR.")
    trainer = _make_trainer(config, args, task, *_load_model(config, args, task, source))
    evaluation = _run_evaluation("evaluation", trainer, config, task, console)
    console.print(f"success {evaluation} ({source or 'the untrained model'})")
    console.print_json(json.dumps(evaluation.as_dict()))


def _console(args: APPOConfig) -> Console:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    args.disable_tqdm = True
    try:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"output_dir = {args.output_dir!r} cannot be made: {error.strerror}.") from None
    return Console(quiet=not args.should_log, markup=False, highlight=False, soft_wrap=True)


def _load_task(config: RunConfig) -> Task:
    name = TASKS.get(config.task, config.task)
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise RecipeError(
                f"task = {config.task!r} is neither {' nor '.join(TASKS)} nor an importable module; name a module on "
                "PYTHONPATH that holds a `TASK`."
            ) from None
        raise RecipeError(str(error)) from None
    if not isinstance(getattr(module, "TASK", None), Task):
        raise RecipeError(f"task = {config.task!r}: the module holds no `TASK`; define TASK = appo.Task(...).")
    return module.TASK


def _cold_dir(args: APPOConfig) -> Path:
    return Path(args.output_dir) / "cold_start"


def _model_dir(args: APPOConfig) -> Path:
    return Path(args.output_dir) / "model"


def _load_model(config: RunConfig, args: APPOConfig, task: Task, source: str | None) -> ModelAndTokenizer:
    transformers.set_seed(args.seed)
    if source is None:
        if task.make_model is None:
            raise RecipeError(f"task = {config.task!r} makes no model of its own; name one with `model: DIR_OR_NAME`.")
        try:
            return task.make_model()
        except (FileNotFoundError, ImportError) as error:
            raise RecipeError(str(error)) from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        options = {"dtype": torch.float32, **(args.model_init_kwargs or {})}
        return AutoModelForCausalLM.from_pretrained(source, **options), tokenizer
    except (OSError, ValueError) as error:
        raise RecipeError(f"model = {source!r} cannot be loaded: {str(error).splitlines()[0]}") from None


def _cold_start(
    config: RunConfig, args: APPOConfig, sft_args: SFTConfig, task: Task, console: Console
) -> ModelAndTokenizer:
    """Trains on demonstrations, or loads the model of a cold start that had finished with the same settings."""
    if task.demonstrations is None:
        raise RecipeError(f"task = {config.task!r} has no demonstrations; set demonstrations: 0.")
    directory = _cold_dir(args)
    settings = {"task": config.task, "model": config.model, "demonstrations": config.demonstrations}
    settings.update(steps=sft_args.max_steps, epochs=sft_args.num_train_epochs, learning_rate=sft_args.learning_rate)
    settings.update(batch=sft_args.per_device_train_batch_size, seed=sft_args.seed)
    done = directory / "cold_start.json"
    if done.exists() and not config.overwrite and json.loads(done.read_text())["settings"] == settings:
        console.print(f"cold start: found in {directory}")
        return _load_model(config, args, task, str(directory))
    model, tokenizer = _load_model(config, args, task, config.model)
    sft_args.disable_tqdm = True
    demonstrations = task.demonstrations(config.demonstrations, config.train_seed)
    trainer, counts = make_sft_trainer(model, tokenizer, demonstrations, sft_args)
    RichProgress.attach(trainer, "cold start", {"loss": "loss {:.3f}"}, console)
    metrics = trainer.train().metrics
    trainer.save_model(str(directory))
    tokenizer.save_pretrained(directory)
    done.write_text(json.dumps({"settings": settings, "metrics": {**metrics, **counts}}, indent=2) + "\n")
    return model, tokenizer


def _make_trainer(config: RunConfig, args: APPOConfig, task: Task, model: Any, tokenizer: Any) -> APPOTrainer:
    try:
        return APPOTrainer(
            model,
            list(task.reward_funcs),
            args,
            train_dataset=task.dataset(config.train_size, config.train_seed),
            processing_class=tokenizer,
            tools=list(task.tools),
            environment_factory=task.environment_factory,
        )
    except ValueError as error:  # fields that only the model or the task can contradict
        raise RecipeError(" ".join(str(error).split())) from None


def _evaluation(
    name: str, trainer: APPOTrainer, config: RunConfig, task: Task, console: Console, fresh: bool
) -> Evaluation | None:
    """An evaluation, kept in a file: a resumed run has lost the policy from before."""
    if not config.eval_size:
        return None
    path = Path(trainer.args.output_dir) / f"evaluation-{name}.json"
    if path.exists() and not fresh:
        return Evaluation(**json.loads(path.read_text()))
    evaluation = _run_evaluation(name, trainer, config, task, console)
    path.write_text(json.dumps(evaluation.as_dict(), indent=2) + "\n")
    console.print(f"{name}: success {evaluation}")
    return evaluation


def _run_evaluation(name: str, trainer: APPOTrainer, config: RunConfig, task: Task, console: Console) -> Evaluation:
    questions = task.dataset(config.eval_size, config.eval_seed)
    with progress_bar(console) as bar:
        bar_task = bar.add_task(f"success {name}", total=len(questions), status="")
        size = trainer.args.rollout_batch_size
        return evaluate(trainer, questions, size, lambda done: bar.update(bar_task, completed=done))


def _result(
    config: RunConfig, args: APPOConfig, before: Evaluation | None, after: Evaluation | None
) -> dict[str, Any]:
    directory = Path(args.output_dir)
    return {
        "task": config.task,
        "seed": args.seed,
        "before": before.as_dict() if before else None,
        "after": after.as_dict() if after else None,
        "checkpoint": str(_model_dir(args)),
        "records": str(directory / "records.jsonl") if args.save_records else None,
        "curves": str(directory / "curves.png") if args.save_records else None,
    }


def _report(result: dict[str, Any], console: Console) -> None:
    for name in ("before", "after"):
        if result[name]:
            evaluation = Evaluation(**result[name])
            calls = f"{evaluation.tool_calls:.1f} tool calls, {evaluation.tokens:.0f} tokens each"
            console.print(f"{name:11} success {evaluation}, {calls}")
    for name in ("checkpoint", "records", "curves"):
        console.print(f"{name:11} {result[name]}")
