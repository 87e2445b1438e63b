"""`appo train RECIPE --dry-run` (or `appo sft`): the plan of a run and every mistake that shows without its weights.

What cannot be looked into here (a model on a hub out of reach, GPUs that this machine does not have) is listed as not
checked, and is no mistake. A mistake in a field does not keep the others from being checked.

    exit code 0: no mistakes; 2: some

Left out on purpose: asking servers, the overlap with benchmarks (`python -m appo.data` counts it), estimates of time.
"""

import logging
import tempfile
import traceback
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

from appo.checkpoints import named_checkpoint
from appo.cli.loading import (
    check_dtype,
    check_rewards,
    load_task,
    lora_config,
    precision_note,
    runs_programs,
    tools_of,
)  # fmt: skip
from appo.cli.memory import GB, Memory, Sizes, estimate
from appo.cli.recipe import RecipeError, RunConfig, collect_settings
from appo.cli.run_plan import RunPlan, cold_start_line
from appo.config import APPOConfig
from appo.data.rl_sets import overlap_note
from appo.data.rows import SUFFIXES, HubError
from appo.engines.transformers_engine import check_full_attention
from appo.environments.base import Demonstration, Task, each_demonstration
from appo.errors import UserError, is_complaint
from appo.models.loading import read_outline, settle_embeddings
from appo.rollout.environments import EnvironmentPool
from appo.rollout.prompts import check_reset, check_rows
from appo.sft.demonstrations import check_traces, prompt_template, trace_demonstrations
from appo.sft.traces import Trace, read_traces
from appo.sft.training import tokenize_demonstrations
from appo.tools.python import check_isolation
from appo.tools.search.http import HTTPSearch

LOOKED_AT = 500  # prompts and demonstrations that are tokenised


class DryRun:
    """One dry run: `look` looks into everything; `plan`, `notes`, `unchecked` and `mistakes` are what it found.

    Args:
        command: `train` or `sft`.
        config, args, sft_args: The settings, without the fields that are wrong.
        mistakes: Those already found.
    """

    def __init__(
        self, command: str, config: RunConfig, args: APPOConfig, sft_args: SFTConfig, mistakes: list[str]
    ) -> None:
        self.command, self.config, self.args, self.sft_args = command, config, args, sft_args
        self.mistakes = list(mistakes)
        self.unchecked: list[str] = []
        self.notes = ["of the fields that are wrong, the plan has the defaults"] if mistakes else []
        self.plan: list[tuple[str, str]] = []
        self.processes = config.num_processes or args.world_size
        self.cold = bool(config.traces or config.demonstrations) or command == "sft"
        self.tokenizer: Any = None
        self.model: Any = None  # without weights
        self.parameters = 0, 0  # all, and those that are trained
        self.longest_prompt = 0
        self.isolation_missing = False
        self.at_once = args.rollout_batch_size  # rollouts written at once, on one process

    def look(self) -> None:
        self._files()
        self._processes()
        task = self._task()
        self._model(task)
        tasks = None
        if task is None:
            self.unchecked.append("tools, data and prompts: the task could not be made")
        else:
            self._tools(task)
            if self.command == "train":
                self._try("rewards", lambda: check_rewards(task, self.args))
            tasks = self._data(task) if self.command == "train" else None
        if self.cold:
            self._cold_start(task)
        if self.command == "train":
            self._run(tasks or self.config.train_size)
        self._memory()

    def _try(self, name: str, look: Any) -> Any:
        """What `look()` returns, or None where it finds a mistake or cannot look."""
        try:
            return look()
        except HubError as error:
            self.unchecked.append(f"{name}: {error}")
        except jinja2.TemplateError as error:
            self.mistakes.append(f"{name}: the chat template refuses messages: {' '.join(str(error).split())}.")
        except Exception as error:
            self._fault(name, error)
        return None

    def _fault(self, name: str, error: Exception) -> None:
        """A mistake in the settings, or a fault in the code of the task, with its place and traceback."""
        message = " ".join(str(error).split()) or type(error).__name__
        if not (isinstance(error, UserError) or is_complaint(error)):
            traceback.print_exception(error)
            last = traceback.extract_tb(error.__traceback__)[-1]
            message = f"{message} ({type(error).__name__} in {last.filename}, line {last.lineno})"
        self.mistakes.append(message if isinstance(error, RecipeError) else f"{name}: {message}")

    # ---- what is there ----

    def _files(self) -> None:
        directory = Path(self.args.output_dir).absolute()
        place = next(path for path in (directory, *directory.parents) if path.exists())
        try:
            with tempfile.TemporaryDirectory(dir=place):
                pass
        except OSError as error:
            self.mistakes.append(f"output_dir = {self.args.output_dir!r} cannot be made: {error.strerror} in {place}.")
        if (directory / "result.json").exists():
            self.notes.append(f"a run in {self.args.output_dir} has finished; --overwrite true trains again")
        if self.command == "train" and (checkpoint := self.args.resume_from_checkpoint):
            try:
                named_checkpoint(checkpoint)
            except UserError as error:
                self.mistakes.append(str(error))
        if any(settings.push_to_hub for settings in (self.args, self.sft_args)):
            self.unchecked.append("push_to_hub: whether the hub takes the model")

    def _processes(self) -> None:
        found = self.args.world_size
        if self.config.num_processes and found not in (1, self.config.num_processes):
            self.mistakes.append(f"num_processes = {self.config.num_processes}, but {found} run.")
        if self.args.use_cpu:
            return
        if not torch.accelerator.is_available():
            self.unchecked.append("GPUs: there is none here, so neither bf16 nor their memory")
        elif torch.accelerator.device_count() < self.processes:
            self.unchecked.append(f"GPUs: {torch.accelerator.device_count()} here, but {self.processes} are planned")
        if note := precision_note(self.config, self.args):
            self.notes.append(note)

    def _task(self) -> Task | None:
        arguments = self.config.task_args or {}
        assert isinstance(arguments, dict)
        for name, value in arguments.items():
            place = str(value).rpartition(":")[2]  # a search is named with its kind
            if Path(place).suffix in SUFFIXES and not place.startswith("//") and not Path(place).is_file():
                self.mistakes.append(f"task_args: {name} = {value!r}: there is no such file.")
        try:
            return load_task(self.config)
        except RecipeError as error:
            self.mistakes.append(str(error))
            if isinstance(error.__cause__, RuntimeError) and not self.config.allow_unisolated:
                # Nothing is run here, so the rest can be looked into.
                self.isolation_missing = True
                return self._try("task", lambda: load_task(replace(self.config, allow_unisolated=True)))
        except Exception as error:
            self._fault("task", error)
        return None

    def _tools(self, task: Task) -> None:
        tools = self._try("tools", lambda: tools_of(task)) or []
        names = [tool.__name__ for tool in tools]
        if runs_programs(tools):
            names = [f"{name} ({self._isolation()})" if name == "python" else name for name in names]
        self.plan.append(("tools", f"{', '.join(names) or 'none'}; protocol {self.args.tool_protocol}"))
        if any(isinstance(getattr(tool, "__self__", None), HTTPSearch) for tool in tools):
            self.unchecked.append("search: whether its server answers")
        if self.tokenizer is not None:
            self._try("tool_protocol", lambda: prompt_template(self.tokenizer, tools, self.args))

    def _isolation(self) -> str:
        if self.isolation_missing:
            return "not isolated"
        try:
            check_isolation()
        except RuntimeError as error:
            self.mistakes.append(f"tools: {error}")
            return "not isolated"
        return (
            "isolated by bubblewrap, or allowed without" if self.config.allow_unisolated else "isolated by bubblewrap"
        )

    def _data(self, task: Task) -> int | None:
        """The number of training tasks."""
        config = self.config
        if any(mistake.startswith("task_args: data") for mistake in self.mistakes):
            return None
        rows = self._rows(task, "data", lambda: task.dataset(config.train_size, config.train_seed))
        if config.eval_size:
            asked = self._rows(task, "evaluation", lambda: task.questions(config.eval_size, config.eval_seed))
            if asked is not None:
                note = overlap_note(rows, asked) if rows is not None else None
                shown = f"{len(asked):,} questions, before and after"
                self.plan.append(("evaluation", f"{shown}; {note}" if note else shown))
        if rows is None:
            return None
        if self.tokenizer is not None and "prompt" in rows.column_names:
            self._prompts(task, rows)
        return len(rows)

    def _rows(self, task: Task, name: str, make: Any) -> Dataset | None:
        """What `make()` returns, or None where a run could not use it."""

        def look() -> Dataset:
            rows, own = make(), "the task's data" if name == "data" else "the task's questions"
            check_rows(self.config.task, own, rows, task.environment_factory is not None)
            if task.environment_factory is not None:
                check_reset(own, rows, EnvironmentPool(list(task.tools), task.environment_factory))
            return rows

        return self._try(name, look)

    def _prompts(self, task: Task, data: Any) -> None:
        prompts = data[: min(len(data), LOOKED_AT)]["prompt"]
        if self.tokenizer.chat_template is None and not isinstance(prompts[0], str):
            self.mistakes.append("data: prompts are messages, but the model's tokenizer has no chat template.")
            return
        template = self._try("data", lambda: prompt_template(self.tokenizer, tools_of(task), self.args))
        if template is None:
            return
        demonstrations = [Demonstration(prompt, []) for prompt in prompts]
        rows = self._try("data", lambda: tokenize_demonstrations(self.tokenizer, demonstrations, template))
        if rows is None:
            return
        lengths = [len(row["input_ids"]) - 1 for row in rows]  # without the end token
        self.longest_prompt = longest = max(lengths)
        room = self.args.max_completion_length or 0
        self.plan.append(("prompts", f"{min(lengths)} to {longest} tokens, of the first {len(lengths):,}"))
        context = self._context()
        if context and longest >= context:
            self.mistakes.append(f"data: a prompt has {longest} tokens, but the model's context holds {context}.")
        elif context and room < context < longest + room:
            self.notes.append(f"with the longest prompt, a rollout ends {longest + room - context} tokens early")

    def _context(self) -> int | None:
        return None if self.model is None else self.model.config.get_text_config().max_position_embeddings

    def _model(self, task: Task | None) -> None:
        source = self.config.model
        peft = self._try("lora", lambda: lora_config(self.config))
        if source is None:
            if task is not None and task.make_model is None:
                self.mistakes.append(f"task = {self.config.task!r} makes no model; name one: model: DIR_OR_NAME.")
            elif task is not None:
                self.plan.append(("model", "made by the task"))
                self.unchecked.append("memory: the size of the model that the task makes")
            return
        self._try("model", lambda: check_dtype(self.args))
        found = self._try("model and tokenizer", lambda: read_outline(source, AutoConfig))
        if found is None:
            return
        self.tokenizer = self._try("tokenizer", lambda: read_outline(source, AutoTokenizer))
        with torch.device("meta"):
            self.model = self._try("model", lambda: AutoModelForCausalLM.from_config(found))
        if self.model is None:
            return
        self._try("model", lambda: check_full_attention(self.model))
        total = trained = self.model.num_parameters()
        if peft is not None:
            from peft import get_peft_model

            with torch.device("meta"):
                adapted = self._try("lora", lambda: get_peft_model(self.model, peft))
                self._try("lora", lambda: settle_embeddings(adapted))
            trained = total if adapted is None else adapted.num_parameters(only_trainable=True)
        self.parameters = total, trained
        context, room = self._context(), self.args.max_completion_length or 0
        shown = f"{total / 1e9:,.2f} G parameters" if total >= 1e9 else f"{total / 1e6:,.1f} M parameters"
        share = "all trained" if trained == total else f"{trained / 1e6:,.1f} M of an adapter trained"
        self.plan.append(("model", f"{source}: {shown}, {share}; context of {context:,} tokens"))
        if context and room > context:
            self.mistakes.append(f"max_completion_length = {room} exceeds the model's context of {context} tokens.")

    # ---- what it comes to ----

    def _cold_start(self, task: Task | None) -> None:
        config, args = self.config, self.sft_args
        traces: list[Trace] | None = []
        number: int | None = config.demonstrations
        if args.packing or args.padding_free:
            self.mistakes.append("cold_start: packing and padding_free are not supported; set them to false.")
        if config.traces:
            traces = self._try("traces", lambda: read_traces(config.traces, config.traces_min_reward))
            traces = traces and traces[: config.demonstrations or None]
            number = None if traces is None else len(traces)
            if traces and task is not None:
                names = [tool.__name__ for tool in tools_of(task)]
                self.mistakes += check_traces(traces, self.args.tool_protocol, names, self.tokenizer)
        elif task is not None and task.demonstrations is None:
            self.mistakes.append(
                f"task = {config.task!r} has no demonstrations; name traces, or set demonstrations: 0."
            )
        elif not number:
            self.mistakes.append("demonstrations = 0, so there is nothing to learn from; give their number.")
        self.plan.append(("cold start", cold_start_line(args, self.processes, config.traces, number)))
        if task is not None and traces is not None and number:
            self._demonstrations(task, traces)

    def _demonstrations(self, task: Task, traces: list[Trace]) -> None:
        tools = tools_of(task)
        looked_at = min(self.config.demonstrations or LOOKED_AT, LOOKED_AT)

        def rows() -> list[dict[str, list[int]]]:
            found: Iterable[Demonstration]
            if traces and self.tokenizer is None:
                return []
            if traces:
                found = trace_demonstrations(traces[:LOOKED_AT], self.tokenizer, tools, self.args)
            else:
                if task.demonstrations is None:
                    return []
                found = task.demonstrations(looked_at, self.config.train_seed)
            if self.tokenizer is None:
                return [{} for _ in islice(each_demonstration(found), LOOKED_AT)]
            return tokenize_demonstrations(self.tokenizer, found, prompt_template(self.tokenizer, tools, self.args))

        lengths = [len(row["input_ids"]) for row in self._try("cold start", rows) or [] if row]
        limit = self.sft_args.max_length
        if lengths and limit is not None and (long := sum(length > limit for length in lengths)):
            message = f"{long} of the first {len(lengths)} demonstrations are longer than max_length = {limit}"
            if long == len(lengths):
                self.mistakes.append(f"cold_start: {message}; raise it.")
            else:
                self.notes.append(f"{message}, and are left out")

    def _run(self, tasks: int) -> None:
        plan = RunPlan(self.args, self.processes, tasks)
        if not plan.tasks_per_update or tasks < plan.tasks_per_generation:
            self.mistakes.append(
                f"data: {tasks} tasks do not fill a generation of {plan.tasks_per_generation}; give more, or lower "
                "per_device_train_batch_size or steps_per_generation."
            )
            return
        self.plan += plan.lines()
        written = (plan.tasks_per_generation * self.args.num_initial_rollouts, plan.branches_per_update)
        self.at_once = min(self.at_once, max(*(count // self.processes for count in written), self.config.eval_size))

    def _memory(self) -> None:
        if self.model is None:
            return
        args, sft_args = self.args, self.sft_args
        dtype = str((args.model_init_kwargs or {}).get("dtype", "float32"))
        sizes = Sizes.of(self.model.config, *self.parameters, 2 if "16" in dtype else 4)
        # Where there is no GPU, the plan is for one elsewhere, and TRL's default there is bf16.
        elsewhere = not args.use_cpu and not torch.accelerator.is_available()
        number = 2 if args.bf16 or args.fp16 or elsewhere or sizes.weight_bytes == 2 else 4
        length = self.longest_prompt + (args.max_completion_length or 0)
        if self.command == "train":
            memory = estimate(
                sizes, rows=args.micro_batch_rows, tokens=length, bytes_per_number=number,
                checkpointing=bool(args.gradient_checkpointing), cached_rows=self.at_once,
            )  # fmt: skip
            self._show_memory("APPO", memory)
        if self.cold:
            memory = estimate(
                sizes, rows=sft_args.per_device_train_batch_size, tokens=sft_args.max_length or length,
                bytes_per_number=number, checkpointing=bool(sft_args.gradient_checkpointing), with_logits=True,
            )  # fmt: skip
            self._show_memory("cold start", memory)

    def _show_memory(self, name: str, memory: Memory) -> None:
        shards = 1 if self.config.lora is not None else self.processes
        self.plan += memory.lines(name, shards)
        if not self.args.use_cpu and torch.cuda.is_available():
            there = torch.cuda.get_device_properties(0).total_memory
            least = min(memory.peak(shards, stage) for stage in (0, 2, 3))
            if least > there:
                self.mistakes.append(
                    f"{name} needs some {least / GB:.0f} GB on a GPU, but this one has {there / GB:.0f}; lower "
                    "rollout_batch_size or the batch sizes, or use LoRA or more GPUs."
                )


def dry_run(command: str, path: str, overrides: list[str]) -> int:
    """Prints the plan and the mistakes.

    Args:
        command: `train` or `sft`.
        path: The recipe.
        overrides: The flags.

    Returns:
        0 where there are no mistakes, else 2.

    Raises:
        RecipeError: for a file that is no recipe.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # else it tells of every try
    settings, mistakes = collect_settings(path, overrides)
    lines = []
    if settings is not None:
        run = DryRun(command, *settings, mistakes)
        run.look()
        mistakes = list(dict.fromkeys(run.mistakes))
        lines = [f"plan of appo {command} {path}", *(f"  {name:18} {text}" for name, text in run.plan)]
        lines += [f"note: {note}." for note in run.notes]
        lines += [f"not checked: {text.rstrip('.')}." for text in dict.fromkeys(run.unchecked)]
    lines += [f"mistake: {mistake}" for mistake in mistakes]
    lines.append(f"{len(mistakes)} mistake(s)." if mistakes else "No mistakes found.")
    if settings is None or settings[1].should_log:
        print("\n".join(lines))
    return 2 if mistakes else 0
