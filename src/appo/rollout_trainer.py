"""`RolloutTrainer`: TRL's `GRPOTrainer` with rollouts written by the agent loop.

Everything that writing, rewarding and scoring rollouts takes from a trainer: tools and environments, prompts, reward
functions, the model in a state to generate from, and the forward of the loss. What to do with the rollouts is for
`APPOTrainer` to say.

Left out on purpose: the loss, checkpoints, PEFT, distribution and logging back-ends: TRL's and transformers' own.
"""

import copy
import inspect
import time
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object, is_peft_model
from transformers import PreTrainedTokenizerBase
from trl import GRPOTrainer
from trl.data_utils import is_conversational
from trl.models.utils import disable_gradient_checkpointing, unwrap_model_for_generation
from trl.trainer.utils import add_fused_lm_head, get_config_model_id, use_adapter

from appo.config import APPOConfig
from appo.engines.transformers_engine import TransformersEngine
from appo.errors import UserError
from appo.protocols.base import ToolProtocol
from appo.protocols.chat_template import ChatProtocol, set_up_tools
from appo.protocols.tags import TagProtocol
from appo.rewards.checked import checked
from appo.rollout import metrics
from appo.rollout.counters import RunCounters
from appo.rollout.environments import EnvironmentPool, as_texts
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.prompts import check_prompts, starting_prompt
from appo.rollout.scoring import RolloutBatch, TokenScores, collate
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout
from appo.rollout.unknown_words import UnknownWords, text_of
from appo.tools.runner import ToolRunner

# Shapes: B rollouts, F reward functions, T completion tokens.


Pair = tuple[RolloutTree, Rollout]


def environment_reward(kind: Any) -> Any:
    """`get_reward` of environments of one class as a TRL reward function; None for those of another class."""

    def sync_reward(environments: list[Any], **_: Any) -> list[float | None]:
        return [e.get_reward() if type(e) is kind else None for e in environments]

    async def async_reward(environments: list[Any], **_: Any) -> list[float | None]:
        return [await e.get_reward() if type(e) is kind else None for e in environments]

    function: Any = async_reward if inspect.iscoroutinefunction(kind.get_reward) else sync_reward
    function.__name__ = kind.__name__
    return function


class RolloutTrainer(GRPOTrainer):
    """Writes, rewards and scores rollouts; see `APPOTrainer` for the arguments."""

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: APPOConfig | None = None,
        *positional: Any,
        tools: list[Any] | None = None,
        environment_factory: Any = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = APPOConfig(f"{name.split('/')[-1]}-APPO")
        if kwargs.pop("rollout_func", None) is not None:
            raise UserError("rollout_func is not supported: APPOTrainer writes rollouts itself; pass tools instead.")
        self._pool = EnvironmentPool(list(tools or []), environment_factory)
        if args.tool_protocol == "chat_template":
            kwargs.update(tools=tools, environment_factory=environment_factory)
            tokenizer = kwargs.get("processing_class")
            if (tools or environment_factory) and isinstance(tokenizer, PreTrainedTokenizerBase):
                set_up_tools(tokenizer)  # as TRL will, but its error would not say what else there is
        else:
            # TRL would ask for a chat template with tools. Without them it still owns rewards and prompts.
            args = copy.copy(args)  # the caller may use it again
            reward_funcs, args.reward_weights = self._with_environment_reward(reward_funcs, args.reward_weights)
        super().__init__(model, reward_funcs, args, *positional, **kwargs)
        named = zip(self.reward_funcs, self.reward_func_names, strict=True)  # type: ignore[has-type]
        self.reward_funcs = [checked(function, name) for function, name in named]
        if self._is_vlm:
            raise UserError("processing_class is a multimodal processor; APPOTrainer trains text models only.")
        for name in ("train_dataset", "eval_dataset"):
            check_prompts(name, getattr(self, name), environment_factory is not None)
        self._hide_fork()
        if args.token_weight == "fork":
            self._measure_collisions()
        self.protocol = self._make_protocol()
        self.runner = ToolRunner(
            timeout=args.tool_timeout, max_result_chars=args.max_tool_result_chars, retries=args.tool_retries
        )
        self.counters = RunCounters(sorted(self._pool.all_tools()))
        self._unknown = UnknownWords(self._tokenizer, "prompts")

    def _with_environment_reward(self, reward_funcs: Any, weights: Any) -> tuple[list[Any], Any]:
        """Adds `get_reward` of the environments as TRL does: one column per class, weight 1."""
        funcs = list(reward_funcs) if isinstance(reward_funcs, (list, tuple)) else [f for f in [reward_funcs] if f]
        types = {type(environment) for environment in self._pool.probe()}
        for kind in sorted((kind for kind in types if hasattr(kind, "get_reward")), key=lambda kind: kind.__name__):
            funcs.append(environment_reward(kind))
            weights = None if weights is None else [*weights, 1.0]
        return funcs, weights

    def _hide_fork(self) -> None:
        """TRL offers every public method of an environment as a tool; `fork` is none."""
        if self.environment_factories is None:
            return
        for name, tools in self._env_tools.items():
            self._env_tools[name] = [tool for tool in tools if tool.__name__ != "fork"]
        self.tools = [tool for tool in self.tools if tool.__name__ != "fork"]  # type: ignore[has-type]

    def _measure_collisions(self) -> None:
        """Has TRL's fused LM head return `log sum_a p(a)^2` too, from the pass that it makes anyway."""
        add_fused_lm_head(
            self.model.get_base_model() if is_peft_model(self.model) else self.model,
            temperature=self.temperature,
            cast_lm_head_to_fp32=self.args.cast_lm_head_to_fp32,
            outputs=("log_probs", "entropy", "log_sum_sq_probs"),
        )

    def _make_protocol(self) -> ToolProtocol:
        if self.args.tool_protocol == "tags":
            return TagProtocol(self._tokenizer, self._pool.all_tools(), self.args.result_format)
        return ChatProtocol(
            self._tokenizer, self.tools, self._get_tool_suffix_ids, self.eos_token_ids, self.chat_template
        )

    # ---- writing ----

    def write_initial(
        self, rows: list[dict[str, Any]], size: int, stream: int = 0, seeds: list[int] | None = None
    ) -> list[RolloutTree]:
        """Writes and rewards `size` rollouts for each row with the current policy.

        Args:
            rows: Rows of a data set with a `prompt` column, one per task.
            size: Rollouts per task.
            stream: Another stream gives other random numbers at the same optimizer step.
            seeds: One per rollout, in the order of the rows; instead of those of run, process, step and stream.

        Returns:
            One tree per row. Its environments are kept until `release_environments`.
        """
        trees: list[RolloutTree] = []
        prompts, environments, names = [], [], []
        for row in rows:
            trees.append(RolloutTree(row, f"{self.state.global_step}.{self.accelerator.process_index}.{len(trees)}"))
            for _ in range(size):
                environment, observation = self._pool.open(row)
                prompts.append(starting_prompt(row, observation))
                environments.append(environment)
                names.append(self._pool.name_of(row))
        self._batch_environments = names  # TRL's `_tokenize_prompts` renders each prompt with its own tools
        prompt_ids, _, _ = self._tokenize_prompts([as_texts(prompt) for prompt in prompts])
        self._unknown.look(map(text_of, prompts), prompt_ids)
        self._unknown.tell()
        starts = []
        own_seeds: list[int | None] = [None] * len(prompts) if seeds is None else list(seeds)
        for ids, prompt, environment, seed in zip(prompt_ids, prompts, environments, own_seeds, strict=True):
            rollout = Rollout(list(ids), prompt, environment=environment)
            starts.append(Start(rollout, self._pool.tools_of(environment), seed))
        with self.counters.timed("generate"):
            rollouts = self._run_loop(starts, stream, keep_snapshots=self.model.training)
        for index, rollout in enumerate(rollouts):
            trees[index // size].add_initial(rollout)
        self._reward([(tree, rollout) for tree in trees for rollout in tree.initial])
        return trees

    def release_environments(self, trees: list[RolloutTree]) -> None:
        """Gives the environments of `write_initial` back for reuse."""
        self._pool.release(self.runner, (rollout.environment for tree in trees for rollout in tree.rollouts))

    def _run_loop(self, starts: list[Start], stream: int, keep_snapshots: bool) -> list[Rollout]:
        training = self.model.training
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            model.eval()
            engine = TransformersEngine(
                model,
                pad_token_id=self._tokenizer.pad_token_id,
                eos_token_ids=self.eos_token_ids,
                stop_candidates=self.protocol.stop_candidates,
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k,
                min_p=self.min_p,
                max_rows=self.args.rollout_batch_size,
            )
            loop = AgentLoop(
                engine,
                self.protocol,
                self.runner,
                max_completion_length=self.max_completion_length,
                max_tool_turns=self.args.max_tool_calling_iterations,
                max_tool_calls=self.args.max_tool_calls,
                context_length=getattr(model.config.get_text_config(), "max_position_embeddings", None),
                join_every=self.args.tool_join_steps,
                keep_snapshots=keep_snapshots,
            )
            rollouts = loop.run(starts, self._seed(stream))
            model.train(training)
        self.counters.add_loop(loop.counters, len(rollouts))
        return rollouts

    def _seed(self, stream: int) -> int:
        """A function of run, process, optimizer step and stream: a resumed run draws what it would have drawn."""
        entropy = [self.args.seed, self.accelerator.process_index, self.state.global_step, stream]
        return int(np.random.SeedSequence(entropy).generate_state(1, dtype=np.uint64)[0])

    def _reward(self, pairs: list[Pair], spare: Pair | None = None) -> None:
        """Calls TRL's reward machinery and stores each rollout's weighted sum.

        TRL gathers rewards, so every process needs equally many rows: the last pair, or `spare` where a process has
        none, is repeated and its rewards dropped.
        """
        count = len(pairs)
        if self.accelerator.num_processes > 1:
            most = int(self.accelerator.gather(torch.tensor([count], device=self.accelerator.device)).max())
            filler = pairs[-1] if pairs else spare
            pairs = pairs + [filler] * (most - count) if filler else pairs
        if not pairs:
            return
        rollouts = [rollout for _, rollout in pairs]
        conversational = is_conversational({"prompt": rollouts[0].prompt})
        self.environments = [r.environment for r in rollouts] if self._pool.factories else None
        completions = [self.protocol.completion(rollout, conversational) for rollout in rollouts]
        rewards_BF = self._calculate_rewards(
            [tree.row for tree, _ in pairs],
            [rollout.prompt for rollout in rollouts],
            completions,
            [rollout.completion_ids for rollout in rollouts],
        )
        first = self.accelerator.process_index * len(pairs)
        rewards_BF = rewards_BF[first : first + count]
        totals_B = (rewards_BF * self.reward_weights.to(rewards_BF.device)).nansum(dim=1)
        unscored_B = rewards_BF.isnan().all(dim=1)
        if rewards_BF.isinf().any():
            name = self.reward_func_names[int(rewards_BF.isinf().any(dim=0).nonzero()[0])]
            raise UserError(f"reward function {name} returned an infinite reward; return a finite number or None.")
        for rollout, total, unscored, parts in zip(
            rollouts, totals_B.tolist(), unscored_B.tolist(), rewards_BF.tolist(), strict=False
        ):
            rollout.reward = None if unscored else total
            rollout.rewards = dict(zip(self.reward_func_names, parts, strict=True))

    # ---- scoring ----

    def _collate(self, rollouts: list[Rollout]) -> RolloutBatch:
        return collate(
            rollouts,
            pad_token_id=self._tokenizer.pad_token_id,
            pad_to_multiple_of=self.pad_to_multiple_of,
            device=self.accelerator.device,
        )

    @torch.no_grad()
    def _score(self, batch: RolloutBatch) -> TokenScores:
        """Log-probabilities and entropies under the current policy, without dropout (Eq. 3)."""
        training = self.model.training
        self.model.eval()
        # TRL's own method returns two of the outputs of its fused head; the third is read on its way out.
        outputs: list[Any] = []
        with (
            self.model.register_forward_hook(lambda _, __, output: outputs.append(output)),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
        ):
            logps_BT, entropies_BT = self._forward(self.model, batch, compute_entropy=True)
        self.model.train(training)
        if self.args.token_weight == "uniform":
            return TokenScores(logps_BT, entropies_BT)
        length = logps_BT.shape[1]
        collisions_BT = torch.cat([output.log_sum_sq_probs[:, -length:] for output in outputs])
        return TokenScores(logps_BT, entropies_BT, collisions_BT.float())

    def _score_rollouts(self, rollouts: list[Rollout]) -> tuple[RolloutBatch, TokenScores]:
        batch = self._collate(rollouts)
        return batch, self._score(batch)

    def _forward(self, model: Any, batch: RolloutBatch, compute_entropy: bool) -> tuple[torch.Tensor, Any]:
        logps_BT, entropies_BT, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([batch.prompt_ids_BP, batch.completion_ids_BT], dim=1),
            torch.cat([batch.prompt_mask_BP, batch.completion_mask_BT], dim=1),
            batch.completion_ids_BT.shape[1],
            batch_size=max(self.args.micro_batch_rows, 1),
            compute_entropy=compute_entropy,
        )
        return logps_BT.float(), entropies_BT.float() if compute_entropy else None

    @torch.no_grad()
    def _reference_logps(self, batch: RolloutBatch) -> torch.Tensor:
        """Log-probabilities under pi_ref, found as TRL finds it: a model of its own, or the adapter switched off."""
        if self.ref_model is not None:
            return self._forward(self.ref_model, batch, compute_entropy=False)[0]
        model = self.accelerator.unwrap_model(self.model)
        assert is_peft_model(model)
        with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
            return self._forward(self.model, batch, compute_entropy=False)[0]

    # ---- logging ----

    def _log_means(self, values: dict[str, float]) -> None:
        """Adds metrics, averaged over processes; TRL's `log` averages over steps and leaves NaN out."""
        mode = "train" if self.model.training else "eval"
        local = torch.tensor([list(values.values())], device=self.accelerator.device)
        for name, value in zip(values, self.accelerator.gather(local).nanmean(dim=0).tolist(), strict=True):
            self._metrics[mode][name].append(value)

    def _log_generation(self, trees: list[RolloutTree]) -> None:
        """TRL's own metrics of a generation, over the initial rollouts."""
        rollouts = [rollout for tree in trees for rollout in tree.initial]
        self._log_means(metrics.generation_metrics(trees, self.reward_func_names))
        if self.model.training:
            tokens = sum(len(r.prompt_ids) + sum(r.policy_mask) for r in rollouts)
            seen = self.accelerator.gather(torch.tensor([tokens], device=self.accelerator.device)).sum().item()
            self.state.num_input_tokens_seen += int(seen)
        if self.log_completions:
            conversational = is_conversational({"prompt": rollouts[0].prompt})
            completions = [self.protocol.completion(rollout, conversational) for rollout in rollouts]
            self._logs["prompt"].extend(gather_object([rollout.prompt for rollout in rollouts]))
            self._logs["completion"].extend(gather_object(completions))
            for name in self.reward_func_names:
                self._logs["rewards"][name].extend(gather_object([r.rewards.get(name) for r in rollouts]))
            base = [tree_advantage for tree in trees for tree_advantage in metrics.reward_z(tree)]
            self._logs["advantages"].extend(gather_object(base))

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
