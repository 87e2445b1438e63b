"""Every underscored name of TRL (and of transformers' `Trainer`) that is touched, in one place, under public names.

`SeamTrainer` is `GRPOTrainer` with hooks and helpers; the rest of the package calls these and no name of TRL's that
begins with an underscore. A new minor version of TRL is read against this file, and
`tests/unit/test_trl_seam.py` says which name is gone or has changed.

Left out on purpose: anything of this package's own (`trainer.py`, `rollout/writer.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
import trl.trainer.utils
from accelerate.utils import gather_object, is_peft_model
from transformers import TrainerState
from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.models.utils import disable_gradient_checkpointing, unwrap_model_for_generation
from trl.trainer.utils import add_fused_lm_head, get_config_model_id, use_adapter

from appo.models.merging import merged_parameters, saved_buffers
from appo.models.sharding import out_of_step, unsharded
from appo.rollout.scoring import RolloutBatch, TokenScores

# Shapes: B rollouts, F reward functions, T completion tokens.

# What is read or set of TRL's instances and classes; the contract test looks for each of them.
PRIVATE = (
    "_tokenize_prompts", "_calculate_rewards", "_get_per_token_logps_and_entropies", "_get_tool_suffix_ids",
    "_prepare_inputs", "_save_checkpoint", "_load_from_checkpoint", "_load_best_model", "_get_output_dir",
    "_batch_environments", "_env_tools", "_tokenizer", "_is_vlm", "_dist", "_metrics", "_logs", "_step",
    "_entropy_bonus_enabled", "_tag_names", "_name", "_paper",
)  # fmt: skip
PRIVATE_OF_VLLM_GENERATION = ("_iter_named_params", "_dist")
TILE = "_CHUNKED_LOGPROB_CHUNK_SIZE"  # of trl.trainer.utils: words of the vocabulary that are projected at once
CPU_TILE = 2048  # TRL's is for a GPU: on a CPU it saves no time, and takes a gigabyte for 2,048 tokens


def model_name_of(model: Any) -> str:
    """Where a model came from: a path or a name on the hub, or an empty text."""
    return get_config_model_id(model.config) or ""


def tool_suffix_ids(
    tokenizer: Any, chat_template: str | None, chat_template_kwargs: dict[str, Any], messages: list[dict[str, str]]
) -> list[int]:
    """Token ids of tool messages after an assistant's turn: TRL's own method, on what it reads of a trainer."""
    holder = SimpleNamespace(
        processing_class=tokenizer,
        _tokenizer=tokenizer,
        _is_vlm=False,
        chat_template=chat_template,
        chat_template_kwargs=chat_template_kwargs,
    )
    return GRPOTrainer._get_tool_suffix_ids(holder, messages)


class WholeParameters:
    """(name, tensor) pairs of the policy's parameters and of the buffers that are saved with them, whole, under the
    names of a saved model, adapters merged.

    May be gone through again and again; a sharded parameter is gathered on the way, which needs every process.
    """

    def __init__(self, trainer: "SeamTrainer") -> None:
        self._model = trainer.model
        self._gathers = not trainer.weights_are_whole and (trainer._dist.is_fsdp or trainer._dist.is_zero3)
        # TRL's own walk (FSDP, DeepSpeed), without the engine that TRL would make for it.
        self._walk = VLLMGeneration.__new__(VLLMGeneration)
        # Where the weights are whole by now, there is nothing to gather, and gathering would divide them again.
        whole = SimpleNamespace(is_fsdp=False, gather_params=lambda parameters: nullcontext())
        self._walk.model, self._walk.accelerator = trainer.model, trainer.accelerator
        self._walk._dist = trainer._dist if self._gathers else whole

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        if is_peft_model(self._model) and not self._gathers:
            yield from merged_parameters(self._model)
        else:
            yield from self._walk._iter_named_params()
        yield from saved_buffers(self._model)


class SeamTrainer(GRPOTrainer):
    """`GRPOTrainer` under public names. Whatever engine writes, TRL makes none itself."""

    weights_are_whole = False
    _tag_names = ["trl", "appo"]
    _name = "APPO"
    _paper = {"title": "APPO: Agentic Procedural Policy Optimization", "id": "2606.12384"}

    def __init__(self, model: Any, reward_funcs: Any, args: Any, *positional: Any, **kwargs: Any) -> None:
        use_vllm, args.use_vllm = args.use_vllm, False
        try:
            super().__init__(model, reward_funcs, args, *positional, **kwargs)
        finally:
            args.use_vllm = use_vllm
        self.use_vllm = use_vllm  # the loss reads it
        self._loads = 0
        if self.accelerator.device.type == "cpu":
            setattr(trl.trainer.utils, TILE, CPU_TILE)

    # ---- hooks: a subclass overrides the public name ----

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        return self.prepare_inputs(generation_batch)

    def prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """The loss's inputs of one micro-batch."""
        return super()._prepare_inputs(generation_batch)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.write_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._loads += 1
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        self._loads += 1
        super()._load_best_model()

    def write_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes `checkpoint-STEP`."""
        super()._save_checkpoint(model, trial)

    def checkpoint_root(self, trial: Any) -> str:
        """The directory that checkpoints go to."""
        return self._get_output_dir(trial=trial)

    def load_checkpoint(self, checkpoint: str, state_file: str) -> None:
        """Weights and state of a checkpoint, the best ones where that was asked for."""
        self._load_from_checkpoint(checkpoint)
        self.state = TrainerState.load_from_json(f"{checkpoint}/{state_file}")
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()

    # ---- what there is ----

    @property
    def tokenizer(self) -> Any:
        """The text tokenizer."""
        return self._tokenizer

    @property
    def is_multimodal(self) -> bool:
        """Whether the processing class is a multimodal processor."""
        return self._is_vlm

    @property
    def tags(self) -> list[str]:
        """Tags of the model card."""
        return list(self._tag_names)

    @property
    def context_length(self) -> int | None:
        """Tokens that prompt and completion may have together; None where the model does not say."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def micro_step(self) -> int:
        """TRL's count of micro-batches, which says where in a generation a run is."""
        return self._step

    @micro_step.setter
    def micro_step(self, step: int) -> None:
        self._step = step

    @property
    def loss_sees_advantages_alone(self) -> bool:
        """Whether a rollout without any advantage adds nothing to the loss but to its mean's denominator."""
        other = self._entropy_bonus_enabled or self.aux_loss_enabled or self.top_entropy_quantile < 1.0
        return bool(self.args.loss_type == "grpo" and self.beta == 0.0 and not other)

    def hide_tool(self, hidden: str) -> None:
        """TRL offers every public method of an environment as a tool; one name is none."""
        if self.environment_factories is None:
            return
        for name, tools in self._env_tools.items():
            self._env_tools[name] = [tool for tool in tools if tool.__name__ != hidden]
        self.tools = [tool for tool in self.tools if tool.__name__ != hidden]  # type: ignore[has-type]

    # ---- prompts and rewards ----

    def tokenize(self, prompts: list[Any], environment_names: list[str | None]) -> list[list[int]]:
        """Token ids of prompts, each rendered with the tools of its environment."""
        self._batch_environments = environment_names
        return self._tokenize_prompts(prompts)[0]

    def result_suffix(self, messages: Any) -> list[int]:
        """Token ids of tool messages after an assistant's turn."""
        return self._get_tool_suffix_ids(messages)

    def call_reward_functions(
        self,
        rows: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]],
        environments: list[Any] | None,
    ) -> torch.Tensor:
        """Rewards of this process' rollouts, by function: (B, F) float32, NaN where a function did not apply.

        TRL gathers rewards: every process has to give equally many rollouts.
        """
        self.environments = environments
        rewards_BF = self._calculate_rewards(rows, prompts, completions, completion_ids)
        first = self.accelerator.process_index * len(rows)
        return rewards_BF[first : first + len(rows)]

    # ---- weights ----

    def whole_parameters(self) -> WholeParameters:
        """The policy's present parameters, for an engine that keeps weights of its own."""
        return WholeParameters(self)

    def weights_version(self) -> tuple[int, int, int]:
        """Another one where the weights may have changed: by an update, a load, a change in place (but for one by way
        of `.data`, which torch does not count)."""
        changes = sum(parameter._version for parameter in self.model.parameters())
        return self.state.global_step, self._loads, changes

    # ---- forwards ----

    @contextmanager
    def whole_weights(self) -> Iterator[Any]:
        """The unwrapped model, its weights whole on every process where they are sharded (FSDP2, ZeRO-3).

        A forward of a sharded model waits for the other processes, and these write and score rollouts of other
        lengths and numbers. Inside, forwards wait for nobody; all processes have to enter and leave together. It costs
        the memory of the whole weights, in the type that they compute in, for as long as it lasts. May be nested.
        """
        if self.weights_are_whole:
            yield self.accelerator.unwrap_model(self.model_wrapped)
            return
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            unsharded(self.model, self.accelerator.state),
            out_of_step(self.model, self._dist.is_zero3),
        ):
            self.weights_are_whole = True
            try:
                yield model
            finally:
                self.weights_are_whole = False

    @contextmanager
    def model_for_generation(self) -> Iterator[Any]:
        """The unwrapped model in evaluation mode, its weights whole."""
        training = self.model.training
        with self.whole_weights() as model:
            model.eval()
            try:
                yield model
            finally:
                model.train(training)

    def measure_collisions(self) -> None:
        """Has TRL's fused LM head return `log sum_a p(a)^2` too, from the pass that it makes anyway."""
        add_fused_lm_head(
            self.model.get_base_model() if is_peft_model(self.model) else self.model,
            temperature=self.temperature,
            cast_lm_head_to_fp32=self.args.cast_lm_head_to_fp32,
            outputs=("log_probs", "entropy", "log_sum_sq_probs"),
        )

    @torch.no_grad()
    def score_tokens(self, batch: RolloutBatch, *, collisions: bool = False) -> TokenScores:
        """Log-probabilities and entropies under the current policy, without dropout (Eq. 3); float32 (B, T)."""
        training = self.model.training
        self.model.eval()
        # TRL's own method returns two of the outputs of its fused head; the third is read on its way out.
        outputs: list[Any] = []
        try:
            with (
                self.model.register_forward_hook(lambda _, __, output: outputs.append(output)),
                disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
            ):
                logps_BT, entropies_BT = self._logps(self.model, batch, compute_entropy=True)
        finally:
            self.model.train(training)
        if not collisions:
            return TokenScores(logps_BT, entropies_BT)
        length = logps_BT.shape[1]
        collisions_BT = torch.cat([output.log_sum_sq_probs[:, -length:] for output in outputs])
        return TokenScores(logps_BT, entropies_BT, collisions_BT.float())

    @torch.no_grad()
    def reference_logps(self, batch: RolloutBatch) -> torch.Tensor:
        """Log-probabilities under pi_ref, found as TRL finds it: a model of its own, or the adapter switched off."""
        if self.ref_model is not None:
            with unsharded(self.ref_model, self.accelerator.state):
                return self._logps(self.ref_model, batch, compute_entropy=False)[0]
        model = self.accelerator.unwrap_model(self.model)
        assert is_peft_model(model)
        with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
            return self._logps(self.model, batch, compute_entropy=False)[0]

    def _logps(self, model: Any, batch: RolloutBatch, compute_entropy: bool) -> tuple[torch.Tensor, Any]:
        logps_BT, entropies_BT, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([batch.prompt_ids_BP, batch.completion_ids_BT], dim=1),
            torch.cat([batch.prompt_mask_BP, batch.completion_mask_BT], dim=1),
            batch.completion_ids_BT.shape[1],
            batch_size=max(self.args.micro_batch_rows, 1),
            compute_entropy=compute_entropy,
        )
        return logps_BT.float(), entropies_BT.float() if compute_entropy else None

    # ---- logging ----

    def log_means(self, values: dict[str, float]) -> None:
        """Adds metrics, averaged over processes or, of `../max`, the largest; TRL averages over steps and leaves
        NaN out."""
        mode = "train" if self.model.training else "eval"
        local = torch.tensor([list(values.values())], device=self.accelerator.device)
        gathered = self.accelerator.gather(local)
        largest = gathered.nan_to_num(nan=-torch.inf).amax(dim=0).tolist()
        for name, value, most in zip(values, gathered.nanmean(dim=0).tolist(), largest, strict=True):
            self._metrics[mode][name].append(most if name.endswith("/max") and value == value else value)

    def waiting_metrics(self) -> dict[str, list[float]]:
        """The training metrics that wait for the next log."""
        return {name: [float(value) for value in values] for name, values in self._metrics["train"].items()}

    def restore_metrics(self, metrics: dict[str, list[float]]) -> None:
        """Metrics as `waiting_metrics` gave them."""
        self._metrics["train"].update(metrics)

    def log_table(
        self, prompts: list[Any], completions: list[Any], rewards: list[dict[str, float]], advantages: list[float]
    ) -> None:
        """Adds rollouts of all processes to TRL's table of completions."""
        self._logs["prompt"].extend(gather_object(prompts))
        self._logs["completion"].extend(gather_object(completions))
        for name in self.reward_func_names:
            self._logs["rewards"][name].extend(gather_object([parts.get(name) for parts in rewards]))
        self._logs["advantages"].extend(gather_object(advantages))
