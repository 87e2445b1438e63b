"""How calls are written and read: what the agent loop asks of either way.

`TagProtocol` is the paper's: `<name>text</name>`, answered by `<result>text</result>`, ended by `<answer>..</answer>`.
`ChatProtocol` is that of instruct models: the chat template writes tools and results, TRL's parser reads the calls.
`docs/protocols.md` has examples. Left out on purpose: running tools (`tools/runner.py`), and the protocols
themselves, as the agent loop runs where TRL is not installed, too.
"""

from typing import Any, Protocol

from appo.engines.base import Stop
from appo.protocols.calls import ParsedCall
from appo.rollout.types import Rollout

__all__ = ["ParsedCall", "ToolProtocol"]


class ToolProtocol(Protocol):
    """What the agent loop needs to know of a way of writing calls."""

    stop: Stop  # what ends a turn, besides the model's end tokens, as an engine is told

    def should_stop(self, turn_ids: list[int]) -> bool:
        """Whether a turn that holds these tokens so far has ended with the last of them."""

    def parse_calls(self, turn_ids: list[int], context_ids: list[int]) -> list[ParsedCall]:
        """The calls of a turn; none for a final answer. `context_ids` is what precedes the turn."""

    def encode_results(self, results: list[tuple[str, str]]) -> list[int]:
        """Token ids of `(name, text)` results, up to where the policy writes on."""

    def region(self, rollout: Rollout, position: int) -> str:
        """Whether a token is part of a call ("call"), of the answer ("answer") or of neither ("think")."""

    def completion(self, rollout: Rollout, conversational: bool) -> Any:
        """The completion as TRL's reward functions get it: a string, or messages for conversational prompts."""
