"""The dry run's memory formula against the peak of a real training step, on the CPU.

    python benchmarks/memory.py [ROWS] [TOKENS] [--check]

Prints, with and without gradient checkpointing, the weights and what the process grew by from there to the peak of two
steps (loss with all logits, backward, AdamW) of SmolLM2-135M in float32, and what `appo.cli.memory` says. Needs the
weights of the recipe smollm2-arithmetic. `--check` exits with 1 where the formula is not 0.95 to 1.15 times what
was measured. Left out on purpose: GPUs (`torch.cuda.max_memory_allocated` tells).
"""

import argparse
import multiprocessing
import resource
import sys

import torch

from appo.cli.memory import GB, Memory, Sizes, estimate
from appo.models.smollm2 import make_model

LEAST, MOST = 0.95, 1.15


def peak_growth(rows: int, tokens: int, checkpointing: bool) -> tuple[float, Memory]:
    """Bytes of growth and the estimate; to be called in a fresh process, as a peak never falls."""
    model, _ = make_model()
    loading = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * resource.getpagesize()
    count = model.num_parameters()
    weights = 4 * count
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(0, model.config.vocab_size, (rows, tokens))
    for _ in range(2):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak <= loading:
        raise RuntimeError("loading the model took more memory than the steps; give more rows or tokens.")
    expected = estimate(
        Sizes.of(model.config, count, count, 4),
        rows=rows, tokens=tokens, bytes_per_number=4, checkpointing=checkpointing, with_logits=True,
    )  # fmt: skip
    return peak - resident + weights, expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="?", default=4)
    parser.add_argument("tokens", type=int, nargs="?", default=256)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    ratios = []
    for checkpointing in (False, True):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            grown, expected = pool.apply(peak_growth, (options.rows, options.tokens, checkpointing))
        ratios.append(expected.training() / grown)
        print(
            f"{options.rows} x {options.tokens} tokens, gradient checkpointing {checkpointing}: measured "
            f"{grown / GB:.2f} GB, formula {expected.training() / GB:.2f} GB"
        )
    print(f"the formula to what was measured: {ratios[0]:.2f} and {ratios[1]:.2f}; between {LEAST} and {MOST}")
    if options.check and not all(LEAST <= ratio <= MOST for ratio in ratios):
        sys.exit(1)


if __name__ == "__main__":
    main()
