"""Two functions: what the agent may call, and what its answers are worth."""

import csv
from pathlib import Path

with (Path(__file__).parent / "orders.csv").open(encoding="utf-8", newline="") as file:
    STATUS = {row["order"]: row["status"] for row in csv.DictReader(file)}


def order_status(order: str) -> str:
    """Tells the status of an order.

    Args:
        order: Its number, a letter and two digits.

    Returns:
        packed, sent, delivered or lost.
    """
    return STATUS.get(order.strip().upper(), "no such order")


def right_and_short(completions: list, answer: list[str], **columns) -> list[float]:
    """1 for the right answer and nothing after it, 0.5 for the right one with more, else 0."""
    rewards = []
    for completion, right in zip(completions, answer, strict=True):
        text = completion[-1]["content"].strip()
        rewards.append(1.0 if text.endswith(f"<answer>{right}</answer>") else 0.5 * (f"<answer>{right}" in text))
    return rewards
