"""The task of the agents in this folder: what has become of an order? One tool knows it; the answer has to say it.

python examples/agents/orders.py        writes orders.jsonl: 40 rows with `question`, `order` and `status`
"""

import json
import random
from pathlib import Path

FILE = Path(__file__).parent / "orders.jsonl"
STATUSES = ("packed", "sent", "delivered", "lost")
INSTRUCTIONS = "Look the order up with a tool call, then answer with its status."
SENTENCES = ("Where is my order {}?", "What has become of {}?", "Please tell me about order {}.")


def make_rows() -> list[dict[str, str]]:
    rng = random.Random(0)
    orders = rng.sample([f"{letter}{number}" for letter in "ABCDEFGH" for number in range(10, 100)], 40)
    return [{"question": rng.choice(SENTENCES).format(one), "order": one, "status": rng.choice(STATUSES)}
            for one in orders]  # fmt: skip


def order_status(order: str) -> str:
    """Tells the status of an order.

    Args:
        order: Its number, a letter and two digits.
    """
    rows = map(json.loads, FILE.read_text(encoding="utf-8").splitlines())
    return {row["order"]: row["status"] for row in rows}.get(order.strip().upper(), "no such order")


def reward(answer: object, row: dict[str, str]) -> float:
    """1 for an answer that names the order's status and no other."""
    named = [status for status in STATUSES if status in str(answer).lower()]
    return float(named == [row["status"]])


if __name__ == "__main__":
    FILE.write_text("".join(f"{json.dumps(row)}\n" for row in make_rows()), encoding="utf-8")
