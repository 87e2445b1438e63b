"""The agent loop: tokens, masks and log-probabilities stay aligned through calls, limits and branches."""

import math

import pytest
import torch

from appo.engines.base import Turn
from appo.engines.transformers_engine import TransformersEngine
from appo.environments.kinship import KinshipEnvironment
from appo.protocols.tags import TagProtocol
from appo.rollout.environments import EnvironmentPool
from appo.rollout.loop import UNKNOWN, AgentLoop, Start, ToolCounter
from appo.rollout.turn_calls import CALL_LIMIT
from appo.rollout.types import Rollout
from appo.tools.runner import ToolRunner

RESULT = " <result> {} </result> "


class ScriptedEngine:
    """Writes given texts, a turn at a time: for rollouts whose every token is known."""

    def __init__(self, tokenizer, scripts):
        self.tokenizer, self.scripts, self.queue, self.contexts = tokenizer, scripts, [], {}

    @property
    def busy(self):
        return bool(self.queue)

    def start(self, request):
        self.contexts[request.id] = list(request.token_ids)
        self.queue.append((request.id, request.max_new_tokens))

    def resume(self, id, token_ids, max_new_tokens):
        self.contexts[id] += token_ids
        self.queue.append((id, max_new_tokens))

    def close(self, id):
        pass

    def step(self):
        id, budget = self.queue.pop(0)
        ids = self.tokenizer(self.scripts[id].pop(0), add_special_tokens=False)["input_ids"]
        reason = "length" if len(ids) >= budget else "stop"
        ids = ids[:budget]
        self.contexts[id] += ids
        return [Turn(id, ids, [-0.5] * len(ids), reason)]


def make_loop(engine, tokenizer, **options):
    options = {"max_completion_length": 60, **options}
    return AgentLoop(engine, TagProtocol(tokenizer, ["search"], RESULT), ToolRunner(timeout=600), **options)


def start(tokenizer, pool, seed=1, prompt="mother boss e1"):
    environment, _ = pool.open({"seed": seed})
    rollout = Rollout(tokenizer(prompt)["input_ids"], prompt, environment=environment)
    return Start(rollout, pool.tools_of(environment))


CALL = "<think> plan start mother </think> <search> mother e1 </search>"
ANSWER = "<think> plan boss done </think> <answer> e5 </answer>"


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_mask_and_logprobs_are_aligned_after_calls(tiny, calls):
    _, tokenizer = tiny
    pool = EnvironmentPool([], KinshipEnvironment)
    loop = make_loop(ScriptedEngine(tokenizer, {0: [CALL] * calls + [ANSWER]}), tokenizer)
    (rollout,) = loop.run([start(tokenizer, pool)], seed=0)
    assert len(rollout.tool_calls) == calls
    assert len(rollout.completion_ids) == len(rollout.policy_mask) == len(rollout.logprobs)
    assert [math.isnan(x) for x in rollout.logprobs] == [not m for m in rollout.policy_mask]
    for call in rollout.tool_calls:
        assert tokenizer.decode(rollout.completion_ids[call.start : call.end]) == "<search> mother e1 </search>"
        shown = tokenizer.decode(rollout.completion_ids[call.result_start : call.result_end])
        assert shown == f"<result> {call.result} </result>"
        assert not any(rollout.policy_mask[call.result_start : call.result_end])
    assert sum(rollout.policy_mask) == len(tokenizer(CALL)["input_ids"]) * calls + len(tokenizer(ANSWER)["input_ids"])
    assert rollout.finish_reason == "stop"


def test_the_call_limit_counts_the_calls_of_the_prefix(tiny):
    _, tokenizer = tiny
    pool = EnvironmentPool([], KinshipEnvironment)
    loop = make_loop(ScriptedEngine(tokenizer, {0: [CALL] * 5}), tokenizer, max_tool_calling_iterations=2)
    (parent,) = loop.run([start(tokenizer, pool)], seed=0)
    assert (len(parent.tool_calls), parent.finish_reason) == (2, "tool_limit")
    prefix = parent.prefix(parent.tool_calls[1].start)  # one answered call: one is left
    pool.enter_prefix(prefix, {"seed": 1}, loop.runner)
    loop.engine.scripts = {0: ["<search> mother e1 </search>", CALL]}
    (branch,) = loop.run([Start(prefix, pool.tools_of(prefix.environment))], seed=0)
    assert (len(branch.tool_calls), branch.finish_reason) == (2, "tool_limit")


def test_a_call_beyond_the_limit_is_not_run_and_says_why(tiny):
    _, tokenizer = tiny
    runs = []

    def search(query: str) -> str:
        """Searches. Args: query: What."""
        runs.append(query)
        return "e2"

    loop = make_loop(ScriptedEngine(tokenizer, {0: [CALL, CALL, ANSWER]}), tokenizer, max_tool_calls=1)
    prompt_ids = tokenizer("mother boss e1")["input_ids"]
    (rollout,) = loop.run([Start(Rollout(prompt_ids), {"search": search})], seed=0)
    assert runs == ["mother e1"]
    assert [call.error for call in rollout.tool_calls] == [None, CALL_LIMIT]
    assert rollout.tool_calls[1].result.startswith("error: the limit of 1 tool calls is reached")
    assert rollout.finish_reason == "stop"

    # Entering a prefix runs again only what ran.
    prefix = rollout.prefix(rollout.tool_calls[1].result_end)
    methods = {"reset": lambda self, **row: None, "search": lambda self, query: search(query)}
    methods["search"].__name__ = "search"
    EnvironmentPool([], type("Searching", (), methods)).enter_prefix(prefix, {}, loop.runner)
    assert runs == ["mother e1"] * 2


def test_calls_are_counted_by_tool(tiny):
    _, tokenizer = tiny

    def search(query: str) -> str:
        """Searches. Args: query: What."""
        if query == "mother e2":
            raise OSError("down")
        return "e2"

    failing = CALL.replace("e1", "e2")
    loop = make_loop(ScriptedEngine(tokenizer, {0: [CALL, failing, ANSWER], 1: [CALL, ANSWER]}), tokenizer)
    starts = [
        Start(Rollout(tokenizer("mother boss e1")["input_ids"]), tools) for tools in ({"search": search}, {"ask": 0})
    ]
    loop.run(starts, seed=0)
    known, unknown = loop.counters.tools["search"], loop.counters.tools[UNKNOWN]
    assert (known.calls, known.failures, known.timeouts) == (2, 1, 0)
    assert unknown == ToolCounter(calls=1, failures=1)
    assert loop.counters.errors == {"OSError": 1, "unknown tool": 1}


def test_the_end_of_each_rollout_is_told_and_its_own_seed_is_used(tiny):
    _, tokenizer = tiny
    engine = ScriptedEngine(tokenizer, {0: [CALL, ANSWER], 1: [ANSWER]})
    seeds, ended = {}, []
    start_request = engine.start
    engine.start = lambda request: (seeds.update({request.id: request.seed}), start_request(request))
    pool = EnvironmentPool([], KinshipEnvironment)
    starts = [start(tokenizer, pool), start(tokenizer, pool)]
    starts[1].seed = 7
    make_loop(engine, tokenizer).run(starts, seed=0, on_end=ended.append)
    assert ended == [1, 0]
    assert seeds[1] == 7 != seeds[0]


def test_the_words_of_a_prompt_do_not_use_up_the_call_limit(tiny):
    _, tokenizer = tiny
    pool = EnvironmentPool([], KinshipEnvironment)
    prompt = "<search> mother e1 </search> <search> mother e1 </search> mother boss e1"
    loop = make_loop(ScriptedEngine(tokenizer, {0: [CALL, ANSWER]}), tokenizer, max_tool_calling_iterations=1)
    (rollout,) = loop.run([start(tokenizer, pool, prompt=prompt)], seed=0)
    assert (len(rollout.tool_calls), rollout.finish_reason) == (1, "stop")


def test_the_token_limit_counts_results_and_drops_what_does_not_fit(tiny):
    _, tokenizer = tiny
    pool = EnvironmentPool([], KinshipEnvironment)
    size = len(tokenizer(CALL)["input_ids"])
    loop = make_loop(ScriptedEngine(tokenizer, {0: [CALL]}), tokenizer, max_completion_length=size + 2)
    (rollout,) = loop.run([start(tokenizer, pool)], seed=0)
    assert rollout.finish_reason == "length"
    assert len(rollout.completion_ids) == size
    assert (rollout.tool_calls[0].result_start, rollout.tool_calls[0].result_end) == (-1, -1)
    assert rollout.answered_turns() == []


@pytest.mark.parametrize("limit", ["max_completion_length", "context_length"])
def test_a_result_fits_where_a_token_can_follow_it(tiny, limit):
    """One that exactly fills the room would be read by nobody: it is left out."""
    _, tokenizer = tiny
    pool = EnvironmentPool([], KinshipEnvironment)

    def write(**options):
        loop = make_loop(ScriptedEngine(tokenizer, {0: [CALL, ANSWER]}), tokenizer, **options)
        return loop.run([start(tokenizer, pool)], seed=0)[0]

    whole = write()
    call = whole.tool_calls[0]
    end = call.result_end + (len(whole.prompt_ids) if limit == "context_length" else 0)
    full, one_left = write(**{limit: end}), write(**{limit: end + 1})
    assert (full.finish_reason, one_left.finish_reason) == ("length", "length")
    assert full.completion_ids == whole.completion_ids[: call.end]
    assert full.tool_calls[0].result_start == full.tool_calls[0].result_end
    assert one_left.completion_ids == whole.completion_ids[: call.result_end + 1]
    assert one_left.tool_calls[0].result_end == call.result_end


def weak_query():
    from appo.environments.kinship import is_weak

    return next(seed for seed in range(100) if is_weak(seed, "mother", "e1"))


class DeepCopied:
    """The testbed's environment without `fork`."""

    def __init__(self):
        self._inner = KinshipEnvironment()

    def reset(self, seed: int, **row):
        self._inner.reset(seed, **row)

    def search(self, query: str) -> str:
        return self._inner.search(query)


class Replayed(DeepCopied):
    """One that cannot be copied either."""

    def __deepcopy__(self, memo):
        raise TypeError("it holds a socket")


@pytest.mark.parametrize("kind", [KinshipEnvironment, DeepCopied, Replayed])
@pytest.mark.parametrize(("position", "expected"), [("before the call", "weak"), ("after the call", "strong")])
def test_a_branch_starts_from_the_state_its_prefix_left(tiny, kind, position, expected):
    """The testbed's first answer is weak and the second is not: asking again shows which state the branch has."""
    _, tokenizer = tiny
    seed = weak_query()
    pool = EnvironmentPool([], kind)
    loop = make_loop(ScriptedEngine(tokenizer, {0: [CALL, CALL, ANSWER]}), tokenizer)
    (parent,) = loop.run([start(tokenizer, pool, seed)], seed=0)
    assert [call.result.startswith("weak") for call in parent.tool_calls] == [True, False]
    at = parent.tool_calls[0 if position == "before the call" else 1].start
    for _ in range(2):  # the first branch must not change the state for the second
        prefix = parent.prefix(at)
        pool.enter_prefix(prefix, {"prompt": "mother boss e1", "seed": seed}, loop.runner)
        loop.engine.scripts = {0: ["<search> mother e1 </search>", ANSWER]}
        (branch,) = loop.run([Start(prefix, pool.tools_of(prefix.environment))], seed=0)
        assert branch.tool_calls[-1].result.startswith("weak") == (expected == "weak")
        assert branch.completion_ids[:at] == parent.completion_ids[:at]


def test_resuming_inside_a_call_reads_the_whole_call(tiny):
    _, tokenizer = tiny
    pool = EnvironmentPool([], KinshipEnvironment)
    loop = make_loop(ScriptedEngine(tokenizer, {0: [CALL, ANSWER]}), tokenizer)
    (parent,) = loop.run([start(tokenizer, pool)], seed=0)
    at = parent.tool_calls[0].start + 2  # behind `<search> mother`
    prefix = parent.prefix(at)
    pool.enter_prefix(prefix, {"seed": 1}, loop.runner)
    loop.engine.scripts = {0: ["e2 </search>", ANSWER]}
    (branch,) = loop.run([Start(prefix, pool.tools_of(prefix.environment))], seed=0)
    assert branch.tool_calls[0].arguments == "mother e2"
    assert branch.tool_calls[0].error is None
    text = tokenizer.decode(branch.completion_ids)
    assert text.startswith("<think> plan start mother </think> <search> mother e2 </search> <result>")


def test_a_prefix_that_ends_with_a_whole_call_gets_its_result_first(tiny):
    _, tokenizer = tiny
    pool = EnvironmentPool([], KinshipEnvironment)
    loop = make_loop(ScriptedEngine(tokenizer, {0: [CALL, ANSWER]}), tokenizer)
    (parent,) = loop.run([start(tokenizer, pool)], seed=0)
    prefix = parent.prefix(parent.tool_calls[0].end)
    pool.enter_prefix(prefix, {"seed": 1}, loop.runner)
    loop.engine.scripts = {0: [ANSWER]}
    (branch,) = loop.run([Start(prefix, pool.tools_of(prefix.environment))], seed=0)
    assert branch.completion_ids == parent.completion_ids


def test_nonsense_in_a_call_becomes_a_result_the_policy_reads(tiny):
    _, tokenizer = tiny
    pool = EnvironmentPool([], KinshipEnvironment)
    scripts = {0: ["<search> e1 </search>", "mother </search>", ANSWER]}
    loop = make_loop(ScriptedEngine(tokenizer, scripts), tokenizer)
    (rollout,) = loop.run([start(tokenizer, pool)], seed=0)
    assert [call.error for call in rollout.tool_calls] == ["ToolError", "malformed call"]
    assert loop.counters.errors == {"ToolError": 1, "malformed call": 1}
    assert rollout.finish_reason == "stop"


def test_logprobs_of_the_loop_equal_a_plain_forward(tiny):
    model, tokenizer = tiny
    pool = EnvironmentPool([], KinshipEnvironment)
    protocol = TagProtocol(tokenizer, ["search"], RESULT)
    engine = TransformersEngine(model, pad_token_id=0, eos_token_ids=[tokenizer.eos_token_id], tokenizer=tokenizer)
    loop = AgentLoop(engine, protocol, ToolRunner(), max_completion_length=30)
    prefix = tokenizer(CALL, add_special_tokens=False)["input_ids"]
    starts = []
    for i in range(8):
        begin = start(tokenizer, pool, seed=i)
        begin.rollout.append(prefix, [0.0] * len(prefix))  # starts with a call, so that a result comes in
        starts.append(begin)
    for rollout in loop.run(starts, seed=3):
        assert len(rollout.tool_calls) >= 1
        with torch.no_grad():
            ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
            logps = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
        logps = logps[len(rollout.prompt_ids) - 1 :]
        written = [i for i, m in enumerate(rollout.policy_mask) if m and i >= len(prefix)]
        sampled = torch.tensor([rollout.logprobs[i] for i in written])
        torch.testing.assert_close(sampled, logps[written], atol=1e-4, rtol=0)


class Silent:
    """Its tool answers nothing and counts; `replayed` tells one that was reset from a copy."""

    def __init__(self, count=0):
        self.count, self.replayed = count, False

    def reset(self, **row):
        self.replayed = True

    def fork(self):
        return Silent(self.count)

    def search(self, query: str) -> str:
        self.count += 1
        return ""


def silent_loop(tokenizer, texts, **options):
    protocol = TagProtocol(tokenizer, ["search"], "{}")
    engine = ScriptedEngine(tokenizer, {0: texts})
    return AgentLoop(engine, protocol, ToolRunner(timeout=60), max_completion_length=200, **options)


def test_turns_whose_result_has_no_tokens_count_towards_the_limit(tiny):
    _, tokenizer = tiny
    pool = EnvironmentPool([], Silent)
    loop = silent_loop(tokenizer, [CALL] * 9, max_tool_calling_iterations=2)
    (rollout,) = loop.run([start(tokenizer, pool)], seed=0)
    size = len(tokenizer(CALL)["input_ids"])
    assert (len(rollout.tool_calls), rollout.finish_reason) == (2, "tool_limit")
    assert rollout.answered_turns() == [size, 2 * size]


def test_a_branch_behind_results_without_tokens_goes_on_from_their_state(tiny):
    _, tokenizer = tiny
    pool = EnvironmentPool([], Silent)
    loop = silent_loop(tokenizer, [CALL, CALL, ANSWER], max_tool_calling_iterations=3)
    (parent,) = loop.run([start(tokenizer, pool)], seed=0)
    size = len(tokenizer(CALL)["input_ids"])
    for position, answered in ((size - 1, 0), (size, 1), (size + 1, 1), (2 * size, 2), (2 * size + 1, 2)):
        prefix = parent.prefix(position)
        pool.enter_prefix(prefix, {"seed": 1}, loop.runner)
        assert (len(prefix.tool_calls), prefix.environment.count) == (answered, answered)
        assert not prefix.environment.replayed
    loop.engine.scripts = {0: [CALL, CALL]}
    (branch,) = loop.run([Start(prefix, pool.tools_of(prefix.environment))], seed=0)
    assert (len(branch.tool_calls), branch.environment.count, branch.finish_reason) == (3, 3, "tool_limit")


def test_two_tools_of_one_name_are_refused():
    def search(query: str) -> str:
        """Searches. Args: query: What."""
        return query

    pool = EnvironmentPool([search], KinshipEnvironment)  # whose own tool is `search`
    with pytest.raises(ValueError, match="two tools are called search; rename one"):
        pool.tools_of(KinshipEnvironment())
