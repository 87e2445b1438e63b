"""Writes the samples that are missing, many at once.

A few batches are begun together, and each sample enters as another ends. Which ones does not depend on which are
there already: a part that a kill interrupted is written again as a whole, and what is there is not written down twice.
So a run that goes on computes the same numbers as one that was never interrupted; where tools are called, to the
rounding of sums, as their speed decides which samples are written beside each other (`rollout/loop.py`).

Left out on purpose: samples in the order of questions; each is written down when it ends.
"""

from collections.abc import Sequence
from typing import Any

from appo.engines.opening import open_engine
from appo.evaluation.eval_config import EvalConfig
from appo.evaluation.meter import Meter
from appo.evaluation.policy import Policy
from appo.evaluation.samples import Job, SampleFile
from appo.evaluation.scores import score_row
from appo.rewards import completion_text
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.types import Rollout
from appo.tools.runner import ToolRunner

AT_ONCE = 4  # batches that are begun together; more would leave fewer rows idle at the end, and lose more to a kill


def write_samples(config: EvalConfig, policy: Policy, jobs: Sequence[Job], file: SampleFile, meter: Meter) -> None:
    """Adds to the file every sample of `jobs` that it lacks, each as it ends."""
    chars = {} if config.max_tool_result_chars is None else {"max_result_chars": config.max_tool_result_chars}
    runner = ToolRunner(timeout=config.tool_timeout, **chars)
    loop = _make_loop(config, policy, runner)
    size = AT_ONCE * config.batch_size
    for first in range(0, len(jobs), size):
        part = jobs[first : first + size]
        if all(job.key in file.found for job in part):
            continue
        starts = []
        for job in part:
            text, prompt_ids = policy.prompt(job.row.question)
            starts.append(Start(Rollout(prompt_ids, text), policy.tools, job.seed(config.seed)))

        def on_end(index: int, part: Sequence[Job] = part, starts: list[Start] = starts) -> None:
            if part[index].key not in file.found:
                record = _record(part[index], starts[index], policy)
                file.add(record)
                meter.advance(record["tokens"])

        loop.run(starts, config.seed, on_end)
    runner.close()


def _make_loop(config: EvalConfig, policy: Policy, runner: ToolRunner) -> AgentLoop:
    engine = open_engine(config, policy.model, policy.tokenizer, policy.eos_token_ids, config.batch_size)
    if config.engine == "vllm":
        engine.load(policy.model.named_parameters())
    bounds = [bound for bound in (policy.context_length, engine.context_length) if bound is not None]
    return AgentLoop(
        engine,
        policy.protocol,
        runner,
        max_completion_length=config.max_completion_length,
        max_tool_calling_iterations=config.max_tool_calling_iterations,
        context_length=min(bounds, default=None),
        max_tool_calls=config.max_tool_calls,
        keep_snapshots=False,
    )


def _record(job: Job, start: Start, policy: Policy) -> dict[str, Any]:
    """A sample as it is written down; times are left out, so that two runs with one seed write the same."""
    rollout = start.rollout
    text = completion_text(policy.protocol.completion(rollout, conversational=True))
    return {
        "benchmark": job.benchmark,
        "id": job.row.id,
        "sample": job.sample,
        "seed": start.seed,
        "question": job.row.question,
        "answers": job.row.answers,
        "prompt": rollout.prompt,
        "completion": text,
        "completion_ids": rollout.completion_ids,
        "policy_mask": rollout.policy_mask,
        "tool_calls": [
            {name: value for name, value in vars(call).items() if name != "seconds"} for call in rollout.tool_calls
        ],
        "finish_reason": rollout.finish_reason,
        "tokens": sum(rollout.policy_mask),
        **score_row(text, job.row),
    }
