"""What engines are worth, as ratios within one run: SmolLM2-135M in float32 on a CPU, one thread.

    OMP_NUM_THREADS=1 python benchmarks/engines.py [--check] [--rollouts 32 48] [--repeats 3] [--rows NAMES]

Prints `what | median (least, most) of the repeats | reach`, and below it what has to agree. `--check` exits with 1
where a median misses its reach or something disagrees. Rows by name:

    arrival    rollouts that go on when their own tools are done, against a barrier at every fourth step
    engines    vLLM against transformers
    raw        the loop against vLLM's `generate` of as many tokens, with tools that take time and with quick ones
    own        processor time of the loop's own Python
    cache      prefix-cache hits of later turns, and of branches
    update     an update of APPO against one of TRL's GRPO with as many rollouts per task (`engine_updates.py`)
    scoring    memory of scoring with a large vocabulary (`engine_scoring.py`)
    agreement  engines, ways of writing and the trainer, against one another (`engine_agreement.py`)

A call takes 10 to 45 decode steps, drawn from its turn's tokens; the step is measured first, and every engine meets
the same seconds. Needs vLLM and the weights of SmolLM2; without vLLM, rows that need it are named and left out.

`--device cuda --dtype bfloat16` is for a GPU (`gpu.sh`). There, rounding changes tokens, so that of what has to agree
only what is exact keeps its reach. Left out on purpose: the server, whose time is the network's too.
"""

import argparse
import gc
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import transformers
from engine_agreement import agreement
from engine_parts import Line, Policy, Written, decode_step, fresh, make_policy, raw, write
from engine_scoring import scoring
from engine_updates import updates

BRANCHES = 3  # of each rollout
Runs = dict[str, list[Any]]  # by kind, one per repeat


# ---- what is run ----


def run_vllm(policy: Policy, count: int, seed: int, step: float, **options: Any) -> Written:
    return write(policy, policy.vllm_engine(), fresh(policy.tokenizer, count), seed, step, **options)


def run_embedded(policy: Policy, count: int, seed: int, step: float, **options: Any) -> Written:
    return write(policy, policy.embedded_engine(count), fresh(policy.tokenizer, count), seed, step, **options)


def run_branches(policy: Policy, parents: Written, seed: int, keep: bool) -> float:
    """Share of the branches' prefixes that was in the cache, in percent; tools answer at once."""
    engine = policy.vllm_engine(keep=keep)
    random, prefixes = np.random.default_rng(seed), []
    for parent in parents.rollouts:
        own = np.flatnonzero(parent.policy_mask)
        prefixes += [parent.prefix(int(place)) for place in random.choice(own, min(BRANCHES, len(own)), replace=False)]
    return write(policy, engine, prefixes, seed, 0.0).hits[0]


def run_all(policy: Policy, count: int, repeats: int, step: float, kinds: set[str]) -> Runs:
    """Each kind once per repeat, one after the other, so that a slower machine slows them all. The first is a
    warm-up of a few rollouts."""
    runs: Runs = {}
    for repeat in range(-1, repeats):
        size, seed = (min(count, 4), 0) if repeat < 0 else (count, repeat + 1)
        one: dict[str, Any] = {}
        for kind, run in KINDS.items():
            if kind in kinds:
                one[kind] = run(policy, size, seed, 0.0 if repeat < 0 else step, one)
        if repeat >= 0:
            for kind, result in one.items():
                runs.setdefault(kind, []).append(result)
                if isinstance(result, Written):
                    calls = sum(len(rollout.tool_calls) for rollout in result.rollouts)
                    print(f"  {kind}: {result.tokens} tokens, {calls} calls, {result.seconds:.1f} s", file=sys.stderr)
    return runs


# In the order in which they run: branches find in the cache what the rollouts before them left there.
KINDS: dict[str, Callable[..., Any]] = {
    "vllm barrier": lambda policy, n, seed, step, _: run_vllm(policy, n, seed, step, deterministic=True),
    "vllm arrival": lambda policy, n, seed, step, _: run_vllm(policy, n, seed, step),
    "kept": lambda policy, n, seed, step, one: run_branches(policy, one["vllm arrival"], seed, keep=True),
    "reset": lambda policy, n, seed, step, one: run_branches(policy, one["vllm arrival"], seed, keep=False),
    "vllm quick": lambda policy, n, seed, step, _: run_vllm(policy, n, seed, 0.0),
    "raw": lambda policy, n, seed, step, one: raw(policy, n, one["vllm quick"].tokens, seed),
    "transformers barrier": lambda policy, n, seed, step, _: run_embedded(policy, n, seed, step, deterministic=True),
    "transformers arrival": lambda policy, n, seed, step, _: run_embedded(policy, n, seed, step),
}


# ---- rows ----


def ratios(upper: list[Written], lower: list[Written]) -> list[float]:
    return [one.speed / other.speed for one, other in zip(upper, lower, strict=True)]


def arrival(runs: Runs, count: int) -> Iterator[Line]:
    for engine, least in (("vllm", 4.0), ("transformers", 2.5)):
        if f"{engine} arrival" in runs:
            values = ratios(runs[f"{engine} arrival"], runs[f"{engine} barrier"])
            yield Line(f"arrival against barrier, {engine}, {count} rollouts", values, least=least)


def engines(runs: Runs, count: int) -> Iterator[Line]:
    values = ratios(runs["vllm arrival"], runs["transformers arrival"])
    yield Line(f"vLLM against transformers, both with arrival, {count} rollouts", values, least=1.7)


def against_raw(runs: Runs, count: int) -> Iterator[Line]:
    for kind, tools, least in (("vllm arrival", "of 10-45 steps", 0.55), ("vllm quick", "that answer at once", 0.65)):
        values = [written.speed / speed for written, speed in zip(runs[kind], runs["raw"], strict=True)]
        yield Line(f"against raw vLLM of as many tokens, tools {tools}, {count} rollouts", values, least=least)


def own(runs: Runs, count: int) -> Iterator[Line]:
    for kind, tools in (("vllm arrival", "of 10-45 steps"), ("vllm quick", "that answer at once")):
        values = [100 * written.own / written.seconds for written in runs[kind]]
        yield Line(f"own Python time of the loop, tools {tools}, {count} rollouts", values, most=1.0, unit="%")


def cache(runs: Runs, count: int) -> Iterator[Line]:
    values = [written.hits[1] for written in runs["vllm arrival"]]
    yield Line(f"prefix-cache hits, continuations, {count} rollouts", values, least=75, unit="%")
    yield Line(f"prefix-cache hits, branches, cache kept, {count} rollouts", runs["kept"], least=85, unit="%")
    yield Line(f"prefix-cache hits, branches, after a reset, {count} rollouts", runs["reset"], least=60, unit="%")


# Row: the function, and the kinds of runs that it reads.
BY_RUNS: dict[str, tuple[Callable[[Runs, int], Iterator[Line]], list[str]]] = {
    "arrival": (arrival, ["vllm arrival", "vllm barrier", "transformers arrival", "transformers barrier"]),
    "engines": (engines, ["vllm arrival", "transformers arrival"]),
    "raw": (against_raw, ["vllm arrival", "vllm quick", "raw"]),
    "own": (own, ["vllm arrival", "vllm quick"]),
    "cache": (cache, ["vllm arrival", "kept", "reset"]),
}
ROWS = [*BY_RUNS, "update", "scoring", "agreement"]


def of_runs(options: argparse.Namespace, rows: list[str], policy: Policy) -> Iterator[Line]:
    """The rows that are read from runs, for each number of rollouts."""
    names = [row for row in rows if row in BY_RUNS]
    kinds = {kind for row in names for kind in BY_RUNS[row][1]}
    if not policy.llm:
        kinds = {kind for kind in kinds if kind.startswith("transformers")}
    for count in options.rollouts if names else []:
        step = decode_step(policy, count)
        print(f"{count} rollouts: a decode step takes {1000 * step:.1f} ms", file=sys.stderr)
        runs = run_all(policy, count, options.repeats, step, kinds)
        for row in names:
            if row != "arrival" and not policy.llm:
                print(f"{row} | not measured: vLLM is not installed | -")
                continue
            yield from BY_RUNS[row][0](runs, count)


def measure(options: argparse.Namespace) -> Iterator[Line]:
    """All rows that were asked for; those with processes of their own first, while this one is small."""
    dtype = getattr(torch, options.dtype)
    if "scoring" in options.rows:
        yield from scoring(options.device, dtype)
    if "update" in options.rows:
        yield from updates(options.tasks, options.group, options.repeats, options.device, dtype)
    if not {*BY_RUNS, "agreement"}.intersection(options.rows):
        return
    policy = make_policy(max(options.rollouts), options.device, dtype)
    gc.collect()
    gc.freeze()  # collections do not look at libraries again and again
    yield from of_runs(options, options.rows, policy)
    if "agreement" in options.rows:
        yield from agreement(policy, dtype)
    if options.device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
        yield Line("peak of torch.cuda.max_memory_allocated, engines and policy", [peak], unit="MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--rollouts", type=int, nargs="+", default=[32, 48])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="NAME")
    parser.add_argument("--tasks", type=int, default=1, help="of an update")
    parser.add_argument("--group", type=int, default=16, help="rollouts of each task of an update; a multiple of 4")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # of words that the policy makes up
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    print("what | median (least, most) | reach", flush=True)
    missed = False
    for line in measure(options):
        missed |= line.missed
        print(line, flush=True)
    if options.check and missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
