"""`AgentAnswer`: what an agent wrote, what its tools did, and what it answered in the end.

Left out on purpose: rewards; an answer is not compared with anything.
"""

from dataclasses import dataclass, field
from typing import Any

from appo.protocols.base import ToolProtocol
from appo.protocols.calls import THOUGHT
from appo.protocols.tags import TagProtocol
from appo.rewards import extract_answer
from appo.rollout.types import Rollout, ToolCall


@dataclass
class AgentAnswer:
    """An answer; `print` shows its last words.

    Args:
        answer: The answer alone: what stands in `<answer>` (its box, if it has one), else the last message without
            its thoughts. None where there is none: it was cut off, or nothing was written.
        text: All that follows the prompt, results of tools included.
        messages: The conversation: the prompt, calls and results of tools, the answer.
        calls: Each call with `name`, `arguments`, `result`, `error` (None for a good one) and `seconds`.
        tokens: How many the model wrote.
        finish_reason: "stop", "length" (it was cut off) or "tool_limit".
        rollout: Token ids, log-probabilities and places of the calls.
    """

    answer: str | None
    text: str
    messages: list[dict[str, Any]]
    calls: list[ToolCall]
    tokens: int
    finish_reason: str
    rollout: Rollout = field(repr=False)

    def __str__(self) -> str:
        return self.text if self.answer is None else self.answer


def answer_of(rollout: Rollout, protocol: ToolProtocol) -> AgentAnswer:
    """
    Args:
        rollout: A complete one, whose `prompt` is a text or messages.
        protocol: That it was written with.
    """
    prompt = rollout.prompt
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    assert rollout.finish_reason is not None
    return AgentAnswer(
        answer=_last_words(rollout, protocol) if rollout.finish_reason == "stop" else None,
        text=protocol.completion(rollout, conversational=False),
        messages=[*asked, *protocol.completion(rollout, conversational=True)],
        calls=rollout.tool_calls,
        tokens=sum(rollout.policy_mask),
        finish_reason=rollout.finish_reason,
        rollout=rollout,
    )


def _last_words(rollout: Rollout, protocol: ToolProtocol) -> str | None:
    """The answer in the last turn; what results say is none."""
    start, ids = max(rollout.answered_turns(), default=0), rollout.completion_ids
    turn = Rollout(rollout.prompt_ids + ids[:start], completion_ids=ids[start:])
    (message,) = protocol.completion(turn, conversational=True)
    content = message.get("content") or ""
    if isinstance(protocol, TagProtocol) or "<answer>" in THOUGHT.sub("", content):
        return extract_answer(content)
    return content.rpartition("</think>")[2].strip() or None
