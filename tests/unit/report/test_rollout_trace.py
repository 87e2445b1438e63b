"""A rollout as a trace: messages, what it earned, and its parts with their mean advantages."""

import json

import torch

from appo.report.trackers.rollout_trace import rollout_traces
from appo.report.trackers.wandb_log import COLUMNS, table_row
from appo.rollout.rollout_records import rollout_records
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout, ToolCall

WORDS = ["I look. ", "<py>1", "</py>", "[", "1", "]", "So ", "<answer>", "1", "</answer>", "2"]
MASK = [1, 1, 1, 0, 0, 0, 1, 1, 1, 1]
NAN = float("nan")


def text(ids):
    return "".join(WORDS[index] for index in ids)


def rollout(reward=1.0, error=None, prompt="1?", arguments="1"):
    call = ToolCall("py", arguments, 1, 3, "1", error, 3, 6, seconds=0.25)
    made = Rollout([1], prompt, tool_calls=[call], finish_reason="stop", reward=reward)
    made.completion_ids, made.policy_mask, made.logprobs = list(range(10)), list(MASK), [-1.0] * 10
    made.rewards = {"right": reward, "style": NAN}
    return made


def traced(*rollouts, most=16, branch=None, mask=None, trains="initial"):
    """Traces of one task whose tokens have the advantages 0, 1, .. and entropies half as large."""
    tree = RolloutTree({}, "7")
    for one in rollouts:
        tree.add_initial(one)
    if branch is not None:
        tree.add_branch(branch, 0, 8)
    rows = len(tree.trained(trains))
    advantages = torch.arange(10.0).expand(rows, -1)
    measured = {"entropies": advantages / 2, "advantages": advantages}
    factors = {"base": advantages, "loss_mask": torch.tensor([mask or MASK] * rows)}
    records = rollout_records([tree], measured, 3, trains, factors=factors)
    return rollout_traces([tree], records, text, tags=True, most=most)


def test_messages_are_those_of_a_conversation_with_tools():
    (trace,) = traced(rollout())
    assert trace.messages == [
        {"role": "user", "content": "1?"},
        {
            "role": "assistant",
            "content": "I look. <py>1</py>",
            "tool_calls": [{"id": "call-0", "type": "function", "function": {"name": "py", "arguments": "1"}}],
        },
        {"role": "tool", "tool_call_id": "call-0", "name": "py", "content": "1"},
        {"role": "assistant", "content": "So <answer>1</answer>"},
    ]
    assert trace.prompt_messages == 1


def test_a_prompt_of_messages_stays_one_and_arguments_become_json():
    prompt = [{"role": "system", "content": "Be."}, {"role": "user", "content": "1?"}]
    (trace,) = traced(rollout(prompt=prompt, arguments={"code": "1"}))
    assert trace.messages[:2] == prompt and trace.prompt_messages == 2
    assert trace.messages[2]["tool_calls"][0]["function"]["arguments"] == '{"code": "1"}'


def test_parts_have_the_mean_advantage_of_their_tokens():
    (trace,) = traced(rollout())
    # Thought 0; call 1, 2; answer 7, 8, 9; half as much entropy. A tool has none.
    found = [(span["name"], span["kind"], span.get("metadata", {}).get("advantage")) for span in trace.spans]
    assert found == [
        ("thought", "generation", 0.0),
        ("call py", "generation", 1.5),
        ("py", "tool", None),
        ("thought", "generation", 6.0),
        ("answer", "generation", 8.0),
    ]
    assert trace.spans[4]["metadata"]["entropy"] == 4.0
    assert trace.spans[4]["metadata"]["omega"] is None  # not measured, which is not 0
    assert trace.spans[2]["duration_ms"] == 250.0


def test_a_rollouts_advantage_is_that_of_the_tokens_that_carry_loss():
    (trace,) = traced(rollout())
    assert trace.metadata["advantage"] == 33 / 7  # 0 + 1 + 2 + 6 + 7 + 8 + 9 of seven tokens
    assert (trace.metadata["advantage_min"], trace.metadata["advantage_max"]) == (0.0, 9.0)
    (trace,) = traced(rollout(), mask=[0] * 9 + [1])
    assert trace.metadata["advantage"] == 9.0 and trace.spans[0]["metadata"]["advantage"] is None


def test_numbers_that_do_not_exist_are_none():
    (trace,) = traced(rollout())
    assert (trace.metadata["rewards/right"], trace.metadata["rewards/style"]) == (1.0, None)
    json.dumps([trace.messages, trace.metadata, trace.spans], allow_nan=False)


def test_a_failed_call_is_an_error_and_an_unreadable_one_has_no_arguments():
    (trace,) = traced(rollout(error="timeout", arguments=None))
    assert (trace.spans[2]["status"], trace.spans[2]["error"], trace.spans[2]["input"]) == ("error", "timeout", "")
    assert trace.metadata["tool_errors"] == 1


def test_branches_are_told_where_they_left_and_have_no_trace_without_loss():
    branch = rollout(reward=0.0)
    branch.completion_ids[8] = 10
    (trace,) = traced(rollout(), branch=branch)
    assert trace.metadata["branches"] == [
        {"rollout": 1, "position": 8, "token": "1", "instead": "2", "score": None, "reward": 0.0}
    ]
    assert [one.metadata["rollout"] for one in traced(rollout(), branch=branch, trains="all")] == [0, 1]


def test_so_many_are_made_as_are_asked_for():
    assert len(traced(*[rollout() for _ in range(5)], most=3)) == 3


def test_a_row_of_the_table_can_be_read():
    (trace,) = traced(rollout())
    row = dict(zip(COLUMNS, table_row(trace, 3), strict=True))
    assert (row["step"], row["task"], row["reward"], row["advantage"]) == (3, "7", 1.0, 33 / 7)
    assert row["prompt"] == "[user] 1?"
    assert row["completion"] == "[assistant] I look. <py>1</py>\n[tool] 1\n[assistant] So <answer>1</answer>"
    assert json.loads(row["parts"])[1]["advantage"] == 1.5
