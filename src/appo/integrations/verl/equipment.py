"""What the rollouts of a process share: the protocol, the runner of tools, environments and reward functions.

An agent-loop worker writes many rollouts at once, a thread for each. The runner of tools is one for all of them, so
that `max_tool_workers` holds; environments are lent in pools, one to a rollout at a time, so that they are built once
and reset often, as in TRL. The trainer has an equipment too: it finds mistakes before anything is loaded, and reads
regions.

Left out on purpose: TRL's `environments`, `trainer_state` and `log_*` for reward functions.
"""

import asyncio
import inspect
import queue
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedTokenizerBase

from appo.errors import UserError
from appo.integrations.verl.chat import VerlChatProtocol
from appo.integrations.verl.options import VerlOptions, named
from appo.protocols.base import ToolProtocol
from appo.protocols.tags import TagProtocol
from appo.rewards.checked import checked
from appo.rollout.environments import EnvironmentPool
from appo.rollout.types import Rollout
from appo.tools.runner import ToolRunner

Resolve = Callable[[Any], Any]  # gives what an awaitable gives; anything else is given back


class Equipment:
    """
    Args:
        options: The run's.
        tokenizer: The policy's.
        tool_format: verl's name of the parser of calls (`rollout.multi_turn.format`), for chat templates.
        model_type, eos_token_ids: The model's, for chat templates.
        template_kwargs: What chat templates get besides (`data.apply_chat_template_kwargs`).

    Raises:
        UserError: for tools, environments and reward functions that there are not, and two tools of one name.
    """

    def __init__(
        self,
        options: VerlOptions,
        tokenizer: PreTrainedTokenizerBase,
        tool_format: str = "hermes",
        model_type: str | None = None,
        template_kwargs: dict[str, Any] | None = None,
        eos_token_ids: Collection[int] = (),
    ) -> None:
        self._tools = [named("tools", reference) for reference in options.tools]
        self._factory = None if options.environment is None else named("environment", options.environment)
        self._reward_funcs = {
            function.__name__: checked(function, function.__name__)
            for function in (named("reward_funcs", reference) for reference in options.reward_funcs)
        }
        self._idle: queue.SimpleQueue[EnvironmentPool] = queue.SimpleQueue()
        with self.pool() as pool:
            tools, environments = pool.all_tools(), pool.probe()
        self.rewards_by_environment = any(hasattr(environment, "get_reward") for environment in environments)
        self.protocol: ToolProtocol
        self.schemas: list[dict[str, Any]] | None = None
        if options.tool_protocol == "tags":
            self.protocol = TagProtocol(tokenizer, tools, options.result_format)
        else:
            self.protocol = VerlChatProtocol(tokenizer, tools, tool_format, model_type, template_kwargs, eos_token_ids)
            self.schemas = self.protocol.schemas or None
        self.runner = ToolRunner(
            timeout=options.tool_timeout,
            max_workers=options.max_tool_workers,
            max_result_chars=options.max_tool_result_chars,
            retries=options.tool_retries,
        )

    @contextmanager
    def pool(self) -> Iterator[EnvironmentPool]:
        """A pool of environments for one rollout."""
        try:
            pool = self._idle.get_nowait()
        except queue.Empty:
            pool = EnvironmentPool(self._tools, self._factory)
        yield pool
        # After an error the pool is not lent again: nobody knows what its environments are doing.
        if hasattr(self, "runner"):
            pool.release(self.runner)
        self._idle.put(pool)

    @property
    def scores(self) -> bool:
        """Whether rollouts are scored here; else verl's reward manager does."""
        return bool(self._reward_funcs) or self.rewards_by_environment

    def score(self, rollout: Rollout, row: dict[str, Any], resolve: Resolve) -> None:
        """Rewards a rollout: the sum of its parts, each of weight 1; None where no function applied.

        Args:
            rollout: With its environment; `reward` and `rewards` are set.
            row: The data set's row.
            resolve: Waits for what `async` functions return.

        Raises:
            UserError: for what is no reward, by the function's name.
        """
        columns = {name: [value] for name, value in row.items() if name != "prompt"}
        parts: dict[str, Any] = {}
        for name, function in self._reward_funcs.items():
            completion = self.protocol.completion(rollout, True)
            given = {
                "prompts": [rollout.prompt],
                "completions": [completion],
                "completion_ids": [rollout.completion_ids],
            }
            parts[name] = resolve(function(**{**columns, **given}))[0]
        if self.rewards_by_environment and hasattr(rollout.environment, "get_reward"):
            parts[type(rollout.environment).__name__] = resolve(rollout.environment.get_reward())
        rollout.rewards = {name: float("nan") if part is None else float(part) for name, part in parts.items()}
        scored = [part for part in rollout.rewards.values() if part == part]
        if float("inf") in map(abs, scored):
            name = next(name for name, part in rollout.rewards.items() if abs(part) == float("inf"))
            raise UserError(f"reward function {name} returned an infinite reward; return a finite number or None.")
        rollout.reward = sum(scored) if scored else None


def resolver(loop: asyncio.AbstractEventLoop) -> Resolve:
    """For threads beside an event loop: awaitables are awaited in the loop."""

    async def awaited(value: Any) -> Any:
        return await value

    def resolve(value: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaited(value), loop).result() if inspect.isawaitable(value) else value

    return resolve
