"""Traces in Weights & Biases: the table `rollouts` of the run, a row each.

Left out on purpose: W&B's own traces, which are another product's (Weave) and need its package and a login.
"""

import json
from collections.abc import Sequence
from typing import Any

from appo.report.trackers.rollout_trace import RolloutTrace

FACTS = (
    "task", "rollout", "reward", "advantage", "advantage_min", "advantage_max", "finish_reason", "tokens",
    "tool_calls", "tool_errors",
)  # fmt: skip
COLUMNS = ("step", *FACTS, "prompt", "completion", "parts", "branches")


def log_to_wandb(traces: Sequence[RolloutTrace], step: int) -> None:
    """Sends them to the run that is open, if one is."""
    import wandb

    if wandb.run is not None:
        table = wandb.Table(columns=list(COLUMNS), data=[table_row(one, step) for one in traces])
        wandb.log({"rollouts": table, "train/global_step": step})


def table_row(trace: RolloutTrace, step: int) -> list[Any]:
    """A row of the table. What is no number is a text: a prompt and a completion to be read, the rest as JSON."""
    first, facts = trace.prompt_messages, trace.metadata
    texts = [
        "\n".join(f"[{message['role']}] {message.get('content') or ''}" for message in part)
        for part in (trace.messages[:first], trace.messages[first:])
    ]
    parts = [{"name": span["name"], **span.get("metadata", {}), "error": span.get("error")} for span in trace.spans]
    return [step, *(facts[name] for name in FACTS), *texts, json.dumps(parts), json.dumps(facts["branches"])]
