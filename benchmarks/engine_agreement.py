"""What has to agree, with the real model: engines with one another, with themselves and with the trainer.

Each line counts what differs, of which there may be nothing, or is the largest difference of log-probabilities in
nats: at most 1e-4 in float32, which only weights of the same update reach. In bfloat16 rounding changes tokens now and
then; there, only Omega and the stop keep their reach.

    python benchmarks/engines.py --rows agreement

Left out on purpose: the same with a tiny model, which `tests/with_vllm` holds.
"""

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from engine_parts import Line, Policy, fresh, prompts, told, write
from transformers import PrinterCallback

from appo import APPOConfig, APPOTrainer
from appo.engines.base import Request, Stop
from appo.rollout.writer import RolloutWriter

CLOSE = 1e-4  # nats
ROLLOUTS, UPDATES = 16, 5  # the weights have changed before all updates but the first
NEEDS_VLLM = "agreement with vLLM | not measured: vLLM is not installed | -"


def agreement(policy: Policy, dtype: torch.dtype) -> Iterator[Line]:
    exact = dtype == torch.float32
    most = 0.0 if exact else None
    if not policy.llm:
        print(NEEDS_VLLM)
    else:
        yield from writing(policy, most)
        yield from stops(policy)
    engine = "vllm" if policy.llm else "transformers"
    if policy.model.device.type == "cuda":
        torch.cuda.empty_cache()  # the trainer makes a vLLM of its own, which looks for free memory
    differences, omegas = train(policy, engine)
    for after, difference in enumerate(differences):
        what = f"engine ({engine}) and trainer, nats, branches' own tokens after {after} updates"
        yield Line(what, [difference], most=CLOSE if exact else None)
    yield Line("Omega's largest distance from 1 before a generation's first update", [omegas], most=0.0)


def writing(policy: Policy, most: float | None) -> Iterator[Line]:
    """Rollouts of both engines, and of one engine in two ways."""
    arriving = write(policy, policy.vllm_engine(), fresh(policy.tokenizer, ROLLOUTS), 0, 0.001).rollouts
    joined = write(
        policy, policy.vllm_engine(), fresh(policy.tokenizer, ROLLOUTS), 0, 0.001, deterministic=True
    ).rollouts
    yield Line("rollouts that differ between arrival and barrier", [differing(arriving, joined)], most=most)
    greedy = {
        "vllm": lambda: policy.vllm_engine(temperature=0.0),
        "transformers": lambda: policy.embedded_engine(ROLLOUTS, top_k=1),
    }
    parents = {name: write(policy, make(), fresh(policy.tokenizer, ROLLOUTS), 0, 0.0) for name, make in greedy.items()}
    calls = sum(len(rollout.tool_calls) for rollout in parents["vllm"].rollouts)
    unlike = differing(parents["vllm"].rollouts, parents["transformers"].rollouts)
    unlike = unlike if calls else float("nan")  # rollouts without calls would show nothing
    yield Line(f"greedy rollouts with {calls} calls that differ between the engines", [unlike], most=most)
    for name, make in greedy.items():
        rollouts, random = parents[name].rollouts, np.random.default_rng(0)
        prefixes = [rollout.prefix(int(random.choice(np.flatnonzero(rollout.policy_mask)))) for rollout in rollouts]
        branches = write(policy, make(), prefixes, 99, 0.0).rollouts
        yield Line(f"greedy branches that are not their parent, {name}", [differing(branches, rollouts)], most=most)


def differing(some: list[Any], others: list[Any]) -> float:
    return float(sum(one != other for one, other in zip(told(some), told(others), strict=True)))


def stops(policy: Policy) -> Iterator[Line]:
    """A turn that begins within a closing tag ends with the token that completes it."""
    tokenizer = policy.tokenizer
    begun = tokenizer("<python>print(12 + 30)</python", add_special_tokens=False)["input_ids"]
    shown = "".join(f"<python>print({n} + {n})</python>\n" for n in range(8))
    context = tokenizer(shown, add_special_tokens=False)["input_ids"] + begun
    for name, engine in {"vllm": policy.vllm_engine(), "transformers": policy.embedded_engine(32)}.items():
        for seed in range(32):
            engine.start(Request(seed, context, 8, seed, Stop(strings=("</python>",)), turn_tokens=len(begun)))
        turns = []
        while engine.busy:
            turns += engine.step()
        engine.abandon()
        closed = [turn for turn in turns if tokenizer.decode(turn.token_ids).startswith(">")]
        missed = sum(turn.reason != "stop" or len(turn.token_ids) > 1 for turn in closed)
        what = f"closing tags that began in the prefix and were overlooked, of {len(closed)}, {name}"
        yield Line(what, [float(missed) if closed else float("nan")], most=0.0)


def train(policy: Policy, engine: str) -> tuple[list[float], float]:
    """Largest difference between engine and trainer for the branches of each update, and Omega's from 1."""
    differences: list[float] = []
    original = RolloutWriter.branch

    def branch(self: Any, trees: Any, points: Any, *args: Any, **kwargs: Any) -> None:
        original(self, trees, points, *args, **kwargs)
        branches = [branch for tree in trees for branch in tree.branches]
        batch, scores = self.score(branches)
        own_BT = batch.policy_mask_BT.bool()
        for row, rollout in enumerate(branches):
            own_BT[row, : rollout.branch_position] = False
        differences.append((scores.logps_BT - batch.engine_logps_BT).abs()[own_BT].max().item())

    RolloutWriter.branch = branch  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as directory:
            trainer = make_trainer(policy, engine, directory)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
    finally:
        RolloutWriter.branch = original  # type: ignore[method-assign]
    logs = [entry for entry in trainer.state.log_history if "omega/mean" in entry][::2]
    return differences, max(max(abs(entry["omega/mean"] - 1), entry["omega/std"]) for entry in logs)


def make_trainer(policy: Policy, engine: str, directory: str) -> APPOTrainer:
    """Two updates per generation, each of a task with 4 rollouts and as many branches."""

    def parity(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        return [float(sum(ids) % 2) for ids in completion_ids]

    device = policy.model.device.type
    args = APPOConfig(
        directory, num_generations=8, method_args={"num_initial_rollouts": 4, "num_branch_points": 1},
        per_device_train_batch_size=8, steps_per_generation=2, max_steps=UPDATES, max_completion_length=32,
        learning_rate=1e-4, tool_protocol="tags", use_vllm=engine == "vllm", vllm_max_model_length=512,
        vllm_gpu_memory_utilization=0.2, rollout_batch_size=8, logging_steps=1, save_strategy="no",
        save_records=False, bf16=False, use_cpu=device == "cpu", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    texts = [policy.tokenizer.decode(ids) for ids in prompts(policy.tokenizer, 8)]
    rows = Dataset.from_list([{"prompt": text} for text in texts * 2])
    return APPOTrainer(policy.model, parity, args, rows, processing_class=policy.tokenizer)
