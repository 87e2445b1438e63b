"""Writes the samples that are missing, many at once.

The batches do not depend on which samples are there already: one that a kill interrupted is written again as a whole,
and what is there is not written down twice. So a run that goes on computes the same numbers, to the last bit, as one
that was never interrupted.

Left out on purpose: any engine but the embedded one.
"""

from collections.abc import Sequence
from typing import Any

from appo.engines.transformers_engine import TransformersEngine
from appo.evaluation.eval_config import EvalConfig
from appo.evaluation.meter import Meter
from appo.evaluation.policy import Policy
from appo.evaluation.samples import Job, SampleFile
from appo.evaluation.scores import score_text
from appo.rewards import completion_text
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.types import Rollout
from appo.tools.runner import ToolRunner


def write_samples(config: EvalConfig, policy: Policy, jobs: Sequence[Job], file: SampleFile, meter: Meter) -> None:
    """Adds to the file every sample of `jobs` that it lacks, each as it ends."""
    runner = ToolRunner(timeout=config.tool_timeout)
    loop = _make_loop(config, policy, runner)
    for first in range(0, len(jobs), config.batch_size):
        batch = jobs[first : first + config.batch_size]
        if all(job.key in file.found for job in batch):
            continue
        starts = []
        for job in batch:
            text, prompt_ids = policy.prompt(job.row.question)
            starts.append(Start(Rollout(prompt_ids, text), policy.tools, job.seed(config.seed)))

        def on_end(index: int, batch: Sequence[Job] = batch, starts: list[Start] = starts) -> None:
            if batch[index].key not in file.found:
                record = _record(batch[index], starts[index], policy)
                file.add(record)
                meter.advance(record["tokens"])

        loop.run(starts, config.seed, on_end)
    runner.close()


def _make_loop(config: EvalConfig, policy: Policy, runner: ToolRunner) -> AgentLoop:
    greedy = config.temperature == 0
    pad = policy.tokenizer.pad_token_id
    engine = TransformersEngine(
        policy.model,
        pad_token_id=pad if pad is not None else min(policy.eos_token_ids, default=0),  # holes are masked
        eos_token_ids=policy.eos_token_ids,
        stop_candidates=policy.protocol.stop_candidates,
        temperature=1.0 if greedy else config.temperature,
        top_p=config.top_p,
        top_k=1 if greedy else 0,
        max_rows=config.batch_size,
    )
    return AgentLoop(
        engine,
        policy.protocol,
        runner,
        max_completion_length=config.max_completion_length,
        max_tool_turns=config.max_tool_turns,
        context_length=policy.context_length,
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
        **score_text(text, job.row.answers),
    }
