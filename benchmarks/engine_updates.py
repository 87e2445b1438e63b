"""An update of APPO against one of TRL's `GRPOTrainer`: 16 rollouts per task, the same vLLM, the same tools.

APPO writes N = 4 rollouts and B = 3 branches of each, and trains on the four; GRPO writes 16 and trains on all. One
update per generation, after a warm-up; the time is that of a whole training step, weights brought to vLLM included.
Calls are written by the chat template, and a prompt shows one, as SmolLM2 makes none by itself. TRL runs the calls of
all rollouts one after another, so the time with tools that answer at once stands beside that with slow ones.

    python benchmarks/engines.py --rows update [--tasks 1] [--group 16]

TRL makes its own `LLM`, without options for a CPU: they are added under the name that it imports, and are those of
`appo.engines.vllm`. Nor can it bring weights to a vLLM on a CPU, which has replaced the parameters that TRL loads into
("'Parameter' object has no attribute 'weight_loader'"): there, they go the way that ours go. All else is TRL's own.
Each side runs in a process of its own. Left out on purpose: what either learns.
"""

import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from engine_parts import Line

POINTS = 3  # branches of each initial rollout, which are a quarter of a group so
COMPLETION, CONTEXT, TURNS = 96, 1024, 2
SECONDS = 0.5  # of a slow call
MOST = 0.6


@dataclass
class Updates:
    """What one side did.

    Args:
        seconds: Of each training step after the first.
        calls: Per rollout.
        length: Tokens per rollout, results included.
    """

    seconds: list[float]
    calls: float
    length: float


def updates(tasks: int, group: int, repeats: int, device: str, dtype: torch.dtype) -> Iterator[Line]:
    if find_spec("vllm") is None:
        print("an update of APPO against TRL's GRPO | not measured: vLLM is not installed | -")
        return
    for pause, tools in ((SECONDS, f"of {SECONDS} s"), (0.0, "that answer at once")):
        sides = {}
        for side in (appo_updates, trl_updates):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                sides[side] = pool.apply(side, (tasks, group, repeats, pause, device, dtype))
        ours, theirs = sides[appo_updates], sides[trl_updates]
        for name, one in (("APPO", ours), ("TRL's GRPO", theirs)):
            what = f"  an update of {name}, tools {tools}, {one.calls:.2f} calls and {one.length:.0f} tokens a rollout"
            yield Line(what, one.seconds, unit="s")
        values = [own / other for own, other in zip(ours.seconds, theirs.seconds, strict=True)]
        yield Line(
            f"an update of APPO against TRL's GRPO, {tasks} x {group} rollouts, tools {tools}", values, most=MOST
        )


def appo_updates(tasks: int, group: int, repeats: int, pause: float, device: str, dtype: torch.dtype) -> Updates:
    """For a process of its own."""
    from appo import APPOConfig, APPOTrainer

    model, tokenizer = make_policy(device, dtype)
    with tempfile.TemporaryDirectory() as directory:
        args = APPOConfig(
            **common(directory, tasks, group, repeats, device),
            method_args={"num_initial_rollouts": group // (1 + POINTS), "num_branch_points": POINTS},
            rollout_batch_size=group * tasks,
            save_records=False,
        )
        return run(APPOTrainer(
            model, parity, args, questions(tasks, repeats), processing_class=tokenizer, tools=[calculator(pause)]
        ))  # fmt: skip


def trl_updates(tasks: int, group: int, repeats: int, pause: float, device: str, dtype: torch.dtype) -> Updates:
    """For a process of its own."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from trl import GRPOConfig, GRPOTrainer

    fit_trl(device, dtype)
    model, tokenizer = make_policy(device, dtype)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(f"{directory}/policy")
        tokenizer.save_pretrained(f"{directory}/policy")
        model.name_or_path = f"{directory}/policy"  # where TRL's vLLM reads the model
        args = GRPOConfig(**common(directory, tasks, group, repeats, device), vllm_mode="colocate")
        return run(GRPOTrainer(
            model, parity, args, questions(tasks, repeats), processing_class=tokenizer, tools=[calculator(pause)]
        ))  # fmt: skip


def fit_trl(device: str, dtype: torch.dtype) -> None:
    """Has TRL's vLLM compute in this dtype, and run on a CPU."""
    import trl.generation.vllm_generation as generation

    from appo.engines.vllm import CPU_BLOCK, CPU_CACHE_BYTES
    from appo.engines.vllm_worker import load_parameters

    own: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch.")}
    made = generation.LLM
    generation.LLM = lambda **options: made(**{**options, **own})
    if device != "cpu":
        return
    own |= {"enforce_eager": True, "block_size": CPU_BLOCK, "max_num_batched_tokens": 65536}
    own |= {"kv_cache_memory_bytes": CPU_CACHE_BYTES}

    def sync_weights(self: Any) -> None:
        with torch.no_grad():
            self.llm.collective_rpc(load_parameters, args=(self._iter_named_params(),))
        self.llm.reset_prefix_cache()

    generation.VLLMGeneration.sync_weights = sync_weights


def common(directory: str, tasks: int, group: int, repeats: int, device: str) -> dict[str, Any]:
    """Options of both trainers: micro-batches of one task, one update per generation."""
    return {
        "output_dir": directory, "num_generations": group, "per_device_train_batch_size": group,
        "gradient_accumulation_steps": tasks, "steps_per_generation": tasks, "max_steps": 1 + repeats,
        "max_completion_length": COMPLETION, "max_tool_calling_iterations": TURNS, "learning_rate": 1e-6,
        "use_vllm": True, "vllm_max_model_length": CONTEXT, "vllm_gpu_memory_utilization": 0.4, "logging_steps": 1,
        "save_strategy": "no", "bf16": False, "use_cpu": device == "cpu", "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip


def run(trainer: Any) -> Updates:
    from transformers import PrinterCallback, TrainerCallback

    ends = []

    class Ends(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Ends())
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry][1:]
    return Updates(
        [after - before for before, after in pairwise(ends)],
        median(entry["tools/call_frequency"] for entry in logs),
        median(entry["completions/mean_length"] for entry in logs),
    )


def make_policy(device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from appo.models.smollm2 import make_model
    from appo.protocols.tool_template import add_tools

    torch.set_num_threads(1)
    model, tokenizer = make_model()
    add_tools(tokenizer)
    return model.to(device, dtype), tokenizer


def calculator(pause: float) -> Callable[[str], str]:
    def add(expression: str) -> str:
        """Adds numbers.

        Args:
            expression: Numbers with + between them.
        """
        time.sleep(pause)
        return str(sum(map(int, re.findall(r"\d{1,9}", expression))))

    return add


def questions(tasks: int, repeats: int) -> Any:
    """Conversations in which two questions are met with a call each, which SmolLM2 then does too; a third is asked.
    With answers in between, it answers."""
    from datasets import Dataset

    shown: list[dict[str, Any]] = []
    for expression in ("12 + 30", "7 + 15"):
        call = {"name": "add", "arguments": {"expression": expression}}
        shown.append({"role": "user", "content": f"How much is {expression}?"})
        shown.append({"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]})
    count = max(tasks * (1 + repeats), 8)
    asked = [f"How much is {20 + number} + {10 + 3 * number}?" for number in range(count)]
    return Dataset.from_list([{"prompt": [*shown, {"role": "user", "content": text}]} for text in asked])


def parity(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    """Something that rollouts differ in."""
    return [float(sum(ids) % 2) for ids in completion_ids]
