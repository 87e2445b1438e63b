"""10,000 mutated outputs for each protocol: no exception, spans inside the turn, and a mask that is right.

A failure names its seed: `mutate(texts, tokenizer, random.Random(seed))` writes the same output again.
"""

import random

import pytest
from test_chat_templates import FAMILIES, QUESTION, check_alignment, make_protocol, make_tokenizer, render, weather
from test_loop import ScriptedEngine

from appo.engines.base import Turn
from appo.engines.stops import StopMatcher
from appo.protocols.tags import TagProtocol
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.types import Rollout
from appo.tools.runner import ToolRunner

OUTPUTS = 10_000
TURNS = 4  # at most, of a rollout
INSERTS = [
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<answer>", "</answer>", "<result>", "</result>"),
    *("<weather>", "</weather>", "<python>", "</python>", "<|python_tag|>", "<|im_start|>assistant\n", "<|eom_id|>"),
    *(
        '{"name": "weather", ',
        '"arguments": {',
        '"parameters": ',
        "{",
        "}",
        "[",
        "]",
        '"',
        "\\",
        ",",
        ":",
        "<",
        ">",
        "/",
    ),
    *("\\ud800", "\\u0000", "\x00", "\ue000", "\U0001f600", "\u4e2d", "\u0301", "\r\n", "null", "1e999"),
    *(" ", "\n", "@@result-0@@", "weather", "wether", "city"),
]
HUGE = ["[" * 2000, "9" * 5000, "<tool_call>{}</tool_call>" * 200, "<weather>" * 300]
CALL = '{"name": "weather", "arguments": {"city": "Paris"}}'
CHAT_TEXTS = {
    "qwen": [f"<tool_call>\n{CALL}\n</tool_call>", f"<think>\nso\n</think>\n\n<tool_call>\n{CALL}\n</tool_call>"],
    "llama": [f'{mark}{{"name": "weather", "parameters": {{"city": "Paris"}}}}' for mark in ("", "<|python_tag|>")],
    "smollm2-object": [f"<tool_call>\n{CALL}\n</tool_call>", f"Yes. <tool_call>{CALL}</tool_call>"],
    "smollm2-list": [f"<tool_call>[{CALL}]</tool_call>", f"<tool_call>[{CALL}, {CALL}]</tool_call>"],
}
TAG_TEXTS = ["<think>so</think> <weather>Paris</weather>", "<python>print(1)</python>", "so <answer>hot</answer>"]


def mutate(texts, tokenizer, chance):
    """Token ids of one of the texts after one to three mutations of its text and up to two of its tokens."""
    text = chance.choice(texts)
    for _ in range(chance.randint(1, 3)):
        start, end = sorted(chance.randint(0, len(text)) for _ in range(2))
        kind = chance.choice(["delete", "duplicate", "swap", "insert", "insert", "truncate", "nest"])
        if kind == "delete":
            text = text[:start] + text[min(end, start + 8) :]
        elif kind == "duplicate":
            text = text[:end] + text[start:]
        elif kind == "swap":
            text = text[end:] + text[start:end] + text[:start]
        elif kind == "insert":
            text = text[:start] + chance.choice(HUGE if chance.random() < 0.01 else INSERTS) + text[start:]
        elif kind == "truncate":
            text = text[: max(start, end)]
        else:
            text = text[:start] + chance.choice(texts) + text[start:]
    ids = tokenizer(text[:20_000], add_special_tokens=False)["input_ids"]
    for _ in range(chance.randint(0, 2)):  # bytes that are no UTF-8, and any other token
        ids.insert(chance.randint(0, len(ids)), chance.randrange(len(tokenizer)))
    return ids


class SamplingEngine(ScriptedEngine):
    """Writes outputs up to the token that ends a turn, as an engine does; keeps what it wrote and was given."""

    def __init__(self, outputs, protocol, ends):
        super().__init__(None, {0: outputs})
        self.protocol, self.ends, self.turns, self.results = protocol, ends, [], []

    def start(self, request):
        super().start(request)
        self.matcher = StopMatcher(request.stop, self.protocol.tokenizer)

    def resume(self, id, token_ids, max_new_tokens):
        super().resume(id, token_ids, max_new_tokens)
        self.results.append(list(token_ids))

    def step(self):
        id, budget = self.queue.pop(0)
        output = self.scripts[id].pop(0) if self.scripts[id] else []
        written, reason = [], "length"
        for token in [*output, min(self.ends)][:budget]:
            written.append(token)
            if token in self.ends or self.matcher.ended(written):
                reason = "stop"
                break
        self.turns.append(written)
        return [Turn(id, list(written), [-0.5] * len(written), reason)]


def check_spans(protocol, output, seed):
    for call in protocol.parse_calls(output, []):
        assert 0 <= call.start < call.end <= len(output), f"seed {seed}"
        assert (call.arguments is None) == (call.error is not None), f"seed {seed}"


def check_rollout(protocol, rollout, engine):
    check_alignment(rollout, engine.turns, engine.results)
    for call in rollout.tool_calls:
        assert set(rollout.policy_mask[call.start : call.end]) == {1}
        assert 1 not in rollout.policy_mask[call.result_start : call.result_end]
        if isinstance(protocol, TagProtocol) and call.error is None:  # the span is the call, to the token
            ids = rollout.completion_ids
            assert protocol.tokenizer.decode(ids[call.start : call.end]).find(f"<{call.name}>") in (0, 1)
            assert f"<{call.name}>" not in protocol.tokenizer.decode(ids[call.start + 1 : call.end])
    protocol.completion(rollout, conversational=True)


def fuzz(protocol, texts, prompt, ends, count):
    """Numbers of calls that were run, and of calls that were answered with an error."""
    errors, runner, seed = [], ToolRunner(), 0
    outputs = [mutate(texts, protocol.tokenizer, random.Random(seed)) for seed in range(count)]
    for number, output in enumerate(outputs):
        check_spans(protocol, output, number)
    while seed < count:  # one rollout after another, each with as many outputs as it takes
        engine = SamplingEngine(outputs[seed : seed + TURNS + 1], protocol, ends)
        loop = AgentLoop(engine, protocol, runner, max_completion_length=30_000, max_tool_calling_iterations=TURNS)
        rollout = Rollout(list(prompt), [QUESTION])
        try:
            loop.run([Start(rollout, {"weather": weather})], seed=0)
            check_rollout(protocol, rollout, engine)
        except Exception as error:
            raise AssertionError(f"a rollout that begins with seed {seed}") from error
        errors += [call.error for call in rollout.tool_calls]
        seed += len(engine.turns)
    runner.close()
    return errors.count(None), len(errors) - errors.count(None)


@pytest.mark.parametrize("family", FAMILIES)
def test_mutated_calls_of_instruct_models(family):
    protocol = make_protocol(family)
    texts = next(texts for name, texts in CHAT_TEXTS.items() if family.startswith(name))
    prompt = render(protocol, [QUESTION], prompt=True)
    run, refused = fuzz(protocol, texts, prompt, protocol.eos_token_ids, -(-OUTPUTS // len(FAMILIES)))
    assert run > 10
    assert refused > 50


def test_mutated_calls_of_tags():
    tokenizer = make_tokenizer("qwen2_5")
    protocol = TagProtocol(tokenizer, ["weather", "python"])
    prompt = tokenizer("Weather?")["input_ids"]
    run, refused = fuzz(protocol, TAG_TEXTS, prompt, [tokenizer.eos_token_id], OUTPUTS)
    assert run > 100
    assert refused > 500
