"""`Bounds`: how much a client may ask of an endpoint. Left out on purpose: rates, which a proxy in front bounds."""

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class Bounds:
    """
    Args:
        body_bytes: Of a request; a longer one is answered by 413.
        body_seconds: In which a request has to come whole; else 408.
        seconds: In which a request has to be answered; else 408, and its sequence is closed.
        requests: Open at once, of all keys; else 429.
        requests_per_key: Open at once; else 429.
        turns_per_key: That are kept; else 429, or the oldest is forgotten.
        keys: That are kept; else 429, or the one that was silent for the longest time is forgotten.
        forgets: Whether old turns and keys are forgotten to make room, as for serving; a training must not lose any.
    """

    body_bytes: int = 4 * MIB
    body_seconds: float = 30.0
    seconds: float = 600.0
    requests: int = 256
    requests_per_key: int = 8
    turns_per_key: int = 512
    keys: int = 1024
    forgets: bool = False
