"""What the agent loop asks of an engine: write turns of many sequences at once.

A sequence is started once, writes a turn until it has to stop, and is then either resumed with the tool's result or
closed. Every sequence has a seed of its own, so what it writes does not depend on which others run beside it.

Left out on purpose: text. An engine sees token ids only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass
class Request:
    """A sequence to be continued.

    Args:
        id: Unique among the sequences that are open.
        token_ids: The context: prompt and what follows it so far; at least one token.
        max_new_tokens: Bound on the tokens of this turn, at least 1.
        seed: Seed of the sequence's own random numbers.
        should_stop: Called with the turn's tokens after each token of `stop_candidates`; True ends the turn.
    """

    id: int
    token_ids: list[int]
    max_new_tokens: int
    seed: int
    should_stop: Callable[[list[int]], bool]


@dataclass
class Turn:
    """What a sequence wrote before it stopped.

    Args:
        id: The request's.
        token_ids: Sampled tokens, the one that ended the turn included.
        logprobs: Per token, log-probability in nats at the sampling temperature.
        reason: "eos", "stop" (`should_stop`), or "length" (`max_new_tokens`).
    """

    id: int
    token_ids: list[int]
    logprobs: list[float]
    reason: Literal["eos", "stop", "length"]


class Engine(Protocol):
    """Writes turns. `TransformersEngine` is the embedded one."""

    @property
    def busy(self) -> bool:
        """Whether a step would write a token: some sequence is neither waiting to be resumed nor closed."""

    def start(self, request: Request) -> None:
        """Opens a sequence."""

    def resume(self, id: int, token_ids: list[int], max_new_tokens: int) -> None:
        """Appends tokens that the policy did not write and lets the sequence write its next turn."""

    def close(self, id: int) -> None:
        """Forgets a sequence that has stopped."""

    def step(self) -> list[Turn]:
        """Writes one token of every running sequence; returns the turns that ended with it."""
