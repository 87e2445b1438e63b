"""Kills `appo train` at random moments, runs it again, and compares what comes out with a run that was left alone.

Every moment counts: cold start, evaluations, writing, branching, updates, checkpoints, the last files. A generation
spans four updates and a checkpoint is written after every second, so that runs go on from inside generations.

    python benchmarks/kill_resume.py [--kills 20] [--seed 0] [--check]

The last line has the largest differences; `--check` exits with 1 where one is not 0.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from appo.rollout.records import read_records

RECIPE = """
task: kinship
demonstrations: 400
cold_start: {max_steps: 20, per_device_train_batch_size: 8, learning_rate: 1.0e-3, save_strategy: "no"}
num_generations: 8
method_args: {num_initial_rollouts: 4, num_branch_points: 1}
per_device_train_batch_size: 32
steps_per_generation: 4
max_steps: 16
save_steps: 2
learning_rate: 1.0e-3
max_completion_length: 48
deterministic: true
tool_protocol: tags
result_format: " <result> {} </result> "
eval_size: 200
train_size: 64
bf16: false
use_cpu: true
report_to: none
logging_steps: 1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many runs are killed once each (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--check", action="store_true", help="exit with 1 where anything differs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "recipe.yaml").write_text(RECIPE)
        first, seconds = run(directory, directory / "whole")
        print(f"left alone: {seconds:.1f} s, the first {first:.1f} s of them before anything happens")
        # The second run shows that nothing but the kill can make a difference.
        run(directory, directory / "again")
        print(f"run twice: {differences(directory / 'whole', directory / 'again')}")
        worst = {"weights": 0.0, "records": 0.0, "results": 0.0}
        moments = random.Random(options.seed)
        for number in range(1, options.kills + 1):
            moment = moments.uniform(0, seconds - first)
            out = directory / f"killed-{number}"
            there = kill(directory, out, moment)
            run(directory, out)
            found = differences(directory / "whole", out)
            worst = {key: max(worst[key], found[key]) for key in worst}
            print(f"kill {number} {moment:.1f} s after the first line ({there}): {found}", flush=True)
    print(f"{options.kills} kills, largest differences: {worst}")
    if options.check and any(worst.values()):
        sys.exit(1)


def command(directory: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "appo", "train", str(directory / "recipe.yaml"), "--output_dir", str(out)]


def run(directory: Path, out: Path) -> tuple[float, float]:
    """Runs to the end; seconds until the first line, and in all."""
    start = time.perf_counter()
    process = subprocess.Popen(command(directory, out), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    first = time.perf_counter() - start
    process.stdout.read()
    if process.wait():
        raise SystemExit(f"{command(directory, out)} ended with {process.returncode}")
    return first, time.perf_counter() - start


def kill(directory: Path, out: Path, moment: float) -> str:
    """Starts a run and kills it so many seconds after its first line; what was there then."""
    process = subprocess.Popen(command(directory, out), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return ", ".join(sorted(path.name for path in out.iterdir()))


def differences(whole: Path, other: Path) -> dict[str, float]:
    """Largest differences of final weights, of all numbers in the records, and of the result's."""
    old, new = (load_file(path / "model" / "model.safetensors") for path in (whole, other))
    weights = max((old[name] - new[name]).abs().max().item() for name in old)
    records = largest(*(list(read_records(path)) for path in (whole, other)))
    parts = ("before", "after")
    results = largest(*({p: json.loads((d / "result.json").read_text())[p] for p in parts} for d in (whole, other)))
    return {"weights": weights, "records": records, "results": results}


def largest(a: Any, b: Any) -> float:
    """The largest difference of two JSON values' numbers; infinity where they differ in anything else."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return max((largest(a[key], b[key]) for key in a), default=0.0)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return max(map(largest, a, b), default=0.0)
    if isinstance(a, float) and isinstance(b, float):
        return 0.0 if a != a and b != b else abs(a - b)  # NaN: a reward function that did not apply
    return 0.0 if a == b else float("inf")


if __name__ == "__main__":
    main()
