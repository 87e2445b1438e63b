"""What the parts of `engines.py` share: the policy, rollouts whose turns end by data, and the lines of the table.

An untaught model calls no tool, so about every thirtieth token of the vocabulary ends a turn, and the first three
turns count as calls, whatever they hold. How long a call takes follows from its turn's tokens, so that the same
rollout meets the same tools whichever way it is written.

Left out on purpose: what is measured (`engines.py`, `engine_agreement.py`, `engine_updates.py`, `engine_scoring.py`).
"""

import random
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from appo.engines.base import Request, Stop
from appo.engines.transformers_engine import TransformersEngine
from appo.errors import UserError
from appo.models.smollm2 import make_model
from appo.protocols.calls import ParsedCall
from appo.protocols.tags import TagProtocol
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.types import Rollout
from appo.tools.runner import ToolRunner

CALLS, EVERY = 3, 30  # calls of each rollout; every how many-th token ends a turn
LEAST_STEPS, MOST_STEPS = 10, 45  # decode steps that a call takes
COMPLETION, CONTEXT = 512, 1024  # tokens
MARK = "<empty_output>"  # a word of SmolLM2's that it does not write by itself: each result begins with it
RESULT = f"{MARK}\nThe mother of Alice is Carol and the father of Alice is Bob; they live in Ulm.\n"
NAMES = ["Alice", "Bob", "Carol", "Dave", "Erin", "Frank", "Grace", "Heidi"]
SYSTEM = "You answer questions about a family. Think first, then call a tool, then answer. " * 3


@dataclass
class Line:
    """A line of the table.

    Args:
        what: What was measured.
        values: One per repeat.
        least, most: The reach of the median, from below or from above.
        unit: "", "%", "MiB", "s" ...
    """

    what: str
    values: list[float]
    least: float | None = None
    most: float | None = None
    unit: str = ""

    @property
    def missed(self) -> bool:
        median = statistics.median(self.values)  # none where it is NaN: that misses too
        return not ((self.least is None or median >= self.least) and (self.most is None or median <= self.most))

    def __str__(self) -> str:
        def shown(value: float) -> str:
            return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"

        reach = f">= {self.least:g}" if self.least is not None else ""
        reach = f"<= {self.most:g}" if self.most is not None else reach
        three = [shown(f(self.values)) for f in (statistics.median, min, max)]
        measured = f"{three[0]} ({three[1]}, {three[2]})"
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.what} | {measured}{unit} | {reach or '-'}{unit if reach else ''}{'  MISSED' * self.missed}"


@dataclass
class Policy:
    """SmolLM2, and the same in vLLM where that is installed (`llm`, else None)."""

    model: Any
    tokenizer: Any
    llm: Any

    def vllm_engine(self, keep: bool = False, **options: Any) -> Any:
        """An engine on `llm`, with an empty cache, or else with weights and cache as they are."""
        from appo.engines.vllm import VLLMEngine

        engine = VLLMEngine(self.llm, eos_token_ids=[], tokenizer=self.tokenizer, **options)
        if not keep:
            engine.load(self.model.named_parameters())
        return engine

    def embedded_engine(self, rows: int, **options: Any) -> TransformersEngine:
        pad = self.tokenizer.pad_token_id
        return TransformersEngine(
            self.model, pad_token_id=pad, eos_token_ids=[], tokenizer=self.tokenizer, max_rows=rows, **options
        )


def make_policy(rows: int, device: str, dtype: torch.dtype) -> Policy:
    """The model, and a vLLM for so many rows at half of a GPU's memory."""
    from appo.engines.vllm import make_llm

    model, tokenizer = make_model()
    model = model.to(device, dtype).eval()
    try:
        llm = make_llm(model.config, dtype, rows=rows, context_length=CONTEXT, memory_utilization=0.5)
    except UserError as error:
        print(f"without vLLM: {error}")
        llm = None
    return Policy(model, tokenizer, llm)


class CallingProtocol(TagProtocol):
    """Tags whose first turns are calls, whatever they hold; a call's argument is a number in [0, 1)."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, ["wait"], RESULT + "{}")
        self.mark = tokenizer.convert_tokens_to_ids(MARK)
        self.stop = Stop(token_ids=frozenset(range(0, len(tokenizer), EVERY)) - {self.mark})

    def should_stop(self, turn_ids: list[int]) -> bool:
        return turn_ids[-1] in self.stop.token_ids

    def parse_calls(self, turn_ids: list[int], context_ids: list[int]) -> list[ParsedCall]:
        if context_ids.count(self.mark) >= CALLS:
            return []
        return [ParsedCall("wait", str(random.Random(repr(turn_ids)).random()), 0, len(turn_ids))]


@dataclass
class Written:
    """What one run of the loop came to.

    Args:
        rollouts: As they were written.
        tokens: That the policy wrote.
        seconds: Wall time.
        own: Seconds of the main thread's processor outside of the engine's steps.
        hits: Share in percent of what was read, of starts and of continuations, that was in vLLM's cache.
        engine: That wrote.
    """

    rollouts: list[Rollout]
    tokens: int
    seconds: float
    own: float
    hits: tuple[float, float]
    engine: Any = field(repr=False)

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


def prompts(tokenizer: Any, count: int) -> list[list[int]]:
    """Token ids of questions about eight people, which begin alike."""

    def ids(name: str) -> list[int]:
        question = {"role": "user", "content": f"Who is the grandmother of {name}?"}
        messages = [{"role": "system", "content": SYSTEM}, question]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    known = [ids(name) for name in NAMES]
    return [known[index % len(known)] for index in range(count)]


def fresh(tokenizer: Any, count: int) -> list[Rollout]:
    return [Rollout(list(ids)) for ids in prompts(tokenizer, count)]


def write(policy: Policy, engine: Any, prefixes: list[Rollout], seed: int, step: float, **options: Any) -> Written:
    """Writes rollouts on from these; a call takes 10 to 45 times `step` seconds."""

    def wait(query: str) -> str:
        time.sleep(step * (LEAST_STEPS + (MOST_STEPS - LEAST_STEPS) * float(query)))
        return ""

    inside = 0.0
    plain_step = engine.step

    def timed_step() -> Any:
        nonlocal inside
        begin = time.thread_time()
        turns = plain_step()
        inside += time.thread_time() - begin
        return turns

    engine.step = timed_step
    runner = ToolRunner(max_workers=len(prefixes), timeout=600.0)
    loop = AgentLoop(
        engine, CallingProtocol(policy.tokenizer), runner,
        max_completion_length=COMPLETION, context_length=CONTEXT, keep_snapshots=False, **options,
    )  # fmt: skip
    starts = [Start(prefix, {"wait": wait}) for prefix in prefixes]
    begin, cpu = time.perf_counter(), time.thread_time()
    rollouts = loop.run(starts, seed)
    own, seconds = time.thread_time() - cpu - inside, time.perf_counter() - begin
    runner.close()
    engine.step = plain_step
    reads = [getattr(engine, name, None) for name in ("starts", "continuations")]
    hits = tuple(100 * read.cached / read.tokens if read and read.tokens else float("nan") for read in reads)
    return Written(rollouts, loop.counters.policy_tokens, seconds, own, hits, engine)


def raw(policy: Policy, count: int, tokens: int, seed: int) -> float:
    """Tokens per second of vLLM's own `generate`, for as many tokens in all."""
    from vllm import SamplingParams

    length = max(round(tokens / count), 1)
    policy.llm.reset_prefix_cache()
    params = [
        SamplingParams(max_tokens=length, seed=seed * count + row, logprobs=0, detokenize=False, ignore_eos=True)
        for row in range(count)
    ]
    asked = [{"prompt_token_ids": ids} for ids in prompts(policy.tokenizer, count)]
    begin = time.perf_counter()
    outputs = policy.llm.generate(asked, params, use_tqdm=False)
    seconds = time.perf_counter() - begin
    return sum(len(output.outputs[0].token_ids) for output in outputs) / seconds


def decode_step(policy: Policy, count: int) -> float:
    """Seconds of a step in which so many rollouts get a token: of vLLM, where it is there."""
    engine = policy.vllm_engine() if policy.llm else policy.embedded_engine(count)
    for index, ids in enumerate(prompts(policy.tokenizer, count)):
        engine.start(Request(index, ids, 24, index))
    seconds = []
    while engine.busy:
        begin = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - begin)
    engine.abandon()
    return statistics.median(seconds)


def told(rollouts: list[Rollout]) -> list[tuple[Any, ...]]:
    """What can be compared of rollouts."""
    return [(r.completion_ids, r.policy_mask, r.finish_reason, len(r.tool_calls)) for r in rollouts]
