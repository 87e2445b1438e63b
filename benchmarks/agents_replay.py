"""Agents of others on the endpoint, with SmolLM2: how many segments they have, and whether their branches are exact.

    OMP_NUM_THREADS=1 PYTHONPATH=examples/agents:tests python benchmarks/agents_replay.py [--taught 4] [--branches 32]
    VERIFIERS_PYTHON=.venv-verifiers/bin/python .. --agents verifiers_taskset

The agents are those of `examples/agents`, at temperature 1. The model is first taught how each of them calls: on
`--taught` rows the agent itself runs with a teacher in the engine's place, and what its book then holds is learnt.
Branches begin at seeded random tokens of all that were sampled.

Left out on purpose: whether the task is learnt, and speed.
"""

import argparse
import asyncio
import importlib
import inspect
import json
import os
import random
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import orders
import torch
from orders_teacher import Teacher
from serve_parts import make_endpoint, serving

from appo.models.smollm2 import make_model
from appo.serve.replay import Branch

ROWS = [json.loads(line) for line in orders.FILE.read_text(encoding="utf-8").splitlines()]


def command(row, base_url, api_key):
    told = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": api_key, "APPO_ROW": json.dumps(row)}
    arguments = [os.environ["VERIFIERS_PYTHON"], str(orders.FILE.parent / "verifiers_taskset.py")]
    return float(subprocess.run(arguments, env={**os.environ, **told}, capture_output=True, check=True).stdout)


def accounts_of(name, endpoint, asked):
    """Accounts and rewards of an agent's runs, eight at a time; `asked` are (row, branch or None)."""
    run = command if name == "verifiers_taskset" else importlib.import_module(name).run

    def one(number, row, branch):
        key = f"{name} {number}{' branch' if branch else ''}"
        endpoint.keys.open(key, branch)
        try:
            reward = run(row, f"{url}/v1", key)
            reward = asyncio.run(reward) if inspect.iscoroutine(reward) else reward
        except Exception as error:  # of a branch that is over, or of the agent
            reward = type(error).__name__
        return endpoint.keys.take(key), reward

    with serving(endpoint) as url, ThreadPoolExecutor(8) as executor:
        return list(executor.map(lambda given: one(given[0], *given[1]), enumerate(asked)))


def cold_start(model, tokenizer, names, rows):
    sequences = []
    for name in names:
        teacher = make_endpoint(model, tokenizer, engine=Teacher(tokenizer), anyone=False, add_tools=True)
        for account, _ in accounts_of(name, teacher, [(row, None) for row in rows]):
            ids = list(account.book.turns.values())[-1].ids
            labels = torch.full((len(ids),), -100)
            for turn in account.book.turns.values():
                labels[len(turn.prompt_ids) : len(turn.ids)] = torch.tensor(turn.token_ids)
            sequences.append((torch.tensor([ids]), labels[None]))
    random.Random(0).shuffle(sequences)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for number, (ids, labels) in enumerate(sequences, 1):
        (model(input_ids=ids, labels=labels).loss / 4).backward()
        if number % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()


def is_exact(account, record):
    place = account.branch
    at, was = account.book.turns[place.turn], record.turns[place.turn]
    before = all(account.book.turns[number].ids == record.turns[number].ids for number in range(place.turn))
    return before and at.ids[: len(at.prompt_ids) + place.position] == was.ids[: len(was.prompt_ids) + place.position]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", nargs="+", default=("plain_openai", "openai_agents_sdk", "smol_agent"))
    for name, default in {"taught": 16, "rollouts": 8, "branches": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    model, tokenizer = make_model()
    cold_start(model, tokenizer, options.agents, ROWS[len(ROWS) - options.taught :])
    for name in options.agents:
        endpoint = make_endpoint(model, tokenizer, anyone=False, add_tools=True)
        rollouts = accounts_of(name, endpoint, [(row, None) for row in ROWS[: options.rollouts]])
        books = [account.book for account, _ in rollouts]
        places = [(book, n, p) for book in books for n in book.turns for p in range(len(book.turns[n].token_ids))]
        chosen = random.Random(0).sample(places, options.branches)
        endpoint = make_endpoint(model, tokenizer, anyone=False, add_tools=True)
        branches = accounts_of(
            name, endpoint, [(ROWS[books.index(book)], Branch(book, n, p, seed=1)) for book, n, p in chosen]
        )
        good = [is_exact(a, chosen[i][0]) for i, (a, _) in enumerate(branches) if a.branch.outcome is None]
        print(f"{name}: turns {sum((book.counts for book in books), Counter())}")
        print(f"    segments {[len(book.segments()) for book in books]}, rewards {[reward for _, reward in rollouts]}")
        print(f"    {len(branches)} branches: {len(good)} accepted, {sum(good)} of them exact; left out: "
              f"{dict(endpoint.keys.diverged)}; rewards {[reward for _, reward in branches]}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
