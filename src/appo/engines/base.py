"""What the agent loop asks of an engine: write turns of many sequences at once.

A sequence is started once, writes a turn until it has to stop, and is then either resumed with the tool's result or
closed. Sequences are resumed one by one, each when its own tool is done; those for which there is no room yet enter as
others end. Every sequence has a seed of its own, so what it writes does not depend on which others run beside it
(but for the rounding of floating-point sums, where the size of a batch changes their order).

What ends a turn is data and no callback, as an engine may be a server that cannot call back.

Left out on purpose: text. An engine gets and gives token ids; it decodes only to look for `Stop.strings`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

ENGINES = ("transformers", "vllm", "vllm_server")


@dataclass(frozen=True)
class Stop:
    """What ends a turn besides the model's end tokens.

    Args:
        token_ids: Each of these ends it.
        strings: Each of these ends it as soon as the turn's text, special tokens included, holds it to its end. The
            token that completes it belongs to the turn, with whatever else it holds.
    """

    token_ids: frozenset[int] = frozenset()
    strings: tuple[str, ...] = ()


@dataclass
class Request:
    """A sequence to be continued.

    Args:
        id: Unique among the sequences that are open.
        token_ids: The context: prompt and what follows it so far; at least one token.
        max_new_tokens: Bound on the tokens of this turn, at least 1.
        seed: Seed of the sequence's own random numbers.
        stop: What ends each of its turns.
        turn_tokens: How many of the last tokens of the context belong to the turn that goes on, for a sequence that
            starts within one: a stop string may have begun there.
        top_alternatives: How many of the likeliest first tokens are told (`Turn.alternatives`).
        temperature: Of this sequence, at least 0; 0 takes the likeliest token. None: the engine's own.
        top_logprobs: How many of the likeliest tokens are told in the place of each (`Turn.top_logprobs`).
    """

    id: int
    token_ids: list[int]
    max_new_tokens: int
    seed: int
    stop: Stop = field(default_factory=Stop)
    turn_tokens: int = 0
    top_alternatives: int = 0
    temperature: float | None = None
    top_logprobs: int = 0


@dataclass
class Turn:
    """What a sequence wrote before it stopped.

    Args:
        id: The request's.
        token_ids: Sampled tokens, the one that ended the turn included.
        logprobs: Per token, log-probability in nats at the sampling temperature; at 1 where that is 0.
        reason: "eos", "stop" (see `Stop`), or "length" (`max_new_tokens`).
        alternatives: Of a request with `top_alternatives`, in its first turn: the likeliest tokens in the place of the
            first one, as (id, log-probability in nats at the sampling temperature), likeliest first; from the embedded
            engine before top-k and the like cut any off, from vLLM after. None otherwise.
        top_logprobs: Of a request with `top_logprobs`: per token, the likeliest ones in its place, as `alternatives`.
            None otherwise.
    """

    id: int
    token_ids: list[int]
    logprobs: list[float]
    reason: Literal["eos", "stop", "length"]
    alternatives: list[tuple[int, float]] | None = None
    top_logprobs: list[list[tuple[int, float]]] | None = None


class Engine(Protocol):
    """Writes turns. `TransformersEngine` is the embedded one; `open_engine` makes the one that was asked for.

    Attributes:
        context_length: Tokens that a sequence may have, those to be written included; None for no bound but the
            model's.
    """

    context_length: int | None

    @property
    def busy(self) -> bool:
        """Whether a step would write a token: some sequence is neither waiting to be resumed nor closed."""

    def load(self, weights: Any) -> None:
        """Takes new weights, while no sequence is open: the model itself, where the engine runs in it, else
        (name, tensor) pairs of all parameters, under the names of a saved model."""

    def start(self, request: Request) -> None:
        """Opens a sequence."""

    def resume(self, id: int, token_ids: list[int], max_new_tokens: int) -> None:
        """Appends tokens that the policy did not write and lets the sequence write its next turn."""

    def step(self) -> list[Turn]:
        """Writes on, or waits a moment for what is written elsewhere; returns the turns that ended meanwhile."""

    def so_far(self, id: int) -> list[int]:
        """Tokens of the turn that a sequence is writing, as far as they have come; none between turns."""

    def close(self, id: int) -> None:
        """Forgets a sequence, one that is being written too."""

    def abandon(self) -> None:
        """Forgets all sequences, those that are being written too."""

    def rest(self) -> bool:
        """Gives memory back that is needed for writing alone, while no sequence is open; whether weights have to be
        loaded anew for it."""
