"""Two updates of a taskset of verifiers, unmodified, which runs as a command in an environment of its own."""

import os
from pathlib import Path

import orders
from agent_parts import CALLS, check_trained, train

from appo import AgentProgram

COMMAND = [os.environ["VERIFIERS_PYTHON"], str(Path(orders.__file__).parent / "verifiers_taskset.py")]


def test_two_updates_with_branches_that_are_exact(tmp_path):
    one_call = {**CALLS, "</tool_call>": "<|im_end|>"}
    check_trained(train(AgentProgram(COMMAND, at_once=2), one_call, tmp_path, tasks=1, size=4))
