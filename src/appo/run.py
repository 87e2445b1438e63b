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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import transformers
from accelerate.utils import is_peft_model
from datasets import Dataset
from rich.console import Console
from transformers import Trainer
from trl import SFTConfig

from appo.analysis.curves import plot_curves
from appo.config import APPOConfig
from appo.data import overlap_note
from appo.demonstrations import check_traces, prompt_template, trace_demonstrations
from appo.environments.base import Demonstration, Task
from appo.evaluation import Evaluation, evaluate
from appo.loading import ModelAndTokenizer, load_model, load_task, lora_config, precision_note, tools_of
from appo.progress import RichProgress, progress_bar
from appo.recipe import RecipeError, RunConfig
from appo.sft import make_sft_trainer
from appo.traces import read_traces
from appo.trainer import APPOTrainer

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
# Nor do these: permissions, and what is done to a run as a whole.
NOT_SETTINGS_OF_RUN = ("allow_unisolated", "overwrite", "dry_run", "resume_from_checkpoint")


@contextmanager
def _setting_up() -> Iterator[None]:
    """Mistakes that show only once a library reads the values: one sentence, as for all others."""
    try:
        yield
    except jinja2.TemplateError as error:
        raise RecipeError(f"the chat template refuses messages: {' '.join(str(error).split())}.") from None
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise RecipeError(" ".join(str(error).split()) or type(error).__name__) from None


def sft(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> None:
    """The cold start alone."""
    console = _console(args)
    _check_processes(config, args)
    if config.overwrite:
        shutil.rmtree(_cold_dir(args), ignore_errors=True)
    _cold_start(config, args, sft_args, load_task(config), console)
    console.print(f"cold start in {_cold_dir(args)}")


def train(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> None:
    """Cold start, evaluation, APPO, evaluation, picture. Finished parts are not done again."""
    console = _console(args)
    _check_processes(config, args)
    if note := precision_note(config, args):
        console.print(f"note: {note}.")
    result_path = Path(args.output_dir) / "result.json"
    settings = _settings(config, args, sft_args)
    if config.overwrite:
        _forget(args)
    elif result_path.exists():
        return _report_finished(json.loads(result_path.read_text()), settings, console)
    console.print(f"task {config.task}: loading the model")
    task = load_task(config)
    if config.demonstrations or config.traces:
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
    if config.eval_size and (note := overlap_note(trainer.train_dataset, _questions(config, task))):
        console.print(f"evaluation: {note}")
    before = _evaluation("before", trainer, config, task, console, fresh=False)
    if checkpoint:
        console.print(f"going on from {checkpoint}")
    if checkpoint and _is_last(checkpoint, args):
        trainer._load_from_checkpoint(checkpoint)  # resumed, the trainer would take one step more
    else:
        RichProgress.attach(trainer, "APPO", SHOWN, console)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_state()
    _save_model(trainer, tokenizer, _model_dir(args))
    after = _evaluation("after", trainer, config, task, console, fresh=True)
    result = {**_result(config, args, before, after), "settings": settings}
    marks = {name: mark for name, mark in (("before", before), ("after", after)) if mark}
    if args.save_records:
        plot_curves(Path(args.output_dir) / "records.jsonl", result["curves"], args.success_reward, marks)
    result_path.write_text(json.dumps(result, indent=2) + "\n")
    _report(result, console)


def eval(config: RunConfig, args: APPOConfig, sft_args: SFTConfig, model: str | None = None) -> None:
    """Success of `model`, else of the trained model, of the cold start, of the model that the recipe starts from."""
    if not config.eval_size:
        raise RecipeError("eval_size is 0; give the number of questions to ask.")
    console = _console(args)
    task = load_task(config)
    found = [path for path in (_model_dir(args), _cold_dir(args)) if (path / "config.json").exists()]
    source = model or (str(found[0]) if found else config.model)
    if source is None and task.make_model is None:
        raise RecipeError(f"there is no model in {args.output_dir} yet; run `appo train` first or give --model DIR.")
    trainer = _make_trainer(config, args, task, *load_model(config, args, task, source))
    evaluation = _run_evaluation("evaluation", trainer, config, task, console)
    console.print(f"success {evaluation} ({source or 'the untrained model'})")
    console.print_json(json.dumps(evaluation.as_dict()))


def _settings(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> dict[str, Any]:
    """What decides a run's outcome, as JSON has it; two runs are the same if these are."""
    fields = {**asdict(config), **args.to_dict(), "cold_start": _cold_start_settings(config, args, sft_args)}
    for name in (*NOT_SETTINGS, *NOT_SETTINGS_OF_RUN):
        fields.pop(name, None)
    return json.loads(json.dumps(fields, default=str))


def _cold_start_settings(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> dict[str, Any]:
    fields = {name: value for name, value in sft_args.to_dict().items() if name not in NOT_SETTINGS}
    fields.update(task=config.task, model=config.model, demonstrations=config.demonstrations)
    own = {name: getattr(config, name) for name in ("task_args", "traces", "traces_min_reward", "lora")}
    fields.update({name: value for name, value in own.items() if value is not None})
    if config.traces:
        fields.update(
            {name: getattr(args, name) for name in ("tool_protocol", "result_format", "chat_template_kwargs")}
        )
        # What the files hold, as far as it shows without reading them.
        found = {source: Path(source).stat() for source in config.traces if Path(source).is_file()}
        fields["trace_files"] = {source: [stat.st_size, stat.st_mtime_ns] for source, stat in found.items()}
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


def _is_last(checkpoint: str, args: APPOConfig) -> bool:
    """Whether the training had come to its end when it was interrupted."""
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text())
    return state["global_step"] >= (args.max_steps if args.max_steps > 0 else state["max_steps"])


def _console(args: APPOConfig) -> Console:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    args.disable_tqdm = True
    try:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"output_dir = {args.output_dir!r} cannot be made: {error.strerror}.") from None
    return Console(quiet=not args.should_log, markup=False, highlight=False, soft_wrap=True)


def _cold_dir(args: APPOConfig) -> Path:
    return Path(args.output_dir) / "cold_start"


def _model_dir(args: APPOConfig) -> Path:
    return Path(args.output_dir) / "model"


def _cold_start(
    config: RunConfig, args: APPOConfig, sft_args: SFTConfig, task: Task, console: Console
) -> ModelAndTokenizer:
    """Trains on demonstrations, or loads the model of a cold start that had finished with the same settings."""
    if task.demonstrations is None and not config.traces:
        raise RecipeError(
            f"task = {config.task!r} has no demonstrations; name traces, or set demonstrations: 0 to train without."
        )
    directory = _cold_dir(args)
    settings = _cold_start_settings(config, args, sft_args)
    done = directory / "cold_start.json"
    if done.exists() and json.loads(done.read_text())["settings"] == settings:
        console.print(f"cold start: found in {directory}")
        return load_model(config, args, task, str(directory))
    model, tokenizer = load_model(config, args, task, config.model)
    sft_args.disable_tqdm = True
    with _setting_up():
        demonstrations, template = _demonstrations(config, args, task, tokenizer)
        trainer, counts = make_sft_trainer(
            model, tokenizer, demonstrations, sft_args, template=template, peft_config=lora_config(config)
        )
    _refuse_sharded_lora(config, trainer)
    RichProgress.attach(trainer, "cold start", {"loss": "loss {:.3f}"}, console)
    metrics = trainer.train().metrics
    _save_model(trainer, tokenizer, directory)
    done.write_text(json.dumps({"settings": settings, "metrics": {**metrics, **counts}}, indent=2) + "\n")
    # Reloaded, so that a first run and a resumed one start from the same place in every respect.
    return load_model(config, args, task, str(directory))


def _demonstrations(
    config: RunConfig, args: APPOConfig, task: Task, tokenizer: Any
) -> tuple[Iterable[Demonstration], dict[str, Any]]:
    """The demonstrations of the traces, else of the task; and how their prompts are rendered."""
    tools = tools_of(task)
    template = prompt_template(tokenizer, tools, args)
    if not config.traces:
        assert task.demonstrations is not None
        return task.demonstrations(config.demonstrations, config.train_seed), template
    traces = read_traces(config.traces, config.traces_min_reward)[: config.demonstrations or None]
    if mistakes := check_traces(traces, args.tool_protocol, [tool.__name__ for tool in tools], tokenizer):
        raise RecipeError(" ".join(mistakes))
    return trace_demonstrations(traces, tokenizer, tools, args), template


def _save_model(trainer: Trainer, tokenizer: Any, directory: Path) -> None:
    """Saves a whole model, whatever was trained of it, so that all that reads one reads this."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not is_peft_model(model):
        trainer.save_model(str(directory))
    elif trainer.args.should_save:
        # In place and for good, as a copy may not fit beside it; nothing is trained after this.
        model.merge_and_unload().save_pretrained(directory)
    if trainer.args.should_save:
        tokenizer.save_pretrained(directory)
    trainer.accelerator.wait_for_everyone()


def _refuse_sharded_lora(config: RunConfig, trainer: Trainer) -> None:
    """A sharded model cannot be merged with its adapter; and what sharding saves, LoRA needs less of."""
    stage = getattr(trainer.accelerator.state.deepspeed_plugin, "zero_stage", 0)
    if config.lora is not None and (trainer.is_fsdp_enabled or stage == 3):
        raise RecipeError("lora is given, but the model is sharded by FSDP or ZeRO-3; use neither with LoRA.")


def _check_processes(config: RunConfig, args: APPOConfig) -> None:
    if config.num_processes is not None and config.num_processes != args.world_size:
        raise RecipeError(
            f"num_processes = {config.num_processes}, but {args.world_size} run, which changes every batch; start "
            f"with `accelerate launch --num_processes {config.num_processes} -m appo ..`, or change "
            "gradient_accumulation_steps and num_processes."
        )


def _make_trainer(config: RunConfig, args: APPOConfig, task: Task, model: Any, tokenizer: Any) -> APPOTrainer:
    with _setting_up():
        evaluated = args.eval_strategy != "no" and config.eval_size
        train_dataset = task.dataset(config.train_size, config.train_seed)
        _check_prompt(train_dataset, args, task, tokenizer)
        trainer = APPOTrainer(
            model,
            list(task.reward_funcs),
            args,
            train_dataset=train_dataset,
            eval_dataset=_questions(config, task) if evaluated else None,
            processing_class=tokenizer,
            tools=list(task.tools),
            environment_factory=task.environment_factory,
            peft_config=lora_config(config),
        )
    _refuse_sharded_lora(config, trainer)
    return trainer


def _check_prompt(rows: Dataset, args: APPOConfig, task: Task, tokenizer: Any) -> None:
    """Renders the first prompt of messages, as the trainer does that only once training runs."""
    if not len(rows) or isinstance(rows[0].get("prompt"), str | None):
        return
    if tokenizer.chat_template is None:
        raise ValueError(
            "the task's prompts are messages, but the model's tokenizer has no chat template; use an instruct model."
        )
    template = prompt_template(tokenizer, tools_of(task), args)
    tokenizer.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True, tokenize=False, **template)


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


def _questions(config: RunConfig, task: Task) -> Dataset:
    with _setting_up():
        return task.questions(config.eval_size, config.eval_seed)


def _run_evaluation(name: str, trainer: APPOTrainer, config: RunConfig, task: Task, console: Console) -> Evaluation:
    questions = _questions(config, task)
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
