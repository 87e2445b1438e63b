"""Speed of the whole agent loop against plain `model.generate`, in one run.

Both write the same number of policy tokens with the same model and batch size; the loop also stops at calls, runs the
testbed's tool, feeds results and keeps snapshots of the environments.

    python benchmarks/rollout_speed.py [--rollouts 64] [--model runs/kinship/cold_start] [--repeats 5]

With `--model` rollouts are real ones of a trained model; without it an untrained one writes to the token limit.
"""

import argparse
import statistics
import time

import torch
from transformers import AutoModelForCausalLM

from appo.engines.transformers_engine import TransformersEngine
from appo.environments import kinship
from appo.protocols.base import TagProtocol
from appo.rollout.environments import EnvironmentPool
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.types import Rollout
from appo.tools.runner import ToolRunner


def run_loop(model, tokenizer, rows, seed):
    """Policy tokens written, tool calls made, and seconds."""
    pool = EnvironmentPool([], kinship.KinshipEnvironment)
    protocol = TagProtocol(tokenizer, ["search"], " <result> {} </result> ")
    starts = []
    for row in rows:
        environment, _ = pool.open(row)
        rollout = Rollout(tokenizer(row["prompt"])["input_ids"], row["prompt"], environment=environment)
        starts.append(Start(rollout, pool.tools_of(environment)))
    begin = time.perf_counter()
    engine = TransformersEngine(
        model,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_ids=[tokenizer.eos_token_id],
        stop_candidates=protocol.stop_candidates,
        max_rows=len(rows),
    )
    loop = AgentLoop(engine, protocol, ToolRunner(), max_completion_length=128, join_every=1)
    loop.run(starts, seed)
    seconds = time.perf_counter() - begin
    return loop.counters.policy_tokens, sum(tool.calls for tool in loop.counters.tools.values()), seconds


def run_generate(model, tokenizer, rows, tokens):
    """Seconds that `model.generate` takes for `tokens` tokens in the same batch."""
    inputs = tokenizer([row["prompt"] for row in rows], return_tensors="pt", padding=True, padding_side="left")
    length = round(tokens / len(rows))
    begin = time.perf_counter()
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
    return (time.perf_counter() - begin) * tokens / (length * len(rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--model")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    if options.model:
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    model.eval()
    rows = list(kinship.make_dataset(options.rollouts, seed=1))
    ratios = []
    for repeat in range(-1, options.repeats):  # the first is a warm-up
        tokens, calls, loop_seconds = run_loop(model, tokenizer, rows, seed=repeat + 1)
        generate_seconds = run_generate(model, tokenizer, rows, tokens)
        if repeat >= 0:
            ratios.append(generate_seconds / loop_seconds)
            print(
                f"{options.rollouts} rollouts, {tokens} policy tokens, {calls} tool calls: agent loop "
                f"{tokens / loop_seconds:,.0f} tokens/s, generate {tokens / generate_seconds:,.0f} tokens/s, "
                f"ratio {ratios[-1]:.2f}"
            )
    print(f"median ratio {statistics.median(ratios):.2f} (least {min(ratios):.2f}, most {max(ratios):.2f})")


if __name__ == "__main__":
    main()
