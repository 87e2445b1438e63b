"""No tool stops the writing, and no speed of a tool changes what is written."""

import random
import threading
import time

import pytest
import torch
from test_loop import ANSWER, CALL, RESULT, ScriptedEngine, make_loop

from appo.engines.base import Stop
from appo.engines.transformers_engine import TransformersEngine
from appo.protocols.base import ParsedCall
from appo.protocols.tags import TagProtocol
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.types import Rollout
from appo.tools.runner import ToolRunner


def test_the_speed_of_a_tool_does_not_change_what_is_written(tiny):
    model, tokenizer = tiny

    def search(query: str) -> str:
        time.sleep(random.random() * 0.01)
        return "e3"

    def write(deterministic):
        protocol = TagProtocol(tokenizer, ["search"], RESULT)
        # A random model never closes a call by itself: any of these tokens does.
        protocol.stop = Stop(frozenset(range(40, 80)))
        protocol.parse_calls = lambda turn, context: [
            type("C", (), {"name": "search", "arguments": "x", "start": 0, "end": len(turn), "error": None})
        ]
        engine = TransformersEngine(model, pad_token_id=0, eos_token_ids=[])
        loop = AgentLoop(
            engine,
            protocol,
            ToolRunner(),
            max_completion_length=40,
            max_tool_calling_iterations=3,
            deterministic=deterministic,
            join_steps=3,
        )
        starts = [Start(Rollout([5 + i], ""), {"search": search}) for i in range(8)]
        return [rollout.completion_ids for rollout in loop.run(starts, seed=7)]

    assert write(True) == write(False) == write(True) == write(False)


def test_a_rollout_ends_while_the_tool_of_another_still_runs(tiny):
    """The slow tool returns when the fast rollout has ended, two calls later."""
    _, tokenizer = tiny
    ended = threading.Event()

    def search(query: str) -> str:
        if query == "mother e2":
            return "e3" if ended.wait(60) else "weak e3"
        return "e2"

    slow = CALL.replace("e1", "e2")
    loop = make_loop(ScriptedEngine(tokenizer, {0: [slow, ANSWER], 1: [CALL, CALL, ANSWER]}), tokenizer)
    starts = [Start(Rollout(tokenizer("mother boss e1")["input_ids"]), {"search": search}) for _ in range(2)]
    order = []
    first, _ = loop.run(starts, seed=0, on_end=lambda index: (order.append(index), ended.set()))
    assert order == [1, 0]
    assert first.tool_calls[0].result == "e3"


@pytest.mark.parametrize("rows", [1, 2])
def test_new_rollouts_are_written_while_the_tools_of_others_hold_all_rows(tiny, rows):
    """The tools of the first two rollouts return when the third has ended, which gets its row from one of them."""
    model, tokenizer = tiny
    ended = threading.Event()

    def search(query: str) -> str:
        return "e3" if ended.wait(60) else "weak e3"

    protocol = TagProtocol(tokenizer, ["search"], RESULT)
    protocol.stop = Stop(frozenset(range(0, 80, 2)))
    protocol.parse_calls = lambda turn, context: (
        [ParsedCall("search", "x", 0, len(turn))] if len(context) == 1 and context[0] < 7 else []
    )
    engine = TransformersEngine(model, pad_token_id=0, eos_token_ids=[], max_rows=rows)
    loop = AgentLoop(engine, protocol, ToolRunner(timeout=600), max_completion_length=40)
    starts = [Start(Rollout([5 + i], ""), {"search": search}) for i in range(3)]

    def on_end(index):
        if index == 2:
            ended.set()

    rollouts = loop.run(starts, seed=7, on_end=on_end)
    assert [[call.result for call in rollout.tool_calls] for rollout in rollouts] == [["e3"], ["e3"], []]


def test_the_likeliest_tokens_of_a_branch_point_are_kept(tiny):
    model, tokenizer = tiny
    protocol = TagProtocol(tokenizer, ["search"], RESULT)
    engine = TransformersEngine(model, pad_token_id=0, eos_token_ids=[tokenizer.eos_token_id], tokenizer=tokenizer)
    loop = AgentLoop(engine, protocol, ToolRunner(), max_completion_length=9)
    start_ids, written = [5, 6], [7, 8, 9]
    begun = Rollout(list(start_ids))
    begun.append(list(written), [0.0] * 3)
    branch, plain = loop.run([Start(begun, {}, alternatives=3), Start(Rollout(list(start_ids)), {})], seed=0)
    with torch.no_grad():
        best = torch.log_softmax(model(torch.tensor([start_ids + written])).logits[0, -1], -1).topk(3)
    assert [token for token, _ in branch.alternatives] == best.indices.tolist()
    assert [logp for _, logp in branch.alternatives] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert plain.alternatives is None
    assert branch.prefix(4).alternatives is None
