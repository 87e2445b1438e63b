"""Agents of others on the endpoint, unmodified, as the examples have them: their rollouts and their branches."""

import json
from pathlib import Path

import openai_agents_sdk
import orders
import plain_openai
import pytest
import smol_agent
from agent_parts import CALLS, CODE, check_branches, check_one_segment, endpoint_that_writes, rollout_of
from serve_parts import serving
from smolagents import OpenAIModel, ToolCallingAgent

ROWS = [json.loads(line) for line in orders.FILE.read_text().splitlines()][:8]
AGENTS = {
    "plain_openai": (plain_openai.run, CALLS),
    "openai_agents_sdk": (openai_agents_sdk.run, CALLS),
    "smol_agent": (smol_agent.run, CODE),
}


@pytest.fixture(scope="module", params=AGENTS)
def rollouts(request, tmp_path_factory):
    """An agent, its endpoint, and for each row of the task its book and its reward."""
    run, script = AGENTS[request.param]
    endpoint = endpoint_that_writes(script, tmp_path_factory.mktemp("model"))
    with serving(endpoint) as url:
        found = []
        for row in ROWS:
            account, reward = rollout_of(run, endpoint, url, row, f"{request.param} {row['order']}")
            found.append((row, account.book, reward))
        yield run, endpoint, url, found


def test_a_rollout_is_one_segment(rollouts):
    *_, found = rollouts
    for _, book, _ in found:
        check_one_segment(book)
    assert max(len(book.turns) for _, book, _ in found) > 2


def test_the_agent_says_what_its_answer_is_worth(rollouts):
    *_, found = rollouts
    assert {reward for *_, reward in found} == {0.0, 1.0}


def test_a_branch_has_the_records_tokens_at_any_turn(rollouts):
    run, endpoint, url, found = rollouts
    for row, book, _ in sorted(found, key=lambda one: -len(one[1].turns))[:2]:
        check_branches(run, endpoint, url, row, book, row["order"])


def test_an_agent_that_tells_its_calls_in_words_of_its_own_begins_a_segment_with_each_turn(tmp_path):
    def run(row, base_url, api_key):
        model = OpenAIModel("policy", api_base=base_url, api_key=api_key, max_tokens=64)
        agent = ToolCallingAgent([smol_agent.look_up], model, max_steps=2, verbosity_level=-1)
        agent.prompt_templates["system_prompt"] = orders.INSTRUCTIONS
        agent.run(row["question"])

    endpoint = endpoint_that_writes({**CALLS, "\n": "<tool_call>"}, tmp_path)
    with serving(endpoint) as url:
        account, _ = rollout_of(run, endpoint, url, ROWS[0], "in words")
        kinds = [turn.kind for turn in account.book.turns.values()]
        assert kinds == ["opened", "rewritten", "rewritten"]
        assert account.book.segments() == [[0], [1], [2]]
        check_branches(run, endpoint, url, ROWS[0], account.book, "in words")


@pytest.mark.parametrize("name", ["plain_openai", "openai_agents_sdk"])
def test_a_call_of_a_tool_that_there_is_not_is_worth_nothing(name, tmp_path):
    unknown = '{"name": "weather", "arguments": {}}'
    script = {"\n": "<tool_call>", "<tool_call>": unknown, unknown: "</tool_call>"}
    endpoint = endpoint_that_writes(script, tmp_path)
    with serving(endpoint) as url:
        account, reward = rollout_of(AGENTS[name][0], endpoint, url, ROWS[0], "unknown")
    assert reward == 0.0
    check_one_segment(account.book)


def test_the_rows_are_those_that_the_task_makes():
    assert [json.loads(line) for line in Path(orders.FILE).read_text().splitlines()] == orders.make_rows()
