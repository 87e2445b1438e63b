"""A taskset of verifiers on the endpoint, unmodified, as a command in an environment of its own."""

import json
import os
import subprocess
from pathlib import Path

import orders
import pytest
from agent_parts import CALLS, check_one_segment, endpoint_that_writes, rollout_of
from serve_parts import serving

from appo.serve.replay import Branch

COMMAND = [os.environ["VERIFIERS_PYTHON"], str(Path(orders.__file__).parent / "verifiers_taskset.py")]
ROWS = [json.loads(line) for line in orders.FILE.read_text().splitlines()][:2]
SEEDS = (1, 9)  # of the keys: with them there are two and three turns


def run(row, base_url, api_key):
    """What a training does with a command: the reward is the last line of what it prints."""
    told = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": api_key, "APPO_ROW": json.dumps(row)}
    done = subprocess.run(COMMAND, env={**os.environ, **told}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    return endpoint_that_writes({**CALLS, "</tool_call>": "<|im_end|>"}, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def url(endpoint):
    with serving(endpoint) as url:
        yield url


@pytest.fixture(scope="module")
def rollouts(url, endpoint):
    """For each row its book and its reward."""
    found = []
    for row, seed in zip(ROWS, SEEDS, strict=True):
        account, reward = rollout_of(run, endpoint, url, row, f"rollout {seed}")
        found.append((row, account.book, reward))
    return found


def test_a_rollout_is_one_segment(rollouts):
    for _, book, _ in rollouts:
        check_one_segment(book)
    assert [len(book.turns) for _, book, _ in rollouts] == [2, 3]


def test_the_command_prints_what_the_answer_is_worth(rollouts):
    answers = [list(book.turns.values())[-1].message["content"] for _, book, _ in rollouts]
    assert answers == ["It is packed", "It is packed"]
    assert [(row["status"], reward) for row, _, reward in rollouts] == [("packed", 1.0), ("lost", 0.0)]


def test_a_branch_in_a_later_turn_has_the_records_tokens(rollouts, url, endpoint):
    row, book, _ = rollouts[1]
    last = 2
    account, _ = rollout_of(run, endpoint, url, row, "branch", Branch(book, last, 1))
    assert account.branch.outcome is None and not endpoint.keys.diverged
    assert [turn.ids for turn in account.book.turns.values()][:last] == [turn.ids for turn in book.turns.values()][
        :last
    ]
    written = account.book.turns[last]
    assert (written.prompt_ids, written.token_ids[:1]) == (book.turns[last].prompt_ids, book.turns[last].token_ids[:1])
