"""One rollout of verl's: from a prompt, or from within another rollout, with `appo`'s loop, protocols and tools.

verl makes an agent loop for each rollout and runs it as a coroutine. `appo.rollout.loop` waits for engines and tools,
so it runs in a thread; what the thread asks of verl's servers runs in verl's event loop. What of a rollout has no
place among verl's tensors (calls, how it ended, parts of the reward) travels in `extra_fields["appo"]`.

Left out on purpose: images and sound, verl's own tool classes (`multi_turn.tool_config_path`), and states of
environments: a branch resets one with the task's row and replays the calls of its prefix, so environments have to be
deterministic.
"""

import asyncio
import json
import logging
import time
import uuid
import weakref
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register
from verl.utils.fs import copy_to_local
from verl.utils.model import get_generation_config

from appo.errors import UserError
from appo.integrations.verl.engine import VerlEngine
from appo.integrations.verl.equipment import Equipment, resolver
from appo.integrations.verl.options import options_of
from appo.rollout.batches import rollout_as_dict, rollout_from_dict
from appo.rollout.environments import EnvironmentPool, ReplayDiverged, as_texts
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.prompts import starting_prompt
from appo.rollout.types import Rollout

logger = logging.getLogger(__name__)

EXTRA = "appo"  # of extra_fields: what verl's tensors do not hold
PREFIX, SEED = "__appo_prefix__", "__appo_seed__"  # columns that the trainer adds to the rows it submits
# What verl adds to the data set's columns.
VERL_COLUMNS = (
    "raw_prompt", "dummy_tensor", "index", "tools_kwargs", "interaction_kwargs", "uid", "session_id", "global_steps",
    "agent_name", "validate", PREFIX, SEED,
)  # fmt: skip


def dataset_row(columns: dict[str, Any]) -> dict[str, Any]:
    """The data set's own columns of a row as verl has it, and its messages as `prompt`."""
    row = {name: value for name, value in columns.items() if name not in VERL_COLUMNS}
    return {**row, "prompt": list(columns["raw_prompt"])}


class Workshop:
    """What the agent loops of one worker share.

    Args:
        config: verl's configuration.
        tokenizer: The worker's.
        model_type: The model's.
    """

    def __init__(self, config: Any, tokenizer: Any, model_type: str | None) -> None:
        self.options = options_of(config)
        found = get_generation_config(copy_to_local(config.actor_rollout_ref.model.path))
        ends = None if found is None else found.eos_token_id
        self.eos_token_ids = {tokenizer.eos_token_id, *([ends] if isinstance(ends, int) else ends or ())} - {None}
        self.equipment = Equipment(
            self.options,
            tokenizer,
            config.actor_rollout_ref.rollout.multi_turn.format,
            model_type,
            dict(config.data.get("apply_chat_template_kwargs") or {}),
            self.eos_token_ids,
        )
        self.threads = ThreadPoolExecutor(self.options.max_rollouts, thread_name_prefix="appo-rollout")


_workshops: MutableMapping[Any, Workshop] = weakref.WeakKeyDictionary()  # by tokenizer, of which a worker has one


@register("appo")
class APPOAgentLoop(AgentLoopBase):
    """The agent loop `appo`: `actor_rollout_ref.rollout.agent.default_agent_loop=appo`."""

    def __init__(self, *args: Any, hf_model_type: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, hf_model_type=hf_model_type, **kwargs)
        if self.tokenizer not in _workshops:
            _workshops[self.tokenizer] = Workshop(self.config, self.tokenizer, hf_model_type)
        self.workshop = _workshops[self.tokenizer]

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """Writes one rollout to its end.

        Args:
            sampling_params: verl's.
            kwargs: The row, as verl has it; of a branch also its prefix, of a training rollout its seed.
        """
        loop = asyncio.get_running_loop()
        engine = VerlEngine(
            self.server_manager,
            loop,
            sampling_params,
            uuid.uuid4().hex,
            eos_token_ids=self.workshop.eos_token_ids,
            tokenizer=self.tokenizer,
        )
        began = time.monotonic()
        rollout = await loop.run_in_executor(self.workshop.threads, self._write, engine, loop, kwargs)
        return self._output(rollout, engine, time.monotonic() - began)

    def _write(self, engine: VerlEngine, loop: asyncio.AbstractEventLoop, kwargs: dict[str, Any]) -> Rollout:
        """Runs in a thread."""
        options, equipment, rollout_config = self.workshop.options, self.workshop.equipment, self.rollout_config
        row = dataset_row(kwargs)
        agent_loop = AgentLoop(
            engine,
            equipment.protocol,
            equipment.runner,
            max_completion_length=rollout_config.response_length,
            max_tool_calling_iterations=options.max_tool_calling_iterations,
            context_length=rollout_config.max_model_len or None,
            max_tool_calls=options.max_tool_calls,
            keep_snapshots=False,
        )
        with equipment.pool() as pool:
            if kwargs.get(PREFIX) is None:
                rollout = self._opening(pool, row, loop)
            else:
                rollout = rollout_from_dict(json.loads(kwargs[PREFIX]))
                try:
                    pool.enter_prefix(rollout, row, equipment.runner)
                except ReplayDiverged as error:  # verl waits for every branch, so that none can be left out
                    logger.warning("A branch is written from another state than its prefix left: %s", error)
            agent_loop.run([Start(rollout, pool.tools_of(rollout.environment), self._seed(kwargs))], 0)
            if equipment.scores:
                equipment.score(rollout, row, resolver(loop))
            rollout.environment = None  # the pool has it back from here on
        return rollout

    def _opening(self, pool: EnvironmentPool, row: dict[str, Any], loop: asyncio.AbstractEventLoop) -> Rollout:
        """The beginning of a rollout from its prompt, rendered and cut as verl does."""
        environment, observation = pool.open(row)
        prompt = starting_prompt(row, observation)
        rendered = self.ct_build_initial_tokens(as_texts(prompt), tools=self.workshop.equipment.schemas)
        ids = asyncio.run_coroutine_threadsafe(rendered, loop).result()
        most = self.rollout_config.max_model_len
        if most is not None and len(ids) >= most:
            raise UserError(
                f"a prompt has {len(ids)} tokens, but actor_rollout_ref.rollout.max_model_len = {most}; raise it, or "
                "lower data.max_prompt_length."
            )
        return Rollout(list(ids), prompt, environment=environment)

    @staticmethod
    def _seed(kwargs: dict[str, Any]) -> int | None:
        """The rollout's seed; in a validation a fresh one."""
        entropy = None if kwargs.get(SEED) is None else [int(kwargs[SEED]), int(kwargs["session_id"])]
        return int(np.random.SeedSequence(entropy).generate_state(1, dtype=np.uint64)[0])

    def _output(self, rollout: Rollout, engine: VerlEngine, seconds: float) -> AgentLoopOutput:
        stored = rollout_as_dict(rollout)
        calls = sum(call.seconds for call in rollout.tool_calls)
        turns = 2 * len(rollout.answered_turns()) + 2  # the user's, and between the policy's those of the tools
        told = [version for version in engine.versions if version is not None]
        fields: dict[str, Any] = {
            EXTRA: {
                **{name: stored[name] for name in ("prompt", "tool_calls", "finish_reason", "rewards")},
                "scored": None if not self.workshop.equipment.scores else rollout.reward is not None,
                "dropped": engine.dropped,
            },
            "min_global_steps": min(told, default=-1),
            "max_global_steps": max(told, default=-1),
            "turn_scores": [],
            "tool_rewards": [],
        }
        reward = None
        if self.workshop.equipment.scores:
            reward = rollout.reward or 0.0  # verl adds numbers up; the trainer reads in "scored" that there is none
            fields["reward_extra_info"] = rollout.rewards
        return AgentLoopOutput(
            prompt_ids=rollout.prompt_ids,
            response_ids=rollout.completion_ids,
            response_mask=rollout.policy_mask,
            # 0 as in verl's own loops; the trainer makes it NaN again.
            response_logprobs=[p if m else 0.0 for p, m in zip(rollout.logprobs, rollout.policy_mask, strict=True)],
            reward_score=reward,
            num_turns=turns,
            metrics=AgentLoopMetrics(generate_sequences=seconds - calls, tool_calls=calls),
            extra_fields=fields,
        )
