"""Speed of the whole agent loop: against plain `model.generate`, and with more rollouts than rows.

First, loop and `generate` write as many policy tokens with the same model, all at once; the loop also stops at calls,
runs the testbed's tool, feeds results and keeps snapshots of the environments. Second, four times as many rollouts as
rows are written, entering as others end, and in batches of `rows`, one after another. Each pair runs in turn, so that
other load on the machine hits both alike, and seconds are of CPU time, of one thread; what counts is the median of the
ratios of pairs.

    python benchmarks/rollout_speed.py --model runs/kinship/cold_start [--rollouts 256] [--rows 16] [--repeats 9]

The model is a trained one, which `appo sft recipes/kinship.yaml` makes. `--check` exits with 1 where the loop has less
than 0.7 of the speed of `generate`, or refilled rows have less than 1.3 times the speed of batches.
"""

import argparse
import gc
import logging
import statistics
import sys
import time

import torch
from transformers import AutoModelForCausalLM

from appo.engines.transformers_engine import TransformersEngine
from appo.environments import kinship
from appo.protocols.tags import TagProtocol
from appo.rollout.environments import EnvironmentPool
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.types import Rollout
from appo.tools.runner import ToolRunner

LEAST_OF_GENERATE = 0.7
LEAST_OF_BATCHES = 1.3


def make_starts(tokenizer, rows, seed):
    """A rollout per row, at its start."""
    pool = EnvironmentPool([], kinship.KinshipEnvironment)
    starts = []
    for number, row in enumerate(rows):
        environment, _ = pool.open(row)
        rollout = Rollout(tokenizer(row["prompt"])["input_ids"], row["prompt"], environment=environment)
        starts.append(Start(rollout, pool.tools_of(environment), seed * len(rows) + number))
    return starts


def run_loop(model, tokenizer, rows, seed, max_rows, size):
    """Policy tokens, tool calls and seconds of rollouts, begun `size` at a time, in at most `max_rows` rows."""
    protocol = TagProtocol(tokenizer, ["search"], " <result> {} </result> ")
    starts = make_starts(tokenizer, rows, seed)
    runner = ToolRunner()
    gc.collect()  # so that nobody pays for what another left
    begin = time.process_time()
    engine = TransformersEngine(
        model,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_ids=[tokenizer.eos_token_id],
        tokenizer=tokenizer,
        max_rows=max_rows,
    )
    loop = AgentLoop(engine, protocol, runner, max_completion_length=128)
    for first in range(0, len(starts), size):
        loop.run(starts[first : first + size], seed)
    seconds = time.process_time() - begin
    runner.close()
    return loop.counters.policy_tokens, sum(tool.calls for tool in loop.counters.tools.values()), seconds


def run_generate(model, tokenizer, rows, tokens):
    """Seconds that `model.generate` takes for `tokens` tokens in the same batch."""
    inputs = tokenizer([row["prompt"] for row in rows], return_tensors="pt", padding=True, padding_side="left")
    length = round(tokens / len(rows))
    gc.collect()
    begin = time.process_time()
    with torch.no_grad():
        model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=length,
            min_new_tokens=length,
            do_sample=True,
            top_k=0,
            pad_token_id=tokenizer.pad_token_id,
        )
    return (time.process_time() - begin) * tokens / (length * len(rows))


def against_generate(model, tokenizer, rows, repeats):
    """Ratios of the loop's speed to that of `generate`."""
    ratios = []
    for repeat in range(-1, repeats):  # the first is a warm-up
        tokens, calls, seconds = run_loop(model, tokenizer, rows, repeat + 1, len(rows), len(rows))
        other = run_generate(model, tokenizer, rows, tokens)
        if repeat >= 0:
            ratios.append(other / seconds)
            print(
                f"{len(rows)} rollouts, {tokens} policy tokens, {calls} tool calls: agent loop "
                f"{tokens / seconds:,.0f} tokens/s, generate {tokens / other:,.0f} tokens/s, ratio {ratios[-1]:.2f}"
            )
    return ratios


def against_batches(model, tokenizer, rows, max_rows, repeats):
    """Ratios of the speed of rows that are refilled to that of batches."""
    ratios = []
    for repeat in range(-1, repeats):
        tokens, _, seconds = run_loop(model, tokenizer, rows, repeat + 1, max_rows, len(rows))
        same, _, other = run_loop(model, tokenizer, rows, repeat + 1, max_rows, max_rows)
        if repeat >= 0:
            ratios.append(tokens / seconds / (same / other))
            print(
                f"{len(rows)} rollouts in {max_rows} rows, {tokens} policy tokens: refilled {tokens / seconds:,.0f} "
                f"tokens/s, in batches {same / other:,.0f} tokens/s, ratio {ratios[-1]:.2f}"
            )
    return ratios


def describe(ratios):
    return f"median {statistics.median(ratios):.2f} (least {min(ratios):.2f}, most {max(ratios):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rollouts", type=int, default=256)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.disable(logging.WARNING)  # of words that the policy makes up
    _, tokenizer = kinship.make_model()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    gc.collect()
    gc.freeze()  # collections do not look at libraries again and again
    some, more = (list(kinship.make_dataset(count, seed=1)) for count in (options.rollouts, 4 * options.rows))
    of_generate = against_generate(model, tokenizer, some, options.repeats)
    of_batches = against_batches(model, tokenizer, more, options.rows, options.repeats)
    print(f"refilled rows to batches: {describe(of_batches)}; at least {LEAST_OF_BATCHES}")
    print(f"agent loop to generate: {describe(of_generate)}; at least {LEAST_OF_GENERATE}")
    missed = statistics.median(of_generate) < LEAST_OF_GENERATE or statistics.median(of_batches) < LEAST_OF_BATCHES
    if options.check and missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
