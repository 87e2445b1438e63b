"""What the commands do: cold start, training, evaluation, in the directory `output_dir`.

    cold_start/            the model after the demonstrations
    checkpoint-*/          transformers' checkpoints; an interrupted run goes on from the last
    records.jsonl          one line per rollout and step
    model/                 the trained model and its tokenizer
    curves.png, result.json

Left out on purpose: reading recipes (`recipe.py`).
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer
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
# Paths and output do not decide what a run does.
NOT_SETTINGS = (
    "output_dir", "logging_dir", "run_name", "report_to", "disable_tqdm", "logging_steps", "save_steps",
    "save_strategy", "save_total_limit", "hub_token", "project", "trackio_space_id",
)  # fmt: skip
ModelAndTokenizer = tuple[Any, Any]


@contextmanager
def _setting_up() -> Iterator[None]:
    """Mistakes that show only once a library reads the values: one sentence, as for all others."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise RecipeError(" ".join(str(error).split()) or type(error).__name__) from None


def sft(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> None:
    """The cold start alone."""
    console = _console(args)
    if config.overwrite:
        shutil.rmtree(_cold_dir(args), ignore_errors=True)
    _cold_start(config, args, sft_args, load_task(config), console)
    console.print(f"cold start in {_cold_dir(args)}")


def train(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> None:
    """Cold start, evaluation, APPO, evaluation, picture. Finished parts are not done again."""
    console = _console(args)
    result_path = Path(args.output_dir) / "result.json"
    settings = _settings(config, args, sft_args)
    if config.overwrite:
        _forget(args)
    elif result_path.exists():
        return _report_finished(json.loads(result_path.read_text()), settings, console)
    console.print(f"task {config.task}: loading the model")
    task = load_task(config)
    if config.demonstrations:
        model, tokenizer = _cold_start(config, args, sft_args, task, console)
    else:
        model, tokenizer = load_model(config, args, task, config.model)
        if args.beta and config.model is None:
            # TRL loads the reference policy from where the model came from: one made on the spot needs a place.
            start = Path(args.output_dir) / "start"
            model.save_pretrained(start)
            tokenizer.save_pretrained(start)
            model, tokenizer = load_model(config, args, task, str(start))
    trainer = _make_trainer(config, args, task, model, tokenizer)
    checkpoint = args.resume_from_checkpoint or last_checkpoint(args.output_dir)
    before = _evaluation("before", trainer, config, task, console, fresh=False)
    if checkpoint:
        console.print(f"going on from {checkpoint}")
    RichProgress.attach(trainer, "APPO", SHOWN, console)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(_model_dir(args)))
    tokenizer.save_pretrained(_model_dir(args))
    trainer.save_state()
    after = _evaluation("after", trainer, config, task, console, fresh=True)
    result = {**_result(config, args, before, after), "settings": settings}
    marks = {name: mark for name, mark in (("before", before), ("after", after)) if mark}
    if args.save_records:
        plot_curves(Path(args.output_dir) / "records.jsonl", result["curves"], args.success_reward, marks)
    result_path.write_text(json.dumps(result, indent=2) + "\n")
    _report(result, console)


def eval(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> None:
    """Success of `--model`, else of the trained model, else of the cold start."""
    if not config.eval_size:
        raise RecipeError("eval_size is 0; give the number of questions to ask.")
    console = _console(args)
    task = load_task(config)
    found = [path for path in (_model_dir(args), _cold_dir(args)) if (path / "config.json").exists()]
    source = config.model or (str(found[0]) if found else None)
    if source is None and task.make_model is None:
        raise RecipeError(f"there is no model in {args.output_dir} yet; run `appo train` first or give --model DIR.")
    trainer = _make_trainer(config, args, task, *load_model(config, args, task, source))
    evaluation = _run_evaluation("evaluation", trainer, config, task, console)
    console.print(f"success {evaluation} ({source or 'the untrained model'})")
    console.print_json(json.dumps(evaluation.as_dict()))


def _settings(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> dict[str, Any]:
    """What decides a run's outcome, as JSON has it; two runs are the same if these are."""
    fields = {**asdict(config), **args.to_dict(), "cold_start": _cold_start_settings(config, sft_args)}
    for name in (*NOT_SETTINGS, "overwrite", "resume_from_checkpoint"):
        fields.pop(name, None)
    return json.loads(json.dumps(fields, default=str))


def _cold_start_settings(config: RunConfig, sft_args: SFTConfig) -> dict[str, Any]:
    fields = {name: value for name, value in sft_args.to_dict().items() if name not in NOT_SETTINGS}
    fields.update(task=config.task, model=config.model, demonstrations=config.demonstrations)
    return json.loads(json.dumps({**fields, "train_seed": config.train_seed}, default=str))


def _forget(args: APPOConfig) -> None:
    """Removes what an earlier run would be resumed from or reported by; its records are kept under another name."""
    directory = Path(args.output_dir)
    for path in [*directory.glob("checkpoint-*"), _cold_dir(args), _model_dir(args)]:
        shutil.rmtree(path, ignore_errors=True)
    for path in [directory / "result.json", *directory.glob("evaluation-*.json")]:
        path.unlink(missing_ok=True)


def _report_finished(result: dict[str, Any], settings: dict[str, Any], console: Console) -> None:
    _report(result, console)
    old = result.get("settings", {})
    changed = sorted(name for name in settings if settings[name] != old.get(name))
    other = f" with other values of {', '.join(changed)}" if changed else ""
    console.print(f"This run had finished before{other}; --overwrite true (make train FRESH=1) trains again.")


def last_checkpoint(output_dir: str) -> str | None:
    """The newest checkpoint that was written to its end: a kill may have left half of one."""
    complete = [path.parent for path in Path(output_dir).glob("checkpoint-*/trainer_state.json")]
    newest = max(complete, key=lambda path: int(path.name.split("-")[-1]), default=None)
    return None if newest is None else str(newest)


def _console(args: APPOConfig) -> Console:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    args.disable_tqdm = True
    try:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"output_dir = {args.output_dir!r} cannot be made: {error.strerror}.") from None
    return Console(quiet=not args.should_log, markup=False, highlight=False, soft_wrap=True)


def load_task(config: RunConfig) -> Task:
    name, _, attribute = config.task.partition(":")
    name, attribute = TASKS.get(name, name), attribute or "TASK"
    if not all(part.isidentifier() for part in name.split(".")):
        raise RecipeError(f"task = {config.task!r} is no module's name; use {' or '.join(TASKS)}, or my.module.")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise RecipeError(
                f"task = {config.task!r} is neither {' nor '.join(TASKS)} nor an importable module; name a module on "
                "PYTHONPATH that holds a `TASK`."
            ) from None
        raise RecipeError(str(error)) from None
    task = getattr(module, attribute, None)
    if not isinstance(task, Task):
        raise RecipeError(
            f"task = {config.task!r}: the module holds no `{attribute}`; define {attribute} = appo.Task(...)."
        )
    return task


def _cold_dir(args: APPOConfig) -> Path:
    return Path(args.output_dir) / "cold_start"


def _model_dir(args: APPOConfig) -> Path:
    return Path(args.output_dir) / "model"


def load_model(config: RunConfig, args: APPOConfig, task: Task, source: str | None) -> ModelAndTokenizer:
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
    settings = _cold_start_settings(config, sft_args)
    done = directory / "cold_start.json"
    if done.exists() and json.loads(done.read_text())["settings"] == settings:
        console.print(f"cold start: found in {directory}")
        return load_model(config, args, task, str(directory))
    model, tokenizer = load_model(config, args, task, config.model)
    sft_args.disable_tqdm = True
    demonstrations = task.demonstrations(config.demonstrations, config.train_seed)
    with _setting_up():
        trainer, counts = make_sft_trainer(model, tokenizer, demonstrations, sft_args)
    RichProgress.attach(trainer, "cold start", {"loss": "loss {:.3f}"}, console)
    metrics = trainer.train().metrics
    trainer.save_model(str(directory))
    tokenizer.save_pretrained(directory)
    done.write_text(json.dumps({"settings": settings, "metrics": {**metrics, **counts}}, indent=2) + "\n")
    # Reloaded, so that a first run and a resumed one start from the same place in every respect.
    return load_model(config, args, task, str(directory))


def _make_trainer(config: RunConfig, args: APPOConfig, task: Task, model: Any, tokenizer: Any) -> APPOTrainer:
    with _setting_up():
        evaluated = args.eval_strategy != "no" and config.eval_size
        return APPOTrainer(
            model,
            list(task.reward_funcs),
            args,
            train_dataset=task.dataset(config.train_size, config.train_seed),
            eval_dataset=task.dataset(config.eval_size, config.eval_seed) if evaluated else None,
            processing_class=tokenizer,
            tools=list(task.tools),
            environment_factory=task.environment_factory,
        )


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
