"""What reward functions read is the same whether tags are text or special tokens, and whoever opened the thought."""

import pytest
from test_chat_templates import TEMPLATES, make_tokenizer
from test_loop import ScriptedEngine

from appo.protocols.chat_template import chat_protocol_for
from appo.protocols.tags import TagProtocol
from appo.rewards import completion_text, paper_reward_func
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.types import Rollout
from appo.tools.runner import ToolRunner

TAGS = [f"<{slash}{name}>" for name in ("think", "search", "python", "result", "answer") for slash in ("", "/")]
QUESTION = [{"role": "user", "content": "The capital of France?"}]
ANSWER = r"<think>so</think><answer>\boxed{Paris}</answer>"
TAG_TURNS = ["<think>I search.</think><search>capital</search>", ANSWER]
QWEN3_CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "capital"}}\n</tool_call>'
QWEN3_5_CALL = (
    "<tool_call>\n<function=search>\n<parameter=query>\ncapital\n</parameter>\n</function>\n</tool_call>"  # as XML
)


def search(query: str) -> str:
    """Finds pages.

    Args:
        query: What is looked for.

    Returns:
        A page.
    """
    return f"Paris is the {query}."


def with_tags(special, template="qwen3"):
    """A tokenizer that may hold the paper's tags as special tokens."""
    tokenizer = make_tokenizer("qwen3", (TEMPLATES / f"{template}.jinja").read_text())
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": TAGS}, replace_extra_special_tokens=False)
    return tokenizer


def write(tokenizer, protocol, prompt, turns):
    """A rollout whose turns are given; the last one ends with the token that ends turns."""
    engine = ScriptedEngine(tokenizer, {0: [*turns[:-1], turns[-1] + tokenizer.eos_token]})
    loop = AgentLoop(engine, protocol, ToolRunner(), max_completion_length=2000)
    rollout = Rollout(tokenizer(prompt, add_special_tokens=False)["input_ids"], prompt)
    loop.run([Start(rollout, {"search": search})], seed=0)
    assert engine.contexts[0] == rollout.prompt_ids + rollout.completion_ids
    return rollout


def opened(turns):
    """Turns and prompt where the prompt has opened the first thought."""
    return "Q: capital?\n<think>\n", [turns[0].removeprefix("<think>"), *turns[1:]]


@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize("special", [False, True])
def test_tags_are_rewarded_alike(special, opens, conversational):
    tokenizer = with_tags(special)
    protocol = TagProtocol(tokenizer, ["search"])
    prompt, turns = opened(TAG_TURNS) if opens else ("Q: capital?\n", TAG_TURNS)
    rollout = write(tokenizer, protocol, prompt, turns)
    completion = protocol.completion(rollout, conversational)
    result = "\n<result>\nParis is the capital.\n</result>\n"
    assert completion_text(completion) == TAG_TURNS[0] + result + ANSWER
    assert paper_reward_func(completions=[completion], answer=["Paris"]) == [1.0]


def test_a_thought_that_is_opened_twice_is_written_once():
    tokenizer = with_tags(special=False)
    protocol = TagProtocol(tokenizer, ["search"])
    rollout = write(tokenizer, protocol, "Q: capital?\n<think>\n", [ANSWER])
    assert protocol.completion(rollout, conversational=False) == ANSWER


@pytest.mark.parametrize("before", ["", "\n", " \n\n"])
def test_a_thought_that_is_opened_twice_is_written_once_whatever_space_is_between(before):
    tokenizer = with_tags(special=False)
    rollout = write(
        tokenizer, protocol := TagProtocol(tokenizer, ["search"]), "Q: capital?\n<think>", [before + ANSWER]
    )
    assert protocol.completion(rollout, conversational=False) == before + ANSWER


@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("protocol_for", [lambda t: TagProtocol(t, []), lambda t: chat_protocol_for(t, [])])
@pytest.mark.parametrize("thought", ["\n\n", "\nI have thought.\n"])
def test_a_thought_that_the_prompt_closed_is_rewarded_like_one_that_the_policy_wrote(
    thought, protocol_for, conversational
):
    tokenizer = with_tags(special=False)
    protocol = protocol_for(tokenizer)
    rollout = write(
        tokenizer, protocol, f"Q: capital?\n<think>{thought}</think>\n\n", [ANSWER.partition("</think>")[2]]
    )
    completion = protocol.completion(rollout, conversational)
    assert completion_text(completion) == rf"<think>{thought}</think><answer>\boxed{{Paris}}</answer>"
    assert paper_reward_func(completions=[completion], answer=["Paris"]) == [1.0]


@pytest.mark.parametrize("calls", [False, True])
@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize(("template", "call"), [("qwen3", QWEN3_CALL), ("qwen3_5_think", QWEN3_5_CALL)])
def test_a_chat_template_that_closes_the_thought_is_rewarded_alike(template, call, conversational, calls):
    tokenizer = with_tags(False, template)
    off = {"enable_thinking": False}
    protocol = chat_protocol_for(tokenizer, [search], chat_template_kwargs=off)
    prompt = tokenizer.apply_chat_template(
        QUESTION, [search], add_generation_prompt=True, tokenize=False, chat_template=protocol.chat_template, **off
    )
    assert prompt.endswith("<think>\n\n</think>\n\n")
    turns = [call + tokenizer.eos_token] * calls + [r"<answer>\boxed{Paris}</answer>"]
    rollout = write(tokenizer, protocol, prompt, turns)
    assert [call.error for call in rollout.tool_calls] == [None] * calls
    completion = protocol.completion(rollout, conversational)
    assert paper_reward_func(completions=[completion], answer=["Paris"]) == [1.0]


@pytest.mark.parametrize("opens", [False, True])
def test_an_empty_thought_of_the_policys_own_is_not_lost_by_the_parser(opens):
    tokenizer = with_tags(False, "qwen3_5_think" if opens else "qwen3")
    protocol = chat_protocol_for(tokenizer, [search])
    prompt = tokenizer.apply_chat_template(
        QUESTION, [search], add_generation_prompt=True, tokenize=False, chat_template=protocol.chat_template
    )
    assert prompt.endswith("<think>\n") is opens
    turn = ("" if opens else "<think>") + "\n</think>\n\n<answer>\\boxed{Paris}</answer>"
    completion = protocol.completion(write(tokenizer, protocol, prompt, [turn]), conversational=True)
    assert paper_reward_func(completions=[completion], answer=["Paris"]) == [1.0]


@pytest.mark.parametrize("special", [False, True])
def test_an_end_token_is_no_text_even_beside_special_tags(special):
    tokenizer = with_tags(special)
    protocol = TagProtocol(tokenizer, [])
    rollout = write(tokenizer, protocol, "Q: capital?\n", [ANSWER])
    assert rollout.completion_ids[-1] == tokenizer.eos_token_id
    assert protocol.completion(rollout, conversational=False) == ANSWER


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(
    ("template", "call"),
    [("qwen3", QWEN3_CALL), ("qwen3_5_think", QWEN3_5_CALL), ("qwen3", None), ("deepseek_r1_distill", None)],
)
def test_chat_templates_are_rewarded_alike(template, call, special):
    tokenizer = with_tags(special, template)
    tools = [search] if call else []
    protocol = chat_protocol_for(tokenizer, tools)
    prompt = tokenizer.apply_chat_template(
        QUESTION, tools=tools or None, add_generation_prompt=True, tokenize=False, chat_template=protocol.chat_template
    )
    opens = prompt.endswith("<think>\n")
    assert opens is (template != "qwen3")
    written = "" if opens else "<think>"
    turns = [f"{written}so</think>\n\n" + r"<answer>\boxed{Paris}</answer>"]
    if call:
        turns.insert(0, f"{written}I search.</think>\n\n{call}{tokenizer.eos_token}")
    rollout = write(tokenizer, protocol, prompt, turns)
    assert [call.error for call in rollout.tool_calls] == [None] * len(tools)
    completion = protocol.completion(rollout, conversational=True)
    assert paper_reward_func(completions=[completion], answer=["Paris"]) == [1.0]
    if not call:
        assert paper_reward_func(completions=[protocol.completion(rollout, False)], answer=["Paris"]) == [1.0]
