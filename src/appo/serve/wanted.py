"""`Wanted`: what a request comes to, whichever route it came by: tokens to be continued, and how.

Left out on purpose: how it is found out (`endpoint.py`).
"""

from dataclasses import dataclass
from typing import Any

from appo.engines.base import Stop
from appo.serve.chat import Prompt
from appo.serve.dialect import Message


@dataclass
class Wanted:
    """What a request comes to.

    Args:
        ids: The tokens of its prompt.
        limit: Bound on new tokens.
        temperature: 0 for the likeliest tokens.
        stop: What ends the turn, the client's stop texts among it.
        cuts: Those texts, which the client does not want to see.
        seed: The client's, or None.
        likeliest: Alternatives that are told of each token.
        prompt: Of a conversation; None for token ids.
        messages: The client's, of a conversation.
        must_call: Whether the client wants a call for certain.
    """

    ids: list[int]
    limit: int
    temperature: float
    stop: Stop
    cuts: tuple[str, ...] = ()
    seed: int | None = None
    likeliest: int = 0
    prompt: Prompt | None = None
    messages: list[Message] | None = None
    must_call: bool = False

    @property
    def lasting(self) -> Any:
        """What all turns of one sequence have in common."""
        return self.stop, self.temperature, self.likeliest

    @property
    def settings(self) -> dict[str, Any]:
        """What a record has to agree in, besides the prompt."""
        return {"limit": self.limit, "temperature": self.temperature, "stop": sorted(self.stop.strings),
                "stop_token_ids": sorted(self.stop.token_ids)}  # fmt: skip
