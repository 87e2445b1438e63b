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
    said = protocol.completion(rollout, conversational=True)
    assert rollout.finish_reason is not None
    return AgentAnswer(
        answer=_last_words(said, isinstance(protocol, TagProtocol)) if rollout.finish_reason == "stop" else None,
        text=protocol.completion(rollout, conversational=False),
        messages=[*asked, *said],
        calls=rollout.tool_calls,
        tokens=sum(rollout.policy_mask),
        finish_reason=rollout.finish_reason,
        rollout=rollout,
    )


def _last_words(messages: list[dict[str, Any]], tags: bool) -> str | None:
    """The answer in the last message."""
    content = messages[-1].get("content") if messages[-1]["role"] == "assistant" else None
    if not isinstance(content, str):
        return None
    if tags or "<answer>" in THOUGHT.sub("", content):
        return extract_answer(content)
    thought, closing, words = content.rpartition("</think>")
    return (words if closing else thought + words).strip() or None
