"""What slow tools cost: rollouts that each make three calls of one second, one after another.

No rollout can be quicker than its own calls, and all together not quicker than their writing alone. The loop should
take little more than the longer of the two: calls of other rollouts run meanwhile, and rows of the cache that wait
for a tool hold up nobody, which is measured with as many rows as rollouts and with a quarter of them.

Every token goes through the testbed's model. As an untrained one calls no tool, some of its tokens count as the end of
a turn, and the first three turns as calls.

    python benchmarks/tool_latency.py [--rollouts 64] [--calls 3] [--seconds 1.0] [--repeats 3] [--check]

`--check` exits with 1 where the median with as many rows exceeds 1.15 times the longer of the two. Left out on
purpose: `deterministic` runs, which wait for all calls at fixed steps.
"""

import argparse
import statistics
import sys
import time

import torch

from appo.engines.base import Stop
from appo.engines.transformers_engine import TransformersEngine
from appo.environments import kinship
from appo.protocols.base import ParsedCall
from appo.protocols.tags import TagProtocol
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.types import Rollout
from appo.tools.runner import ToolRunner

MOST = 1.15


class CallingProtocol(TagProtocol):
    """Tags whose first turns are calls, whatever they hold."""

    def __init__(self, tokenizer, calls):
        super().__init__(tokenizer, ["wait"], " <result> {} </result> ")
        self.calls, self.result_id = calls, tokenizer.convert_tokens_to_ids("<result>")
        self.stop = Stop(token_ids=frozenset(range(0, 60, 8)))  # about every tenth token of an untrained model

    def parse_calls(self, turn_ids, context_ids):
        if context_ids.count(self.result_id) >= self.calls:
            return []
        return [ParsedCall("wait", "now", 0, len(turn_ids))]


def run(model, tokenizer, rollouts, rows, calls, pause, seed):
    """Seconds that the rollouts take, with a tool that pauses for so many seconds."""

    def wait(query: str) -> str:
        time.sleep(pause)
        return "e1"

    protocol = CallingProtocol(tokenizer, calls)
    engine = TransformersEngine(model, pad_token_id=tokenizer.pad_token_id, eos_token_ids=[], max_rows=rows)
    # A policy that writes "<result>" itself would make fewer calls: it never does.
    forbidden = torch.zeros(model.config.vocab_size)
    forbidden[protocol.result_id] = -torch.inf
    hook = model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + forbidden)
    runner = ToolRunner(max_workers=rollouts)
    loop = AgentLoop(engine, protocol, runner, max_completion_length=500)
    starts = [Start(Rollout(tokenizer("mother boss e1")["input_ids"]), {"wait": wait}) for _ in range(rollouts)]
    begin = time.perf_counter()
    written = loop.run(starts, seed)
    seconds = time.perf_counter() - begin
    hook.remove()
    runner.close()
    made = {len(rollout.tool_calls) for rollout in written}
    if made != {calls}:
        raise RuntimeError(f"rollouts made {made} calls instead of {calls}")
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--calls", type=int, default=3, help="of each rollout")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each call")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, tokenizer = kinship.make_model()
    model.eval()
    chain, missed, lines = options.calls * options.seconds, False, []
    for rows in (options.rollouts, max(options.rollouts // 4, 1)):
        ratios = []
        for repeat in range(-1, options.repeats):  # the first is a warm-up
            sizes = (model, tokenizer, options.rollouts, rows, options.calls)
            alone = run(*sizes, 0.0, repeat + 1)
            if repeat >= 0:
                seconds = run(*sizes, options.seconds, repeat + 1)
                ratios.append(seconds / max(alone, chain))
                print(f"{rows} rows: {seconds:.2f} s; writing alone {alone:.2f} s, calls of one rollout {chain:.2f} s")
        median = statistics.median(ratios)
        missed |= rows == options.rollouts and median > MOST
        lines.append(f"{median:.2f} with {rows} rows (most {max(ratios):.2f})")
    print(f"{options.rollouts} rollouts, times the longer of the two: {', '.join(reversed(lines))}; at most {MOST}")
    if options.check and missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
