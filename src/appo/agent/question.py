"""A question, as it is given and as it is opened.

Left out on purpose: rendering (`agent.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# A text, messages, or a row as in training, with a `prompt` and whatever an environment's `reset` takes besides.
Question = str | Sequence[dict[str, Any]] | dict[str, Any]


@dataclass
class Asked:
    """A question that was opened.

    Args:
        prompt: A text, or messages.
        environment: Its own, reset; None where there is none.
    """

    prompt: Any
    environment: Any = None
