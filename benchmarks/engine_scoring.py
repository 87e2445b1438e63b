"""What scoring takes with a large vocabulary: 2,048 tokens of a small Llama with Qwen's 151,936 words.

Each figure is that of a fresh process, and of the package's own path (`SeamTrainer`, TRL's fused head): what the
process grew by over its size before the forward, at its peak; with backward that is the gradients too. A matrix of all
logits would take 1,187 MiB in float32, and its backward as much again.

    python benchmarks/engines.py --rows scoring

Left out on purpose: hidden states of a real depth, which are the model's and not the vocabulary's.
"""

import multiprocessing
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from engine_parts import Line

ROWS, PROMPT, TOKENS, WORDS = 4, 64, 512, 151_936
MOST = {False: 250, True: 600}  # MiB, by whether there is a backward


def scoring(device: str, dtype: torch.dtype) -> Iterator[Line]:
    for backward, name in ((False, "forward"), (True, "with backward")):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak = pool.apply(scoring_peak, (device, dtype, backward))
        what = f"scoring peak, {ROWS * TOKENS:,} tokens x {WORDS:,} words, {name}"
        yield Line(what, [peak], most=MOST[backward] if dtype == torch.float32 else None, unit="MiB")


def scoring_peak(device: str, dtype: torch.dtype, backward: bool) -> float:
    """MiB over the start; for a process of its own."""
    from appo.rollout.scoring import RolloutBatch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        trainer = make_trainer(directory, device, dtype)
        ids = torch.randint(0, WORDS, (ROWS, PROMPT + TOKENS), device=device)
        ones = torch.ones_like(ids)
        batch = RolloutBatch(
            ids[:, :PROMPT], ones[:, :PROMPT], ids[:, PROMPT:], ones[:, PROMPT:], ones[:, PROMPT:],
            torch.zeros(ROWS, TOKENS, device=device),
        )  # fmt: skip
        start = begin_peak(device)
        if backward:
            logps_BT, _ = trainer._logps(trainer.model, batch, compute_entropy=True)
            (-logps_BT.mean()).backward()
        else:
            trainer.score_tokens(batch)
        return (peak(device) - start) / 2**20


def make_trainer(directory: str, device: str, dtype: torch.dtype):
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM

    from appo import APPOConfig
    from appo.environments import kinship
    from appo.trl_seam import SeamTrainer

    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=8192, tie_word_embeddings=True, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    args = APPOConfig(
        directory, per_device_train_batch_size=16, gradient_checkpointing=False, bf16=False, report_to="none",
        use_cpu=device == "cpu", disable_tqdm=True,
    )  # fmt: skip
    trainer = SeamTrainer(
        LlamaForCausalLM(config).to(dtype), lambda completions, **_: [0.0] * len(completions), args,
        Dataset.from_list([{"prompt": "mother e1"}] * 16), processing_class=kinship.make_tokenizer(),
    )  # fmt: skip
    trainer.model.to(device)
    return trainer


def begin_peak(device: str) -> int:
    """Bytes that are held now; the peak is counted from here."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak so far
    return status_bytes("VmRSS")


def peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else status_bytes("VmHWM")


def status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
