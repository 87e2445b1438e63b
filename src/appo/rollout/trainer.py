"""`RolloutTrainer`: TRL's trainer with a writer of rollouts: tools, protocol, rewards and counters are set up here.

What to do with the rollouts is for `APPOTrainer` to say. Left out on purpose: the loss, checkpoints, PEFT,
distribution and logging back-ends, which are TRL's and transformers' own.
"""

import copy
import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from appo.config import APPOConfig
from appo.data.content import check_apart
from appo.environments.agents import agent_of
from appo.errors import MissingPackage, UserError
from appo.protocols.base import ToolProtocol
from appo.protocols.chat_template import ChatProtocol, set_up_tools
from appo.protocols.tags import TagProtocol
from appo.report.trackers.trackio_log import without_a_run
from appo.rewards.checked import check_parameters, checked
from appo.rollout.agents.run import COUNTED, PHASES, agent_reward
from appo.rollout.arguments import by_name, check_reset_takes, loading, read_arguments
from appo.rollout.counters import RunCounters
from appo.rollout.decisions import Decision, Judge, decisions_of
from appo.rollout.prompts import check_prompts, check_rendered
from appo.rollout.record_files import DIRECTORY
from appo.rollout.records import RecordWriter
from appo.rollout.rollout_records import rollout_records
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout
from appo.rollout.writer import RolloutWriter
from appo.trl_seam import SeamTrainer


def environment_reward(kind: Any) -> Any:
    """`get_reward` of environments of one class as a TRL reward function; None for those of another class."""

    def sync_reward(environments: list[Any], **_: Any) -> list[float | None]:
        return [e.get_reward() if type(e) is kind else None for e in environments]

    async def async_reward(environments: list[Any], **_: Any) -> list[float | None]:
        return [await e.get_reward() if type(e) is kind else None for e in environments]

    function: Any = async_reward if inspect.iscoroutinefunction(kind.get_reward) else sync_reward
    function.__name__ = kind.__name__
    return function


class RolloutTrainer(SeamTrainer):
    """Has a `writer`, a `method`, a `protocol`, a `pool` of environments, `counters` and `records`.

    Args:
        decision_positions: As in `Task`, where the truth is known: from a rollout's tokens to its true decisions. For
            records, and for controls.
        judge: As in `Task`; for controls.
        agent: As in `Task`: a program of its own that asks the policy, in place of tools and environments.
        others: As `APPOTrainer`.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: APPOConfig | None = None,
        *positional: Any,
        tools: list[Any] | None = None,
        environment_factory: Any = None,
        decision_positions: Callable[[list[str]], list[int]] | None = None,
        judge: Judge | None = None,
        agent: Any = None,
        **kwargs: Any,
    ) -> None:
        others = {"tools": tools, "environment_factory": environment_factory}
        given = by_name(positional, {**kwargs, **{name: value for name, value in others.items() if value is not None}})
        if given.pop("rollout_func", None) is not None:
            raise UserError("rollout_func is not supported: APPOTrainer writes rollouts itself; pass tools instead.")
        tools, environment_factory = given.pop("tools", None), given.pop("environment_factory", None)
        self.agent = agent_of(agent, tools, environment_factory)
        read = read_arguments(model, reward_funcs, args, tools, environment_factory, given, self.agent is not None)
        args, reward_funcs, given, self.pool = read.args, read.reward_funcs, read.given, read.pool
        if self.agent is not None:
            args, reward_funcs = copy.copy(args), [*reward_funcs, agent_reward]
            args.reward_weights = args.reward_weights and [*args.reward_weights, 1.0]
        if args.tool_protocol == "chat_template":
            given.update(tools=read.tools, environment_factory=environment_factory)
            tokenizer = given["processing_class"]
            if (read.tools or environment_factory) and isinstance(tokenizer, PreTrainedTokenizerBase):
                set_up_tools(tokenizer, args.add_tools)  # as TRL will, but its error would not say what else there is
        else:
            # TRL would ask for a chat template with tools. Without them it still owns rewards and prompts.
            args = copy.copy(args)  # the caller may use it again
            reward_funcs, args.reward_weights = self._with_environment_reward(reward_funcs, args.reward_weights)
        with loading(model, *reward_funcs):
            super().__init__(read.model, reward_funcs, args, **given)
        named = zip(self.reward_funcs, self.reward_func_names, strict=True)  # type: ignore[has-type]
        self.reward_funcs = [checked(function, name) for function, name in named]
        self._check_data(environment_factory is not None or self.agent is not None)
        self.hide_tool("fork")
        self.method = args.open_method()
        self._check_method(decision_positions, judge)
        self.protocol = self._make_protocol()
        self.counters = RunCounters(sorted(self.pool.all_tools()), *((COUNTED, PHASES) if self.agent else ()))
        needs = self.method.needs
        if needs.collisions:
            self.measure_collisions()
        self.writer = self._make_writer(needs.collisions)
        self.records = RecordWriter(
            Path(self.args.output_dir) / DIRECTORY,
            {**self.args.to_dict(), "method_options": vars(self.method.options)},  # defaults included
            self.tokenizer,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )

    def _with_environment_reward(self, reward_funcs: list[Any], weights: Any) -> tuple[list[Any], Any]:
        """Adds `get_reward` of the environments as TRL does: one column per class, weight 1."""
        funcs = list(reward_funcs)
        types = {type(environment) for environment in self.pool.probe()}
        for kind in sorted((kind for kind in types if hasattr(kind, "get_reward")), key=lambda kind: kind.__name__):
            funcs.append(environment_reward(kind))
            weights = None if weights is None else [*weights, 1.0]
        return funcs, weights

    def _check_data(self, with_environment: bool) -> None:
        if self.is_multimodal:
            raise UserError("processing_class is a multimodal processor; APPOTrainer trains text models only.")
        for name in ("train_dataset", "eval_dataset"):
            check_prompts(name, getattr(self, name), with_environment)
            if self.agent is None:
                check_rendered(name, getattr(self, name), self.tokenizer)
        check_reset_takes(next(iter(self.train_dataset), None), self.pool)
        check_apart(self.train_dataset, self.eval_dataset, with_environment, self.args.allow_shared_questions)
        if isinstance(self.train_dataset, Dataset):
            for function, reward in zip(self.reward_funcs, self.reward_func_names, strict=True):
                check_parameters(function, reward, self.train_dataset.column_names)
        # TRL's sampler drops what does not fill a generation: a smaller data set would train nothing, in silence.
        tasks = self.args.generation_batch_size // self.num_generations
        if isinstance(self.train_dataset, Dataset) and len(self.train_dataset) < tasks:
            raise UserError(
                f"train_dataset has {len(self.train_dataset)} rows, but one generation takes {tasks} tasks; give more "
                "rows, or lower per_device_train_batch_size or steps_per_generation."
            )

    def _check_method(
        self,
        decision_positions: Callable[[list[str]], list[int]] | None,
        judge: Judge | None = None,
    ) -> None:
        name = self.args.method
        if self.method.needs.one_process and self.accelerator.num_processes > 1:
            raise UserError(f"method = {name!r} runs on one process: its rounds differ in number; start one.")
        if self.method.needs.decisions and decision_positions is None:
            raise UserError(f"method = {name!r} needs a task with decision_positions; use a testbed such as kinship.")
        if decision_positions is not None:

            def decisions(rollout: Rollout) -> list[int]:
                return decision_positions(self._words_of(rollout))

            self.method.decisions = decisions
        if self.method.needs.judge and judge is None:
            raise UserError(f"method = {name!r} needs a task with a judge; use a testbed such as kinship or planning.")
        if judge is not None:

            def judged(row: dict[str, Any], rollout: Rollout, skill: float) -> list[Decision]:
                return decisions_of(judge, row, self._words_of(rollout), skill)

            self.method.judge = judged

    def _words_of(self, rollout: Rollout) -> list[str]:
        """The completion's tokens as text; a model may have ids that its tokenizer has no token for."""
        return [word or "\ufffd" for word in self.tokenizer.convert_ids_to_tokens(rollout.completion_ids)]

    def _make_writer(self, collisions: bool) -> RolloutWriter:
        parts = (self, self.protocol, self.pool, self.counters)
        if self.agent is None:
            return RolloutWriter(*parts, collisions=collisions)
        try:
            from appo.rollout.agents.writer import AgentWriter
        except ModuleNotFoundError as error:
            raise MissingPackage(f"agent = {self.agent.name} needs {error.name}; pip install 'appo[serve]'.") from None
        return AgentWriter(*parts, program=self.agent, collisions=collisions)

    def _make_protocol(self) -> ToolProtocol:
        if self.args.tool_protocol == "tags":
            return TagProtocol(self.tokenizer, self.pool.all_tools(), self.args.result_format)
        return ChatProtocol(self.tokenizer, self.tools, self.result_suffix, self.eos_token_ids, self.chat_template)

    def record_evaluation(self, name: str, trees: list[RolloutTree]) -> None:
        """Writes down the rollouts of an evaluation, or of a part of one, if records are kept."""
        if self.args.save_records and trees:
            records = rollout_records(trees, {}, self.state.global_step, decisions=self.method.decisions)
            self.records.append_evaluation(name, records)

    # ---- what may happen outside of a training ----

    def call_reward_functions(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with without_a_run(self):
            return super().call_reward_functions(*args, **kwargs)

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        with without_a_run(self):
            return super().prediction_step(*args, **kwargs)

    # ---- what is counted ----

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        seconds = self.counters.seconds
        before = sum(seconds[phase] for phase in ("generate", "score", "branch"))
        start = time.perf_counter()
        with self.counters.counted():
            loss = super().training_step(*args, **kwargs)
            prepared = sum(seconds[phase] for phase in ("generate", "score", "branch")) - before
            self.counters.add_seconds("train", time.perf_counter() - start - prepared)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training:
            logs.update(self.counters.take(self.accelerator))
        super().log(logs, start_time)
