"""Times of day. Left out on purpose: time zones, words such as noon, and durations (1:30 h)."""

import re
from dataclasses import dataclass

_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?(?:\s*([ap])\.?\s*m\.?)?", re.IGNORECASE)


@dataclass(frozen=True)
class TimeOfDay:
    """Seconds since midnight. `certain`: am or pm or the hour tells the half of the day; 3:15 is not 3:15 am."""

    seconds: int
    certain: bool


def parse_time(text: str) -> TimeOfDay | None:
    """The time that a normalised text is, `3:15 p.m.`, `3 PM` or `15:15`; None for anything else."""
    match = _TIME.fullmatch(text)
    if match is None or not (match[2] or match[4]) or (match[3] and not match[2]):
        return None
    hour, minute, second = (int(group or 0) for group in match.groups()[:3])
    half = (match[4] or "").lower()
    if minute > 59 or second > 59 or hour > 23 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return TimeOfDay(3600 * hour + 60 * minute + second, bool(half) or hour > 12 or hour == 0)
