"""Every layout of traces is read, checked against the recipe, and trained on token for token as rollouts are built."""

import json
import logging
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import trl
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from appo import APPOConfig
from appo.data.rows import DataError
from appo.environments import kinship
from appo.protocols.chat_template import chat_protocol_for
from appo.protocols.tags import TagProtocol
from appo.rollout.records import RecordWriter
from appo.sft.demonstrations import (
    chat_demonstrations,
    check_traces,
    prompt_template,
    tag_demonstrations,
    trace_demonstrations,
)
from appo.sft.traces import read_traces, trace_files
from appo.sft.training import IGNORED, tokenize_demonstrations

FORMAT = " <result> {} </result> "
CALL = "<think> start </think> <search> boss e1 </search>"
ANSWER = "<think> done </think> <answer> e2 </answer>"
QUESTION = {"from": "human", "value": "boss e1"}
TRACE = f"{CALL}\n<result>\ne2\n</result>\n{ANSWER}"
# The same row in every layout of texts, a system prompt where the layout has one.
LAYOUTS = {
    "sharegpt": {"conversations": [QUESTION, {"from": "gpt", "value": TRACE}]},
    "sharegpt with observations": {
        "conversations": [
            QUESTION,
            {"from": "gpt", "value": CALL},
            {"from": "observation", "value": "e2"},
            {"from": "gpt", "value": f"\n{ANSWER}"},
        ]
    },
    "sharegpt, results by the human": {
        "conversations": [
            QUESTION,
            {"from": "gpt", "value": CALL},
            {"from": "human", "value": "<result> e2 </result>"},
            {"from": "gpt", "value": ANSWER},
        ]
    },
    "alpaca": {"instruction": "boss", "input": "e1", "output": TRACE},
    "messages": {"messages": [{"role": "user", "content": "boss e1"}, {"role": "assistant", "content": TRACE}]},
    "messages of parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "boss e1"}]},
            {"role": "assistant", "content": TRACE},
        ]
    },
    "verl, single turn": {"prompt": "boss e1", "response": TRACE},
    "verl, extra_info": {"extra_info": {"question": "boss e1", "answer": TRACE}},
}


@pytest.fixture
def words():
    """The testbed's tokenizer, one token per word, with a chat template of a word per message and one to begin."""
    tokenizer = kinship.make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}start{% endif %}"
    )
    return tokenizer


def write(tmp_path, *rows, name="traces.jsonl"):
    path = tmp_path / name
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def tag_rows(tokenizer, traces):
    demonstrations = tag_demonstrations(traces, TagProtocol(tokenizer, ["search"], FORMAT), ["search"])
    return tokenize_demonstrations(tokenizer, demonstrations)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_by_hand(tmp_path, words, layout, suffix):
    if suffix == ".parquet" and layout == "messages of parts":
        pytest.skip("a column of parquet has one type")
    traces = read_traces([write(tmp_path, LAYOUTS[layout], name="traces" + suffix)])
    (row,) = tag_rows(words, traces)
    # 2 words of the question and the generation prompt; think 3, call 4; result 3; think 3, answer 3, the end token
    expected = f"boss e1 start {CALL} <result> e2 </result> {ANSWER} <eos>"
    assert words.decode(row["input_ids"]) == expected
    assert [label != IGNORED for label in row["labels"]] == [False] * 3 + [True] * 7 + [False] * 3 + [True] * 7
    assert [i for i, y in zip(row["input_ids"], row["labels"], strict=True) if y != IGNORED] == [
        y for y in row["labels"] if y != IGNORED
    ]


def test_a_system_prompt_is_part_of_the_prompt(tmp_path, words):
    inside = {"conversations": [{"from": "system", "value": "well"}, QUESTION, {"from": "gpt", "value": ANSWER}]}
    beside = {"system": "well", "conversations": [QUESTION, {"from": "gpt", "value": ANSWER}]}
    rows = tag_rows(words, read_traces([write(tmp_path, inside, beside)]))
    assert rows[0] == rows[1]
    assert words.decode(rows[0]["input_ids"]) == f"well boss e1 start {ANSWER} <eos>"
    assert [label != IGNORED for label in rows[0]["labels"]] == [False] * 4 + [True] * 7


def test_white_space_around_a_result_is_that_of_result_format(tmp_path, words):
    texts = [f"{CALL}<result>e2</result>{ANSWER}", f"{CALL} \n\n<result>\n\n e2 \n</result>\n\n{ANSWER}"]
    rows = [{"prompt": "boss e1", "response": text} for text in texts]
    traces = read_traces([write(tmp_path, *rows)])
    protocol = TagProtocol(words, ["search"], "\n<result>\n{}\n</result>\n")
    first, second = (d.segments for d in tag_demonstrations(traces, protocol, ["search"]))
    assert first == second
    assert [segment.text for segment in first] == [CALL, "e2", ANSWER]
    assert first[1].token_ids == protocol.encode_results([("search", "e2")])


def test_only_a_result_behind_a_closed_call_is_the_tools(tmp_path, words):
    own = f"<think> well <result> e1 </result> </think> {TRACE}"
    (row,) = tag_rows(words, read_traces([write(tmp_path, {"prompt": "boss e1", "response": own})]))
    # The policy's own <result> comes after a word and carries loss: 3 + 2 and the word in the thought.
    assert words.decode(row["input_ids"]).startswith("boss e1 start <think> well <result> e1 </result> </think>")
    assert [label != IGNORED for label in row["labels"]] == [False] * 3 + [True] * 13 + [False] * 3 + [True] * 7


def test_the_text_of_a_token_in_a_result_is_text(tmp_path, words):
    text = f"{CALL} <result> <answer> </result> {ANSWER}"
    (row,) = tag_rows(words, read_traces([write(tmp_path, {"prompt": "boss e1", "response": text})]))
    assert row["input_ids"].count(words.convert_tokens_to_ids("<answer>")) == 1


def test_a_call_without_its_result_is_left_out_and_told(tmp_path, words, caplog):
    rows = [{"prompt": "boss e1", "response": text} for text in (f"{CALL} {ANSWER}", TRACE, CALL)]
    with caplog.at_level(logging.WARNING, "appo.sft.demonstrations"):
        found = tag_rows(words, read_traces([write(tmp_path, *rows)]))
    assert len(found) == 1
    assert "left out 2 trace(s) with a call that no result follows: line 1, line 3" in caplog.text


def test_rows_that_are_no_traces_are_named(tmp_path):
    good = {"prompt": "a", "response": "b"}
    path = write(
        tmp_path,
        {"text": "a"},
        good,
        {"conversations": [{"from": "nobody", "value": "a"}]},
        {"messages": [{"role": "user", "content": "a"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "image"}]}]},
    )
    with pytest.raises(
        DataError, match=r"4 rows cannot be read; line 1: it has neither .*; line 3: a message is from"
    ):
        read_traces([path])
    with pytest.raises(DataError, match="there are no traces"):
        read_traces([write(tmp_path)])
    with pytest.raises(DataError, match=r"there is no file none\.jsonl"):
        read_traces(["none.jsonl"])


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([f"{CALL} <result> e2"], "a result is never closed"),
        ([ANSWER, ("human", "and mother?"), ANSWER], "it asks a second question"),
        ([ANSWER, ("observation", "e2")], "a result follows no closed call"),
        (
            [f"{CALL} <result> e2 </result> e1 </result> {ANSWER}"],
            "a </result> closes nothing, so where a result ends",
        ),
        ([f"{ANSWER} and more"], "text follows </answer>, where a rollout ends"),
        ([f"{ANSWER} {TRACE}"], "text follows </answer>, where a rollout ends"),
    ],
)
def test_turns_that_no_rollout_has_are_named(tmp_path, words, turns, reason):
    said = [QUESTION]
    said += [
        {"from": turn[0], "value": turn[1]} if isinstance(turn, tuple) else {"from": "gpt", "value": turn}
        for turn in turns
    ]
    traces = read_traces([write(tmp_path, LAYOUTS["sharegpt"], {"conversations": said})])
    with pytest.raises(DataError, match=f"line 2: {reason}"):
        tag_rows(words, traces)


def test_white_space_behind_the_answer_is_dropped(tmp_path, words):
    traces = read_traces([write(tmp_path, {"prompt": "boss e1", "response": f"{ANSWER} \n\n"})])
    ((segment,),) = (
        d.segments for d in tag_demonstrations(traces, TagProtocol(words, ["search"], FORMAT), ["search"])
    )
    assert segment.text == ANSWER


def record(**values):
    return {
        "prompt": "boss e1",
        "completion_ids": [40, 41, 42, 43, 44],
        "policy_mask": [1, 1, 0, 0, 1],
        "finish_reason": "stop",
        "reward": 1.0,
        **values,
    }


def test_records_keep_their_tokens(tmp_path, words, caplog):
    rows = [record(), record(reward=0.5), record(finish_reason="length"), record(reward=None)]
    path = write(tmp_path, *rows)
    with caplog.at_level(logging.WARNING, "appo.sft.traces"):
        (row,) = tag_rows(words, read_traces([path], min_reward=0.9))
    prompt = words("boss e1")["input_ids"]
    assert row["input_ids"] == [*prompt, 40, 41, 42, 43, 44, words.eos_token_id]
    assert row["labels"] == [IGNORED, IGNORED, 40, 41, IGNORED, IGNORED, 44, words.eos_token_id]
    assert "left out 3 rollouts that were cut off or got less than 0.9" in caplog.text
    assert len(read_traces([path])) == 3


def test_a_branch_is_trained_from_where_it_begins(tmp_path, words):
    branch = record(parent=0, branch_position=2, policy_mask=[1, 1, 1, 0, 1])
    first = record(parent=None, branch_position=None)
    initial, (row,) = (tag_rows(words, read_traces([write(tmp_path, r)])) for r in (first, branch))
    prompt = [IGNORED, IGNORED]
    assert row["labels"] == [*prompt, IGNORED, IGNORED, 42, IGNORED, 44, words.eos_token_id]
    assert initial[0]["labels"] == [*prompt, 40, 41, IGNORED, IGNORED, 44, words.eos_token_id]


def test_tokens_that_the_model_does_not_have_are_told(tmp_path, words):
    last, beyond = (
        read_traces([write(tmp_path, record(completion_ids=[1, token], policy_mask=[1, 1]))])
        for token in (len(words) - 1, len(words))
    )
    assert check_traces(last, "tags", ["search"], words) == []
    (mistake,) = check_traces(beyond, "tags", ["search"], words)
    assert f"hold the token {len(words)}, but the model's tokenizer has only {len(words)}" in mistake


def test_a_rollout_that_ended_itself_gets_no_second_end(tmp_path, words):
    ids = [40, words.eos_token_id]
    (row,) = tag_rows(words, read_traces([write(tmp_path, record(completion_ids=ids, policy_mask=[1, 1]))]))
    assert row["input_ids"][2:] == ids


def test_a_run_is_read_as_its_jsonl_was(tmp_path, words):
    rows = [record(step=1), record(step=2, parent=0, branch_position=2, policy_mask=[1, 1, 1, 0, 1])]
    rows[0]["prompt"] = [{"role": "user", "content": "boss e1"}]
    writer = RecordWriter(tmp_path / "run" / "records")
    for row in rows:
        writer.append(row["step"], [{"task": "0", "rollout": 0, "omega": [1.0] * 5, **row}])
    writer.append_evaluation("before", [record(step=0, prompt="not to be learned")])
    lines = read_traces([write(tmp_path, *rows)])
    files = [str(path) for path in sorted((tmp_path / "run" / "records").glob("0*.parquet"))]
    for sources in ([str(tmp_path / "run")], files):
        for old, new in zip(lines, read_traces(sources), strict=True):
            assert (new.prompt, new.token_ids, new.policy_mask) == (old.prompt, old.token_ids, old.policy_mask)
    assert trace_files(str(tmp_path / "run")) == [Path(file) for file in files]
    assert trace_files(str(tmp_path / "missing")) == trace_files("someone/traces") == []


def test_broken_records_are_named(tmp_path):
    with pytest.raises(DataError, match="line 2: completion_ids and policy_mask must be lists of one length"):
        read_traces([write(tmp_path, record(), record(policy_mask=[1]))])
    with pytest.raises(DataError, match="its prompt is neither a text nor messages"):
        read_traces([write(tmp_path, record(prompt=None))])
    with pytest.raises(DataError, match="line 1: completion_ids must be whole numbers, none below 0"):
        read_traces([write(tmp_path, record(completion_ids=[1, 2, 3, 4, -1]))])


ASKED = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": 5},
        {"messages": [ASKED, {"role": "assistant", "content": "b", "tool_calls": 5}]},
        {"messages": [ASKED, {"role": "assistant", "tool_calls": [{"name": "a", "arguments": [1]}]}]},
        {"messages": [ASKED, {"role": ["assistant"], "content": "b"}]},
        {"messages": "[]", "system": "well"},
        {"instruction": 5, "output": "b"},
        record(reward="1"),
        record(parent=0, branch_position="2"),
    ],
)
def test_fields_of_wrong_types_are_named(tmp_path, row):
    path = write(tmp_path, LAYOUTS["alpaca"], row)
    with pytest.raises(DataError) as error:
        read_traces([path], min_reward=0.5)
    assert str(error.value) == f"{path}: 1 row cannot be read; line 2: its fields have the wrong types."


# ---- the chat template's way ----


def weather(city: str) -> str:
    """Tells the weather.

    Args:
        city: The city.
    """
    return city


@pytest.fixture(scope="module")
def qwen():
    """A tokenizer of bytes with Qwen's special tokens and its real chat template."""
    alphabet = sorted(ByteLevel.alphabet())
    backend = Tokenizer(BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
    return tokenizer


FUNCTION = {"name": "weather", "arguments": {"city": "Rome"}}
CHATS = {
    "openai": {
        "messages": [
            {"role": "user", "content": "Rome?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {**FUNCTION, "arguments": '{"city": "Rome"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "hot"},
            {"role": "assistant", "content": "It is hot."},
        ]
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Rome?"},
            {"from": "function_call", "value": json.dumps(FUNCTION)},
            {"from": "observation", "value": "hot"},
            {"from": "gpt", "value": "It is hot."},
        ]
    },
}
TURNS = (
    '<think>\n\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>',
    "\n<|im_start|>user\n<tool_response>\nhot\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    "<think>\n\n</think>\n\nIt is hot.<|im_end|>",
)


def chat_args(tmp_path, **values):
    return APPOConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none", **values)


@pytest.mark.parametrize("layout", CHATS)
def test_calls_in_messages_go_through_the_template(tmp_path, qwen, layout):
    args = chat_args(tmp_path)
    traces = read_traces([write(tmp_path, CHATS[layout])])
    assert check_traces(traces, "chat_template", ["weather"], qwen) == []
    demonstrations = list(trace_demonstrations(traces, qwen, [weather], args))
    template = prompt_template(qwen, [weather], args)
    (row,) = tokenize_demonstrations(qwen, demonstrations, template)
    prompt = qwen.apply_chat_template(
        [{"role": "user", "content": "Rome?"}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
        **template,
    )
    assert '"name": "weather"' in qwen.decode(prompt)
    call, result, answer = (qwen(text, add_special_tokens=False)["input_ids"] for text in TURNS)
    assert row["input_ids"] == [*prompt, *call, *result, *answer]
    untrained = [IGNORED] * len(result)
    assert row["labels"] == [IGNORED] * len(prompt) + call + untrained + answer
    # What a rollout appends for this result.
    assert result == chat_protocol_for(qwen, [weather]).encode_results([("weather", "hot")])


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([{"role": "assistant", "content": "hot"}, {"role": "tool", "content": "hot"}], "a result follows no call"),
        (CHATS["openai"]["messages"][1:3], "it ends with a result"),
        ([{"role": "assistant", "content": "hot"}] * 2, "a turn of the assistant follows one without a call"),
        ([CHATS["openai"]["messages"][1], *[CHATS["openai"]["messages"][2]] * 2], "a result follows no call"),
        ([CHATS["openai"]["messages"][3], *CHATS["openai"]["messages"][::3]], "it asks a second question"),
    ],
)
def test_chats_that_no_rollout_has_are_named(tmp_path, qwen, turns, reason):
    traces = read_traces([write(tmp_path, {"messages": [CHATS["openai"]["messages"][0], *turns]})])
    with pytest.raises(DataError, match=f"line 1: {reason}"):
        list(trace_demonstrations(traces, qwen, [weather], chat_args(tmp_path)))


HOT = {"role": "assistant", "content": "It is hot."}


def calls(*pairs):
    functions = [{"id": i, "type": "function", "function": {"name": name, "arguments": {}}} for i, name in pairs]
    return {"role": "assistant", "content": "", "tool_calls": functions}


def test_a_chat_with_a_call_without_its_result_is_left_out_and_told(tmp_path, qwen, caplog):
    asked, call, result, answer = CHATS["openai"]["messages"]
    two = {**call, "tool_calls": call["tool_calls"] * 2}
    turns = [[call, answer], [call], [call, result, call], [two, result, answer], [call, result, answer]]
    traces = read_traces([write(tmp_path, *({"messages": [asked, *some]} for some in turns))])
    with caplog.at_level(logging.WARNING, "appo.sft.demonstrations"):
        (kept,) = trace_demonstrations(traces, qwen, [weather], chat_args(tmp_path))
    assert [segment.text for segment in kept.segments if segment.trained] == [TURNS[0], TURNS[2]]
    assert "left out 4 trace(s) with a call that no result follows: line 1, line 2, line 3, .." in caplog.text


class Results:
    """A protocol that only keeps what it is asked to encode."""

    def __init__(self):
        self.seen = []

    def encode_results(self, results):
        self.seen.append(results)
        return [0]


# What a template with names needs: it refuses a result without one, as some do.
NAMING = (
    "{% for m in messages %}{% if m.role == 'tool' and not m.name %}{{ raise_exception('a tool without name') }}"
    "{% endif %}{{ m.content }}{% if m.role == 'assistant' %}<eos>{% endif %} {% endfor %}"
)


@pytest.mark.parametrize(
    ("ids", "answered", "expected"),
    [
        ([None, None], [None, None], [("boss", "first"), ("mother", "second")]),
        (["a", "b"], ["b", "a"], [("boss", "second"), ("mother", "first")]),
        (["a", "b"], ["b", None], [("boss", "first"), ("mother", "second")]),
    ],
)
def test_results_go_to_their_calls(tmp_path, words, ids, answered, expected):
    words.chat_template = NAMING
    results = [
        {"role": "tool", "content": text, "tool_call_id": i}
        for text, i in zip(("first", "second"), answered, strict=True)
    ]
    row = {"messages": [ASKED, calls(*zip(ids, ("boss", "mother"), strict=True)), *results, HOT]}
    protocol = Results()
    list(chat_demonstrations(read_traces([write(tmp_path, row)]), protocol, words, {}))
    assert protocol.seen == [expected]


def test_a_result_keeps_its_own_name(tmp_path, words):
    words.chat_template = NAMING
    result = {"role": "tool", "name": "mother", "content": "x"}
    protocol = Results()
    traces = read_traces([write(tmp_path, {"messages": [ASKED, calls((None, "boss")), result, HOT]})])
    list(chat_demonstrations(traces, protocol, words, {}))
    assert protocol.seen == [[("mother", "x")]]


def test_a_result_of_no_call_is_named(tmp_path, words):
    words.chat_template = NAMING
    row = {"messages": [ASKED, calls(("a", "boss")), {"role": "tool", "content": "x", "tool_call_id": "z"}, HOT]}
    with pytest.raises(DataError, match="line 1: a result's tool_call_id is that of no call before it"):
        list(chat_demonstrations(read_traces([write(tmp_path, row)]), Results(), words, {}))


def test_a_template_that_refuses_a_trace_is_named(tmp_path, words):
    words.chat_template = "{{ raise_exception('System role not supported') }}"
    traces = read_traces([write(tmp_path, {"messages": [ASKED, HOT]})])
    with pytest.raises(DataError, match=r"line 1: the chat template refuses it \(System role not supported\)"):
        list(chat_demonstrations(traces, Results(), words, {}))


def test_thoughts_in_a_field_of_their_own(tmp_path, qwen, words):
    row = {"messages": [ASKED, {**HOT, "reasoning_content": "well"}]}
    traces = read_traces([write(tmp_path, row)])
    (found,) = trace_demonstrations(traces, qwen, [weather], chat_args(tmp_path))
    assert found.segments[0].text == "<think>\nwell\n</think>\n\nIt is hot.<|im_end|>"
    with pytest.raises(DataError, match="line 1: its reasoning_content has no place in tags"):
        tag_rows(words, traces)


def test_arguments_that_parquet_adds_are_left_out(tmp_path):
    some = [{"name": "weather", "arguments": {"city": "Rome", "day": None}}]
    row = {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": some}]}
    (trace,) = read_traces([write(tmp_path, row, name="traces.parquet")])
    assert trace.turns[0]["tool_calls"][0]["function"]["arguments"] == {"city": "Rome"}


# ---- the template checked against the protocol ----


def test_calls_written_the_other_way_are_told(tmp_path, words, qwen):
    tags, messages = (read_traces([write(tmp_path, row)]) for row in (LAYOUTS["sharegpt"], CHATS["openai"]))
    assert check_traces(tags, "tags", ["search"], words) == []
    (mistake,) = check_traces(tags, "chat_template", ["search"], words)
    assert "write 1 calls as tags, but tool_protocol = 'chat_template'; set it to 'tags'" in mistake
    found = check_traces(messages, "tags", ["weather"], qwen)
    assert "write 1 calls as messages, but tool_protocol = 'tags'; set it to 'chat_template'" in found[0]
    assert "no <answer>..</answer> at all" in found[1]


def test_unknown_tools_are_named_with_counts(tmp_path):
    rows = [LAYOUTS["sharegpt"], LAYOUTS["sharegpt with observations"]]
    (mistake,) = check_traces(read_traces([write(tmp_path, *rows)]), "tags", ["python"])
    assert mistake == "traces call search (2 calls), but the tools of the task are python."


def test_messages_need_a_chat_template(tmp_path):
    plain = kinship.make_tokenizer()
    traces = read_traces([write(tmp_path, LAYOUTS["sharegpt"])])
    (mistake,) = check_traces(traces, "tags", ["search"], plain)
    assert "tokenizer has no chat template" in mistake
    assert check_traces(read_traces([write(tmp_path, record())]), "tags", ["search"], plain) == []
