"""The engine, the equipment and the chat protocol, with a scripted server in the place of verl's; no Ray."""

import asyncio
from types import SimpleNamespace

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from appo.environments import kinship
from appo.errors import UserError
from appo.integrations.verl.chat import VerlChatProtocol
from appo.integrations.verl.engine import VerlEngine
from appo.integrations.verl.equipment import Equipment, resolver
from appo.integrations.verl.options import VerlOptions
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.types import Rollout

KINSHIP = {"environment": "appo.environments.kinship:KinshipEnvironment", "tool_protocol": "tags"}


def letters():
    """A tokenizer with a token for each byte."""
    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")


class ScriptedServer:
    """Gives the next text at each request, as tokens, and notes what it was asked."""

    def __init__(self, tokenizer, *texts):
        self.texts, self.tokenizer, self.asked = list(texts), tokenizer, []

    async def generate(self, request_id, prompt_ids, sampling_params):
        self.asked.append((request_id, list(prompt_ids), dict(sampling_params)))
        ids = self.tokenizer(self.texts.pop(0), add_special_tokens=False)["input_ids"]
        return SimpleNamespace(token_ids=ids, log_probs=[-1.0] * len(ids), extra_fields={"global_steps": 3})


def write(server, equipment, rollout, environment=None, **options):
    """A rollout as the agent loop writes it: in a thread, with requests in the event loop."""

    async def run():
        loop = asyncio.get_running_loop()
        tokenizer = server.tokenizer
        engine = VerlEngine(
            server, loop, {"temperature": 0.7}, "r", eos_token_ids=[tokenizer.eos_token_id], tokenizer=tokenizer
        )
        agent_loop = AgentLoop(
            engine, equipment.protocol, equipment.runner, max_completion_length=40, keep_snapshots=False
        )
        with equipment.pool() as pool:
            rollout.environment = environment
            start = Start(rollout, pool.tools_of(environment), seed=5)
            await asyncio.to_thread(agent_loop.run, [start], 0)
        return engine

    return asyncio.run(run())


def fresh(tokenizer, prompt="start mother e2"):
    environment = kinship.KinshipEnvironment()
    environment.reset(11)
    return Rollout(tokenizer(prompt, add_special_tokens=False)["input_ids"], prompt), environment


def test_a_server_that_writes_on_is_cut_at_the_end_of_the_turn():
    tokenizer = kinship.make_tokenizer()
    server = ScriptedServer(tokenizer, "<search> mother e2 </search> so now", "<answer> e4 </answer>")
    rollout, environment = fresh(tokenizer)
    engine = write(server, Equipment(VerlOptions(**KINSHIP), tokenizer), rollout, environment)
    found = environment.search("mother e2")
    assert [(call.name, call.arguments) for call in rollout.tool_calls] == [("search", "mother e2")]
    assert rollout.policy_mask.count(1) == 4 + 3 and engine.dropped == 2  # `so now` is not kept
    assert rollout.finish_reason == "stop" and found in kinship.ENTITIES


def test_a_server_is_asked_in_vllms_words():
    tokenizer = kinship.make_tokenizer()
    server = ScriptedServer(tokenizer, "<search> mother e2 </search>", "<answer> e4 </answer>")
    rollout, environment = fresh(tokenizer)
    engine = write(server, Equipment(VerlOptions(**KINSHIP), tokenizer), rollout, environment)
    (first, ids, sampling), (second, more, again) = server.asked
    assert first == second == "r"  # a request id of its own, so that the server that has its cache is found
    assert sampling["stop"] == ["</answer>", "</search>"] and sampling["include_stop_str_in_output"]
    assert (sampling["temperature"], sampling["logprobs"], sampling["max_tokens"]) == (0.7, True, 40)
    assert more[: len(ids)] == ids and len(more) - len(ids) == 40 - again["max_tokens"]
    assert sampling["seed"] != again["seed"] and engine.versions == [3, 3]


def test_a_branch_that_begins_within_a_closing_tag_ends_with_it():
    """verl's server never sees the whole tag: half of it stands in what it is asked to continue."""
    tokenizer = letters()
    parent = Rollout([0])
    written = tokenizer("<search>q</sear", add_special_tokens=False)["input_ids"]
    parent.append(written, [-1.0] * len(written))
    server = ScriptedServer(tokenizer, "ch>xxxx", "<|im_end|>")
    equipment = Equipment(VerlOptions(tools=["test_agent_loop:search"], tool_protocol="tags"), tokenizer)
    write(server, equipment, parent)
    assert [(call.name, call.error) for call in parent.tool_calls] == [("search", None)]


def search(query: str) -> str:
    """Looks something up.

    Args:
        query: What.
    """
    return "q"


async def async_reward(completions, answer, **columns):
    return [1.0 if answer == ["e1"] else None]


def half(completions, **columns):
    return [0.5 for _ in completions]


def infinite(completions, **columns):
    return [float("inf") for _ in completions]


def scored(row, *names):
    tokenizer = kinship.make_tokenizer()
    functions = [f"test_agent_loop:{name}" for name in names]
    equipment = Equipment(VerlOptions(**KINSHIP, reward_funcs=functions), tokenizer)
    rollout = Rollout([1], prompt=[{"role": "user", "content": "x"}], completion_ids=[2], policy_mask=[1])

    async def run():
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(equipment.score, rollout, row, resolver(loop))

    asyncio.run(run())
    return rollout


def test_rewards_are_added_up_and_none_is_not_0():
    both = scored({"answer": "e1"}, "async_reward", "half")
    assert both.reward == 1.5 and both.rewards == {"async_reward": 1.0, "half": 0.5}
    assert scored({"answer": "e2"}, "async_reward", "half").reward == 0.5
    assert scored({"answer": "e2"}, "async_reward").reward is None


def test_an_infinite_reward_is_refused_by_the_functions_name():
    with pytest.raises(UserError, match="reward function infinite returned an infinite reward"):
        scored({"answer": "e1"}, "half", "infinite")


def test_environments_are_built_once_and_lent_again():
    equipment = Equipment(VerlOptions(**KINSHIP), kinship.make_tokenizer())
    with equipment.pool() as first:
        environment, _ = first.open({"seed": 1})
        with equipment.pool() as second:
            assert second is not first
    with equipment.pool(), equipment.pool() as idle:  # the second one came back first
        assert idle.open({"seed": 2})[0] is environment


# ---- chat templates ----

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{% if m.get('tool_calls') %}<tool_call>{% endif %}"
    "{{ m['content'] }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def chat_tokenizer():
    """With two tokens of chat templates."""
    tokenizer = letters()
    tokenizer.add_tokens([AddedToken(tag, special=False) for tag in ("<tool_call>", "</tool_call>")])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def plain(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_verls_parser_reads_a_call(chat_tokenizer):
    protocol = VerlChatProtocol(chat_tokenizer, {"search": search}, "hermes")
    protocol_ids = ids_of(chat_tokenizer, "<tool_call>")
    assert len(protocol_ids) == 1 and [schema["function"]["name"] for schema in protocol.schemas] == ["search"]


def test_results_are_written_by_the_template_up_to_where_the_policy_writes_on(chat_tokenizer):
    protocol = VerlChatProtocol(chat_tokenizer, {"search": search}, "hermes")
    assert plain(chat_tokenizer, protocol.encode_results([("search", "found")])) == "[tool]found<|im_end|>[assistant]"


def test_a_special_token_in_a_result_stays_text(chat_tokenizer):
    protocol = VerlChatProtocol(chat_tokenizer, {"search": search}, "hermes")
    ids = protocol.encode_results([("search", "a<|im_end|>b")])
    assert ids.count(chat_tokenizer.eos_token_id) == 1  # the template's own
    assert plain(chat_tokenizer, ids) == "[tool]a<|im_end|>b<|im_end|>[assistant]"


def test_a_parser_that_verl_does_not_have_is_refused_by_name(chat_tokenizer):
    with pytest.raises(UserError, match=r"multi_turn.format = 'latin' is no parser of verl's; use one of .*hermes"):
        VerlChatProtocol(chat_tokenizer, {"search": search}, "latin")


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (
            '<tool_call>{"name": "search", "arguments": {"query": "x"}}</tool_call>',
            [("search", {"query": "x"}, None)],
        ),
        ("just an answer", []),
    ],
)
def test_turns_are_read(chat_tokenizer, text, calls):
    protocol = VerlChatProtocol(chat_tokenizer, {"search": search}, "hermes")
    ids = [*ids_of(chat_tokenizer, text), chat_tokenizer.eos_token_id]
    found = protocol.parse_calls(ids, [])
    assert [(call.name, call.arguments, call.error) for call in found] == calls


def test_a_broken_call_tells_the_policy_what_is_wrong(chat_tokenizer):
    protocol = VerlChatProtocol(chat_tokenizer, {"search": search}, "hermes")
    ids = ids_of(chat_tokenizer, '<tool_call>{"name": "search", "arguments": {</tool_call>')
    (call,) = protocol.parse_calls(ids, [])
    assert call.name == "search" and "its JSON is wrong near" in call.error
