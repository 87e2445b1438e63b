"""What records cost: a synthetic update of a million tokens as Parquet, and as the JSON lines of before.

    python benchmarks/records_size.py [--tokens 1000000] [--check]

Half of the rollouts are branches, which share the first half of their tokens with their parent. Token ids follow the
law of Zipf over 150,000; three quarters of the tokens were nearly certain, as those of language models are; a fifth
stand in tool results. Both files hold the same: token ids, mask, log-probabilities of two policies, entropies, Omega,
the score of Eq. 5, advantages and their four factors, the numbers in JSON with five digits. Prints bytes per token,
seconds, and how far the process grew at its largest (Linux alone), each written and read in a process of its own; the
last line is the share of the size. Left out on purpose: a run's vocabulary, which is 1 MB however long the run.
"""

import argparse
import gc
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from appo.cli.records import short
from appo.files import append_lines, read_lines
from appo.rollout.record_files import record_files
from appo.rollout.records import RecordWriter, read_records
from appo.rollout.rollout_records import rollout_records
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout, ToolCall

LENGTH, PER_TASK = 2000, 16  # tokens of a rollout; rollouts of a task, half of them branches
MOST = 1 / 5  # of the size of the JSON lines


def update(tokens: int) -> list[dict[str, Any]]:
    """An update's records, of about so many tokens."""
    random, trees = np.random.default_rng(0), []
    for task in range(max(tokens // LENGTH // PER_TASK, 1)):
        row = {"prompt": "Who is the mother of the friend of the boss? " * 8, "answer": str(task)}
        trees.append(RolloutTree(row, str(task)))
        for index in range(PER_TASK):
            rollout = written(random, row["prompt"])
            if index < PER_TASK // 2:
                trees[-1].add_initial(rollout)
                continue
            half, parent = LENGTH // 2, index - PER_TASK // 2
            for name in ("completion_ids", "logprobs"):
                getattr(rollout, name)[:half] = getattr(trees[-1].rollouts[parent], name)[:half]
            trees[-1].add_branch(rollout, parent, half)
    rows = sum(tree.num_initial for tree in trees)
    logps = torch.from_numpy(certain(random, (rows, LENGTH)))
    ratio = torch.randn(rows, LENGTH) * 0.02
    omega = torch.exp(ratio.cumsum(1) * 0.1)
    factors = {
        "base": torch.randn(rows, 1).expand(rows, LENGTH),
        "future_factor": 1 + 0.5 * (omega.clamp(1.0, 1.2) - 1),
        "token_weight": 0.25 + 0.75 * torch.rand(rows, LENGTH),
        "loss_mask": torch.tensor([mask for mask in [trees[0].rollouts[0].policy_mask] for _ in range(rows)]),
    }
    per_token = {
        "behaviour_logprobs": logps,
        "logprobs": logps + ratio * logps,
        "entropies": torch.from_numpy(-certain(random, (rows, LENGTH))),
        "omega": omega,
        "score": torch.randn(rows, LENGTH),
        "advantages": torch.stack([*torch.broadcast_tensors(*factors.values())]).prod(0),
    }
    return rollout_records(trees, per_token, 1, factors=factors)


def certain(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Log-probabilities: for three quarters of the tokens nearly 0."""
    scale = np.where(random.random(shape) < 0.75, 1e-3, 1.0)
    return -(random.exponential(size=shape) * scale).astype(np.float32)


def written(random: np.random.Generator, prompt: str) -> Rollout:
    """A rollout whose fourth fifth is a tool's result."""
    ids = np.minimum(random.zipf(1.3, LENGTH), 150_000).tolist()
    start, end = 3 * LENGTH // 5, 4 * LENGTH // 5
    rollout = Rollout([1], prompt, finish_reason="stop", reward=float(random.integers(2)))
    rollout.append(ids, certain(random, (LENGTH,)).tolist())
    rollout.policy_mask[start:end] = [0] * (end - start)
    rollout.tool_calls = [ToolCall("search", "a query", start - 8, start, "result " * 300, None, start, end)]
    rollout.rewards = {"answer": rollout.reward or 0.0}
    return rollout


def measured(work: Any, *arguments: Any) -> tuple[float, float, Any]:
    """Seconds, MB that the process grew by at its largest, and what the function that `work` prepares returns."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work, *arguments))


def _measured(work: Any, *arguments: Any) -> tuple[float, float, Any]:
    prepared = work(*arguments)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the largest size so far is the present one
    before = largest()
    start = time.perf_counter()
    found = prepared()
    return time.perf_counter() - start, largest() - before, found


def largest() -> float:
    """The largest size of this process so far, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def write_parquet(directory: Path, tokens: int) -> Any:
    records, writer = update(tokens), RecordWriter(directory)
    RecordWriter(directory.with_name("first")).append(1, records[:1])  # the first use imports pandas
    return lambda: writer.append(1, records) and sum(len(record["completion_ids"]) for record in records)


def write_json(path: Path, tokens: int) -> Any:
    records = update(tokens)

    # As before: all of an update's lists, then the lines.
    return lambda: append_lines(path, [short(as_lists(record)) for record in records])


def as_lists(record: dict[str, Any]) -> dict[str, Any]:
    """The record with None in tool results, as JSON lines had it."""
    mask = record["policy_mask"]

    def values(found: Any) -> Any:
        if isinstance(found, np.ndarray):
            return [value if kept else None for value, kept in zip(found.tolist(), mask, strict=True)]
        return {name: values(one) for name, one in found.items()} if isinstance(found, dict) else found

    return {name: values(found) for name, found in record.items()}


def read_parquet(directory: Path) -> Any:
    next(read_records(directory))
    return lambda: sum(1 for _ in read_records(directory))


def read_json(path: Path) -> Any:
    return lambda: sum(1 for _ in read_lines(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--check", action="store_true", help=f"exit with 1 above {MOST:g} of the size")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory, lines = Path(name) / "records", Path(name) / "records.jsonl"
        *parquet, tokens = measured(write_parquet, directory, options.tokens)
        *json_lines, _ = measured(write_json, lines, options.tokens)
        sizes = {"Parquet": sum(path.stat().st_size for path in record_files(directory))}
        sizes["JSON lines"] = lines.stat().st_size
        reading = {"Parquet": measured(read_parquet, directory), "JSON lines": measured(read_json, lines)}
        for kind, (seconds, grown) in {"Parquet": parquet, "JSON lines": json_lines}.items():
            read_seconds, read_grown, _ = reading[kind]
            writing = f"written in {seconds:.1f} s with {grown:.0f} MB more"
            also = f"read in {read_seconds:.1f} s with {read_grown:.0f} MB more"
            print(f"{kind:10} {sizes[kind] / tokens:6.1f} bytes per token; {writing}, {also}")
    share = sizes["Parquet"] / sizes["JSON lines"]
    print(f"{tokens:,} tokens: 1/{1 / share:.1f} of the size")
    if options.check and share > MOST:
        sys.exit(1)


if __name__ == "__main__":
    main()
