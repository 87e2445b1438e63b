"""One rollout: token ids, who wrote them, and what the tools did.

Positions count tokens of the completion (tool results included), from 0. All lists below that are "per token" are as
long as `completion_ids`. Sampled ids are kept as they were sampled; nothing here decodes and encodes again.

Left out on purpose: padding and tensors (`scoring.py`), text (`appo.protocols`).
"""

from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_limit", "failed"]


@dataclass
class ToolCall:
    """A call that the policy wrote and what came back.

    Args:
        name: The tool's name as written; may name no tool.
        arguments: What was written: text (tag protocol) or a mapping (chat template).
        start: Position of the first token of the turn's call.
        end: Position after the call's last token.
        result: The text shown to the policy; for a failed call the error's text.
        error: None, or why the call failed ("timeout", "unknown tool", "bad arguments", an exception's name).
        result_start: Position of the first token of the result; -1 where it did not fit.
        result_end: Position after the result's last token, equal to `result_start` for one of no tokens; -1 where it
            did not fit.
        seconds: Wall time in the tool.
        ran: Whether the tool ran to its end; False where it was given up (a time-out) or never called.
    """

    name: str
    arguments: Any
    start: int
    end: int
    result: str = ""
    error: str | None = None
    result_start: int = -1
    result_end: int = -1
    seconds: float = 0.0
    ran: bool = True

    @property
    def answered(self) -> bool:
        """Whether the result stands in the completion."""
        return self.result_end >= 0


@dataclass
class Rollout:
    """A complete trajectory from the prompt to its end, or the part of one that is being written.

    Args:
        prompt_ids: Token ids of the prompt.
        prompt: The prompt as reward functions get it: a string or a list of messages.
        completion_ids: Token ids after the prompt: thinking, calls, results, answer.
        policy_mask: Per token, 1 where the policy wrote it, 0 in tool results.
        logprobs: Per token, log-probability (nats, at the sampling temperature) under the policy that sampled it; NaN
            in tool results: they have none, and 0 would claim certainty.
        tool_calls: In order of position.
        finish_reason: "stop" (answered or ended by itself), "length" (token limit), "tool_limit" (call limit),
            "failed" (the agent that wrote it, a program of its own, ended with an error).
        reward: Total reward; None until scored and where no reward function applied.
        rewards: The parts of the reward by function, unweighted; NaN where a function did not apply.
        parent: Index, in the tree, of the rollout it branched from; None for an initial rollout.
        branch_position: First position that differs in origin from the parent's; tokens before it are the parent's.
        branch_score, branch_rank: The score that chose the parent's token, and its place among those of the policy, 1
            being the best; None where no score did.
        environment: The environment in the state that the rollout left, if the task has one.
        snapshots: Environment states after 0, 1, 2, ... answered turns; None where the state cannot be copied.
        alternatives: The likeliest tokens, `[id, log-probability]`, in the place of the first one that was written
            from the rollout's start, likeliest first; None where nobody asked for them.
    """

    prompt_ids: list[int]
    prompt: Any = None
    completion_ids: list[int] = field(default_factory=list)
    policy_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    reward: float | None = None
    rewards: dict[str, float] = field(default_factory=dict)
    parent: int | None = None
    branch_position: int | None = None
    branch_score: float | None = None
    branch_rank: int | None = None
    environment: Any = None
    snapshots: list[Any] = field(default_factory=list)
    alternatives: list[list[float]] | None = None

    def append(self, token_ids: list[int], logprobs: list[float] | None) -> None:
        """Adds tokens of the policy (`logprobs` given, as many) or of a tool result (`logprobs` None)."""
        self.completion_ids += token_ids
        self.policy_mask += [0 if logprobs is None else 1] * len(token_ids)
        self.logprobs += [float("nan")] * len(token_ids) if logprobs is None else logprobs

    def answered_turns(self) -> list[int]:
        """Positions after the result of each turn that called tools (one turn may hold several calls)."""
        return sorted({call.result_end for call in self.tool_calls if call.answered})

    def prefix(self, position: int) -> "Rollout":
        """A new rollout that holds the first `position` tokens, with the calls answered there and no end.

        Args:
            position: 0 to `len(completion_ids)`; at a policy token, so that no result is cut in two.
        """
        if not 0 <= position <= len(self.completion_ids):
            raise ValueError(f"position must lie in [0, {len(self.completion_ids)}], got {position}.")
        if any(call.result_start < position < call.result_end for call in self.tool_calls):
            raise ValueError(f"position {position} lies inside a tool result; branch at a token of the policy.")
        calls = [call for call in self.tool_calls if call.answered and call.result_end <= position]
        answered = len({call.result_end for call in calls})
        return Rollout(
            prompt_ids=self.prompt_ids,
            prompt=self.prompt,
            completion_ids=self.completion_ids[:position],
            policy_mask=self.policy_mask[:position],
            logprobs=self.logprobs[:position],
            tool_calls=list(calls),
            snapshots=self.snapshots[: answered + 1],
        )
