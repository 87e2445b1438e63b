"""What the commands do: cold start, training, evaluation, in the directory `output_dir`.

    run.json               settings of the run, and fingerprints of what it is made from
    cold_start/            the model after the demonstrations
    checkpoint-*/          transformers' checkpoints; an interrupted run goes on from the last that is whole
    records/               what each update decided, a row per rollout
    model/                 the trained model and its tokenizer
    curves.png, report.html, result.json

The main process decides and writes; every process does its share of the work. Left out on purpose: reading recipes
(`recipe.py`).
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset
from rich.console import Console
from trl import SFTConfig

from appo.checkpoints import STATE
from appo.cli.checks import AT_ONCE, BEFORE_LOADING, Check, raise_first
from appo.cli.cold_start import cold_dir, cold_start_model, save_model
from appo.cli.context import Context
from appo.cli.loading import ModelAndTokenizer, load_model
from appo.cli.mistakes import RecipeError, in_one_sentence
from appo.cli.run_config import RunConfig
from appo.cli.run_directory import (
    alone_in,
    checkpoint_of,
    forget_run,
    made_from,
    model_dir,
    on_main,
    read_found,
    run_settings,
    start_or_go_on,
)
from appo.cli.sigterm import StopOnSigterm, Terminated
from appo.config import APPOConfig
from appo.data.rl_sets import overlap_note
from appo.environments.base import Task
from appo.evaluation import Evaluation, evaluate
from appo.files import new_directory, write_json
from appo.models.loading import settle_embeddings
from appo.models.usage import FILE as USAGE_FILE
from appo.report.bar import progress_bar
from appo.report.finish import Measured, places, print_ending, write_pictures
from appo.report.model_card import CardFacts, given_fields
from appo.report.progress import SHOWN, RichProgress, title_of
from appo.trainer import APPOTrainer

OF_CARD = ("task", "model", "train_size", "train_seed", "demonstrations", "traces", "lora")  # task_args may hold keys


def sft(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> None:
    """The cold start alone."""
    context = Context("sft", config, args, sft_args)
    console = _console(context)
    with alone_in(args):
        if config.overwrite:
            on_main(args, lambda: shutil.rmtree(cold_dir(args), ignore_errors=True))
        _check(context, BEFORE_LOADING, console)
        cold_start_model(config, args, sft_args, context.task, console)
    console.print(f"cold start in {cold_dir(args)}")


def train(config: RunConfig, args: APPOConfig, sft_args: SFTConfig, recipe: str | None = None) -> None:
    """Cold start, evaluation, APPO, evaluation, picture. Finished parts are not done again.

    Raises:
        RecipeError: where an unfinished run lies in `output_dir` that was started with other settings or data.
        Terminated: after SIGTERM, once a checkpoint is written.
    """
    context = Context("train", config, args, sft_args)
    console = _console(context)
    with alone_in(args):
        _train_alone(context, recipe, console)


def _train_alone(context: Context, recipe: str | None, console: Console) -> None:
    config, args, sft_args = context.config, context.args, context.sft_args
    directory = Path(args.output_dir)
    mark: dict[str, Any] = {"settings": run_settings(config, args, sft_args), "made_from": {}}
    if config.overwrite:
        on_main(args, lambda: forget_run(args))
    elif (found := on_main(args, lambda: read_found(directory / "result.json", console))) is not None:
        on_main(args, lambda: _write_pictures(found, args, console))
        return _report_finished(found, mark["settings"], console)
    checkpoint = on_main(args, lambda: checkpoint_of(args, mark, console))
    _check(context, BEFORE_LOADING, console)
    task, rows, questions = context.give("task"), context.give("rows"), context.give("questions")
    mark["made_from"] = made_from(
        config, args, task, rows, questions, context.has_cold_start,
        context.give("made")[0] if config.model is None else None,
    )  # fmt: skip
    context.forget_model()
    on_main(args, lambda: start_or_go_on(args, mark, checkpoint))
    console.print(f"task {config.task}: loading the model")
    if context.has_cold_start:
        model, tokenizer = cold_start_model(config, args, sft_args, task, console, mark["made_from"]["cold_start"])
    else:
        model, tokenizer = load_model(config, args, task, config.model)
        if args.beta and config.model in (None, "smollm2"):  # of neither there is a directory
            model, tokenizer = _saved_start(config, args, task, model, tokenizer)
    trainer = _make_trainer(context, model, tokenizer)
    trainer.card_facts = CardFacts(recipe, _settings_of_card(config), str(model_dir(args)))
    if questions is not None and (note := overlap_note(rows, questions)):
        console.print(f"evaluation: {note}")
    before = _evaluation("before", trainer, questions, console, fresh=False)
    _train(trainer, checkpoint, console)
    save_model(trainer, tokenizer, model_dir(args), {USAGE_FILE: trainer.usage.as_json()})
    after = _evaluation("after", trainer, questions, console, fresh=True)
    trainer.card_facts.before, trainer.card_facts.after = (str(mark) if mark else None for mark in (before, after))
    trainer.create_model_card()
    result = {**_result(config, args, before, after), "settings": mark["settings"]}
    on_main(args, lambda: write_json(directory / "result.json", result))
    on_main(args, lambda: _write_pictures(result, args, console))
    _report(result, console)


def _train(trainer: APPOTrainer, checkpoint: str | None, console: Console) -> None:
    """Trains to the end, or until SIGTERM; goes on from `checkpoint`."""
    if checkpoint:
        console.print(f"going on from {checkpoint}")
    if checkpoint and _is_last(checkpoint, trainer.args):
        trainer.load_finished(checkpoint)
    else:
        RichProgress.attach(trainer, title_of(trainer.args.method), SHOWN, console)
        # A run that goes on has not evaluated: what draws on global random numbers must not notice.
        transformers.set_seed(trainer.args.seed)
        stop = StopOnSigterm()
        trainer.add_callback(stop)
        with stop.listening():
            trainer.train(resume_from_checkpoint=checkpoint)
        if stop.asked:
            if trainer.args.save_strategy == "no":
                raise Terminated("nothing is saved, as save_strategy is 'no'.")
            raise Terminated(f"checkpoint-{trainer.state.global_step} is written; the same command goes on from it.")
    trainer.save_state()


def eval(config: RunConfig, args: APPOConfig, sft_args: SFTConfig, model: str | None = None) -> None:
    """Success of `model`, else of the trained model, of the cold start, of the model that the recipe starts from."""
    if not config.eval_size:
        raise RecipeError("eval_size is 0; give the number of questions to ask.")
    found = [path for path in (model_dir(args), cold_dir(args)) if (path / "config.json").exists()]
    source = model or (str(found[0]) if found else config.model)
    untrained = model is None and not found
    context = Context("eval", replace(config, model=source), args, sft_args)
    console = _console(context)
    task = context.give("task")
    if source is None and task.make_model is None:
        raise RecipeError(f"there is no model in {args.output_dir} yet; run `appo train` first or give --model DIR.")
    if untrained:
        where = source or "the model that the task makes"
        console.print(f"untrained: nothing is trained in {args.output_dir} yet, so the answer is that of {where}")
    _check(context, BEFORE_LOADING, console)
    trainer = _make_trainer(context, *load_model(config, args, task, source))
    evaluation = _run_evaluation("evaluation", trainer, context.give("questions"), console)
    console.print(f"success {evaluation} ({source or 'the untrained model'})")
    console.print_json(json.dumps({"model": "untrained" if untrained else source, **evaluation.as_dict()}))


def _report_finished(result: dict[str, Any], settings: dict[str, Any], console: Console) -> None:
    _report(result, console)
    old = result.get("settings", {})
    changed = sorted(name for name in settings if settings[name] != old.get(name))
    other = f" with other values of {', '.join(changed)}" if changed else ""
    console.print(f"This run had finished before{other}; --overwrite true (make train FRESH=1) trains again.")


def _is_last(checkpoint: str, args: APPOConfig) -> bool:
    """Whether the training had come to its end when it was interrupted."""
    state = json.loads((Path(checkpoint) / STATE).read_text())
    return state["global_step"] >= (args.max_steps if args.max_steps > 0 else state["max_steps"])


def _console(context: Context) -> Console:
    """Where a command prints, once its directory is there and what needs neither task nor model is checked."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    args = context.args
    args.disable_tqdm = True
    console = Console(quiet=not args.should_log, markup=False, highlight=False, soft_wrap=True)
    _check(context, AT_ONCE, console)
    try:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"output_dir = {args.output_dir!r} cannot be made: {error.strerror}.") from None
    return console


def _check(context: Context, checks: Sequence[Check], console: Console) -> None:
    for note in raise_first(context, checks):
        console.print(f"note: {note}.")


def _settings_of_card(config: RunConfig) -> dict[str, Any]:
    """The fields of a run that a card shows: those that were given."""
    return {name: value for name, value in given_fields(config).items() if name in OF_CARD}


def _make_trainer(context: Context, model: Any, tokenizer: Any) -> APPOTrainer:
    task, questions, args = context.task, context.give("questions"), context.args
    with in_one_sentence():
        trainer = APPOTrainer(
            model,
            args=args,
            train_dataset=context.give("rows"),
            eval_dataset=questions if args.eval_strategy != "no" else None,
            processing_class=tokenizer,
            **task.for_trainer(),
            peft_config=context.lora,
        )
    settle_embeddings(trainer.model)
    trainer.ends_with_report = False  # an evaluation follows
    return trainer


def _evaluation(
    name: str, trainer: APPOTrainer, questions: Dataset | None, console: Console, fresh: bool
) -> Evaluation | None:
    """An evaluation, kept in a file: a resumed run has lost the policy from before."""
    if questions is None:
        return None
    path = Path(trainer.args.output_dir) / f"evaluation-{name}.json"
    found = None if fresh else on_main(trainer.args, lambda: read_found(path, console))
    if found is not None:
        return Evaluation(**found)
    evaluation = _run_evaluation(name, trainer, questions, console, records=name)
    on_main(trainer.args, lambda: write_json(path, evaluation.as_dict()))
    console.print(f"{name}: success {evaluation}")
    return evaluation


def _run_evaluation(
    name: str, trainer: APPOTrainer, questions: Dataset, console: Console, records: str | None = None
) -> Evaluation:
    with progress_bar(console) as bar:
        bar_task = bar.add_task(f"success {name}", total=len(questions), status="")
        size = trainer.args.rollout_batch_size
        return evaluate(trainer, questions, size, lambda done: bar.update(bar_task, completed=done), records)


def _result(
    config: RunConfig, args: APPOConfig, before: Evaluation | None, after: Evaluation | None
) -> dict[str, Any]:
    return {
        "task": config.task,
        "seed": args.seed,
        "before": before.as_dict() if before else None,
        "after": after.as_dict() if after else None,
        "checkpoint": str(model_dir(args)),
        **places(args.output_dir, args.save_records, args.save_report),
    }


def _write_pictures(result: dict[str, Any], args: APPOConfig, console: Console) -> None:
    """The pictures of a finished run that are not there yet: a kill may have come before them."""
    missing = {name: path for name in ("curves", "report") if (path := result.get(name)) and not Path(path).exists()}
    write_pictures(args.output_dir, missing, _measured(result), args.success_reward, console)
    result.update({name: None for name, path in missing.items() if path is None})


def _measured(result: dict[str, Any]) -> list[Measured]:
    found = (("before", 0.0), ("after", None))
    return [Measured(name, step, Evaluation(**result[name])) for name, step in found if result.get(name)]


def _saved_start(config: RunConfig, args: APPOConfig, task: Task, model: Any, tokenizer: Any) -> ModelAndTokenizer:
    """TRL loads the reference policy from where the model came from: one made on the spot needs a place."""
    start = Path(args.output_dir) / "start"

    def save() -> None:
        with new_directory(start) as directory:
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)

    on_main(args, save)
    return load_model(config, args, task, str(start))


def _report(result: dict[str, Any], console: Console) -> None:
    names = ("checkpoint", "records", "curves", "report")
    print_ending(_measured(result), {name: result.get(name) for name in names}, console)
