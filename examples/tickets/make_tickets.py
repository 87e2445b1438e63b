"""Makes tickets.csv, orders.csv and traces.jsonl: what a shop might have, made up from a few sentences.

    python examples/tickets/make_tickets.py

    tickets.csv    120 questions about 30 orders, with the right answers; half of them mention another one first
    orders.csv     the table that the tool looks into
    traces.jsonl   40 conversations about other orders, one order each: the cold start learns from them how to call

Python's generator of random numbers has a fixed seed, so that the files are the same everywhere.
"""

import csv
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
STATUSES = ("packed", "sent", "delivered", "lost")
SYSTEM = (
    "Look up the order that is asked for: <order_status>its number</order_status>. Then <answer>its status</answer>."
)
ONE = (
    "Where is my order {}?",
    "What has become of {}?",
    "Please tell me about order {}.",
    "Hello, {} has not come yet. What is going on?",
)
TWO = (
    "{other} came yesterday, thank you. But where is {}?",
    "My sister's order {other} is here. What has become of {}?",
    "I wrote about {other} last week. Now I wonder about {}.",
    "After {other} I ordered {}. Where is it?",
)


def trace(question: str, order: str, status: str) -> dict:
    """One conversation in ShareGPT's layout; the tool's result stands in the assistant's text."""
    text = f"<order_status>{order}</order_status>\n<result>\n{status}\n</result>\n<answer>{status}</answer>"
    said = (("system", SYSTEM), ("human", question), ("gpt", text))
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in said]}


def write_csv(name: str, rows: list[tuple[str, ...]]) -> None:
    with (HERE / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def main() -> None:
    rng = random.Random(0)
    numbers = rng.sample([f"{letter}{number}" for letter in "ABCDEFGH" for number in range(10, 100)], 50)
    status = {number: rng.choice(STATUSES) for number in numbers}
    asked, shown = numbers[:30], numbers[30:]
    tickets = []
    for number in asked:
        for sentence in (*rng.sample(ONE, 2), *rng.sample(TWO, 2)):
            other = rng.choice([one for one in asked if status[one] != status[number]])
            tickets.append((sentence.format(number, other=other), status[number]))
    rng.shuffle(tickets)
    write_csv("tickets.csv", [("ticket_text", "status"), *tickets])
    write_csv("orders.csv", [("order", "status"), *((number, status[number]) for number in asked)])
    traces = [trace(rng.choice(ONE).format(number), number, status[number]) for number in shown * 2]
    (HERE / "traces.jsonl").write_text("".join(json.dumps(one) + "\n" for one in traces), encoding="utf-8")


if __name__ == "__main__":
    main()
