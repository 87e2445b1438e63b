"""Numbers made small for a page: a byte per token where the eye reads it, all digits where it is reckoned with.

    heat map    u8 codes, 255 for none, on one of four scales, with the column's own bounds
    exact       the recorded numbers: one per rollout where they do not vary in it, else codes of a palette, or float32

Everything is gzipped, then base64: a browser undoes it with `DecompressionStream`. The same input gives the same
bytes. Left out on purpose: what the columns are called (`pack.py`).
"""

import base64
import gzip
import json
from typing import Any

import numpy as np

from appo.files import strict_json

NONE = 255  # of a heat map
STEPS = 126  # the eye tells no more shades apart
COARSE = {"logprob": 62}  # known of every token, and only a hint
TYPES = {"uint8": "u8", "uint16": "u16", "uint32": "u32", "int16": "i16", "int32": "i32", "float32": "f32"}
PALETTE = 65_536  # the most numbers that have a code of their own
SCALES = {
    "entropy": "square",
    "logprob": "square",
    "omega": "log",
    "ratio": "symmetric",
    "score": "symmetric",
    "advantage": "symmetric",
}


def packed(data: bytes) -> str:
    """gzip without a time in it, then base64."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")


def json_column(value: Any) -> dict[str, str]:
    """Any JSON, packed; NaN and infinity become null, half a pair of UTF-16 a question mark."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(strict_json(value), ensure_ascii=False, separators=(",", ":"))
    return {"gz": packed(text.encode(errors="replace"))}


def column(values: np.ndarray) -> dict[str, str]:
    """A typed array, packed, with its type."""
    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<")))
    return {"type": TYPES[values.dtype.name], "gz": packed(little.tobytes())}


def heat(values: np.ndarray, name: str) -> dict[str, Any]:
    """A column of bytes with its bounds; values that are not finite have the code 255. With n steps:

    linear       low + (high - low) q / n
    square       low + (high - low) (q / n)^2: fine near low
    log          low (high / low)^(q / n)
    symmetric    high u |u| with u = 2 q / n - 1: fine near 0
    """
    scale, steps = SCALES.get(name, "linear"), COARSE.get(name, STEPS)
    finite = np.isfinite(values)
    known = values[finite].astype(np.float64)
    if scale == "log":
        known = np.clip(known, 1e-6, 1e6)
    low, high = (float(known.min()), float(known.max())) if known.size else (1.0, 1.0)
    if scale == "symmetric":
        high = max(abs(low), abs(high)) or 1.0
        low = -high
        share = known / high
        codes = steps / 2 * (1 + np.sign(share) * np.sqrt(np.abs(share)))
    elif scale == "square":
        low, high = (high, low) if high <= 0 else (low, high)  # log-probabilities are fine near 0
        codes = steps * np.sqrt(_share(known, low, high))
    elif scale == "log":
        codes = steps * _share(np.log(known), np.log(low), np.log(high))
    else:
        codes = steps * _share(known, low, high)
    found = np.full(values.shape, NONE, np.uint8)
    found[finite] = np.rint(codes).astype(np.uint8)
    return {**column(found), "low": low, "high": high, "scale": scale, "steps": steps}


def _share(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values - low) / (high - low) if high != low else np.zeros_like(values)


def exact(values: np.ndarray, rollouts: np.ndarray) -> dict[str, Any]:
    """The numbers as they are.

    Args:
        values: float32 (L,), of tokens that carry loss, rollout after rollout.
        rollouts: The rollout of each, (L,), ascending.

    Returns:
        `per`: "rollout", a number for each that has such a token, or "token"; with a `palette`, codes into it.
    """
    values = values.astype(np.float32) + np.float32(0)  # -0 is 0
    first = np.flatnonzero(np.diff(rollouts, prepend=-1)) if rollouts.size else np.zeros(0, int)
    counts = np.diff(np.append(first, rollouts.size))
    if np.array_equal(np.repeat(values[first], counts), values):
        return {**column(values[first]), "per": "rollout"}
    palette, codes = np.unique(values, return_inverse=True)
    if len(palette) > PALETTE:
        return {**column(values), "per": "token"}
    small = codes.astype(np.uint8 if len(palette) <= 256 else np.uint16)
    return {**column(small), "per": "token", "palette": column(palette)}


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 of 12 binary digits, whose last bytes pack to nothing; for what is shown, not reckoned with."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return np.where(np.isfinite(values), ((bits + 0x800) & np.uint32(0xFFFFF000)).view(np.float32), values)


def ids_column(ids: np.ndarray) -> dict[str, str]:
    """Token ids in the smallest type that holds them."""
    most = int(ids.max()) if ids.size else 0
    return column(ids.astype(np.uint8 if most < 256 else np.uint16 if most < 65_536 else np.uint32))
