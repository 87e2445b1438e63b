"""The cold start of a recipe: from demonstrations or traces to the model in `output_dir/cold_start`.

It is done again where its settings, or the contents of its demonstrations, traces, tools and starting model, are not
those of the model that is there. Left out on purpose: what of a demonstration carries loss (`appo.sft.training`).
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from rich.console import Console
from transformers import Trainer
from trl import SFTConfig

from appo.cli import content
from appo.cli.loading import ModelAndTokenizer, load_model, lora_config, tools_of
from appo.cli.mistakes import RecipeError, in_one_sentence
from appo.cli.run_config import RunConfig
from appo.config import NOT_SETTINGS, APPOConfig
from appo.environments.base import Demonstration, Task, each_demonstration
from appo.errors import UserError
from appo.files import PARTIAL, fingerprint_files, new_directory, read_json, write_json
from appo.models.loading import settle_embeddings
from appo.models.usage import FILE as USAGE_FILE
from appo.models.usage import LOOKED_AT, Usage, usage_of
from appo.report.progress import RichProgress
from appo.sft.demonstrations import check_traces, prompt_template, trace_demonstrations
from appo.sft.traces import read_traces, trace_files
from appo.sft.training import make_sft_trainer

DONE = "cold_start.json"  # in its directory: settings, what it was made from, metrics


def cold_dir(args: APPOConfig) -> Path:
    """Where it lies."""
    return Path(args.output_dir) / "cold_start"


def cold_start_settings(config: RunConfig, args: APPOConfig, sft_args: SFTConfig) -> dict[str, Any]:
    """What decides its outcome, as JSON has it."""
    fields = {name: value for name, value in sft_args.to_dict().items() if name not in NOT_SETTINGS}
    fields.update(task=config.task, model=config.model, demonstrations=config.demonstrations)
    own = {name: getattr(config, name) for name in ("task_args", "traces", "traces_min_reward", "lora")}
    fields.update({name: value for name, value in own.items() if value is not None})
    if config.traces:
        fields.update(
            {name: getattr(args, name) for name in ("tool_protocol", "result_format", "chat_template_kwargs")}
        )
        files = {source: trace_files(source) for source in config.traces}
        fields["trace_files"] = {source: fingerprint_files(found) for source, found in files.items() if found}
    return json.loads(json.dumps({**fields, "train_seed": config.train_seed}, default=str))


def cold_start_content(config: RunConfig, args: APPOConfig, task: Task, made: Any = None) -> dict[str, Any]:
    """Fingerprints of what it is made from, besides its settings.

    Raises:
        RecipeError: where there is nothing to learn from.
    """
    check_demonstrations(config, task)
    tools = tools_of(task)
    parts: dict[str, Any] = {"tools": content.of_outsides(tools), "model": model_content(config, args, task, made)}
    if not config.traces:
        assert task.demonstrations is not None
        parts["demonstrations"] = content.of_demonstrations(
            task.demonstrations(config.demonstrations, config.train_seed)
        )
    return parts


def check_demonstrations(config: RunConfig, task: Task) -> None:
    """
    Raises:
        RecipeError: where there is nothing to learn from.
    """
    if task.demonstrations is None and not config.traces:
        raise RecipeError(
            f"task = {config.task!r} has no demonstrations; name traces, or set demonstrations: 0 to train without."
        )
    if not (config.traces or config.demonstrations):
        raise RecipeError("demonstrations = 0, so there is nothing to learn from; give their number.")


def model_content(config: RunConfig, args: APPOConfig, task: Task, made: Any = None) -> str | None:
    """A fingerprint of the model that a run starts from; None for one of the hub.

    Args:
        made: The model that the task makes, where it is at hand.
    """
    if config.model is None:
        return content.of_weights(load_model(config, args, task, None)[0] if made is None else made)
    return content.of_model_directory(config.model)


def cold_start_model(
    config: RunConfig,
    args: APPOConfig,
    sft_args: SFTConfig,
    task: Task,
    console: Console,
    made_from: dict[str, Any] | None = None,
) -> ModelAndTokenizer:
    """Trains on demonstrations, or loads the model of a cold start that had finished and was made from the same.

    Args:
        made_from: `cold_start_content`, where that is known already.
    """
    directory = cold_dir(args)
    mark = {
        "settings": cold_start_settings(config, args, sft_args),
        "made_from": made_from or cold_start_content(config, args, task),
    }
    if not directory.exists():
        pass
    elif not isinstance(found := read_json(directory / DONE), dict):
        console.print(f"cold start: {directory / DONE} is missing or broken; training again")
    elif changed := differences(found, mark):
        console.print(f"cold start: training again, with other values of {', '.join(changed)}")
    else:
        try:
            found_there = load_model(config, args, task, str(directory))
        except UserError as error:
            console.print(f"cold start: training again, as the one that is there is broken ({error})")
        else:
            console.print(f"cold start: found in {directory}")
            return found_there
    model, tokenizer = load_model(config, args, task, config.model)
    sft_args.disable_tqdm = True
    with in_one_sentence():
        demonstrations, template = _demonstrations(config, args, task, tokenizer)
        usage, demonstrations = _usage(args, task, demonstrations)
        trainer, counts = make_sft_trainer(
            model, tokenizer, demonstrations, sft_args, template=template, peft_config=lora_config(config)
        )
    settle_embeddings(trainer.model)
    RichProgress.attach(trainer, "cold start", {"loss": "loss {:.3f}"}, console)
    metrics = trainer.train().metrics
    notes = {DONE: {**mark, "metrics": {**metrics, **counts}}, USAGE_FILE: usage.as_json()}
    save_model(trainer, tokenizer, directory, notes)
    if sft_args.should_save:
        with suppress(OSError):  # it holds checkpoints or logs, if the recipe asks for them
            Path(sft_args.output_dir).rmdir()
    # Reloaded, so that a first run and a resumed one start from the same place in every respect.
    return load_model(config, args, task, str(directory))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Names of the settings, and of what a thing was made from, that are not the same."""
    return sorted(
        name
        for part in ("settings", "made_from")
        for name in {*(old.get(part) or {}), *new[part]}
        if (old.get(part) or {}).get(name) != new[part].get(name)
    )


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


def _usage(
    args: APPOConfig, task: Task, demonstrations: Iterable[Demonstration]
) -> tuple[Usage, Iterable[Demonstration]]:
    """How the model will want to be asked, by the first demonstrations; and all of them."""
    left = each_demonstration(demonstrations)
    first = list(islice(left, LOOKED_AT))
    usage = usage_of(args, [tool.__name__ for tool in tools_of(task)], [one.prompt for one in first])
    return usage, chain(first, left)


def save_model(trainer: Trainer, tokenizer: Any, directory: Path, notes: dict[str, Any] | None = None) -> None:
    """Saves a whole model, whatever was trained of it, so that all that reads one reads this.

    It appears, with its tokenizer, at once. Every process has to call this.

    Args:
        notes: JSON to save beside it, by file name.
    """
    accelerator = trainer.accelerator
    with ExitStack() as stack:
        partial = directory.with_name(directory.name + PARTIAL)
        if accelerator.is_main_process:
            stack.enter_context(new_directory(directory))
        accelerator.wait_for_everyone()
        model = accelerator.unwrap_model(trainer.model)
        if not is_peft_model(model):
            with _in_one_file(trainer):
                trainer.save_model(str(partial))
        elif trainer.args.should_save:
            # In place and for good, as a copy may not fit beside it; nothing is trained after this.
            model.merge_and_unload().save_pretrained(partial)
        if trainer.args.should_save:
            tokenizer.save_pretrained(partial)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            for name, note in (notes or {}).items():
                write_json(partial / name, note)
    accelerator.wait_for_everyone()


@contextmanager
def _in_one_file(trainer: Trainer) -> Iterator[None]:
    """Under FSDP, transformers saves a model only where checkpoints are whole too (`FULL_STATE_DICT`)."""
    if not trainer.is_fsdp_enabled:
        yield
        return
    plugin = trainer.accelerator.state.fsdp_plugin
    kind = plugin.state_dict_type
    plugin.set_state_dict_type("FULL_STATE_DICT")
    try:
        yield
    finally:
        plugin.set_state_dict_type(kind)
