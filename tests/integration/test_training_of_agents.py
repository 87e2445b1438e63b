"""Two updates of each agent of `examples/agents`, unmodified, on a tiny model that writes what they can read."""

import openai_agents_sdk
import plain_openai
import pytest
import smol_agent
from agent_parts import CALLS, CODE, check_trained, train

AGENTS = {
    "plain_openai": (plain_openai.run, CALLS),
    "openai_agents_sdk": (openai_agents_sdk.run, CALLS),
    "smol_agent": (smol_agent.run, CODE),
}


@pytest.mark.parametrize("name", AGENTS)
def test_two_updates_with_branches_that_are_exact(name, tmp_path):
    check_trained(train(*AGENTS[name], tmp_path))
