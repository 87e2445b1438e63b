"""The parts of a rollout, found without a tokenizer."""

from appo.report.text.segments import segments


def parts(texts, mask=None, calls=(), tags=True, end="stop"):
    """(part, text) of each segment; `calls` are (start, end, result_start, result_end)."""
    names = ("start", "end", "result_start", "result_end")
    record = {
        "policy_mask": mask or [1] * len(texts),
        "tool_calls": [dict(zip(names, places, strict=True)) for places in calls],
        "finish_reason": end,
    }
    return [(one.part, "".join(texts[one.start : one.end])) for one in segments(record, texts, tags=tags)]


def test_a_rollout_in_tags_has_thought_call_result_and_answer():
    texts = ["I look.", "<py>", "1", "</py>", "<result>", "1", "</result>", "So", "<", "answer", ">", "1", "</answer>"]
    mask = [1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert parts(texts, mask, [(1, 4, 4, 7)]) == [
        ("thought", "I look."),
        ("call", "<py>1</py>"),
        ("result", "<result>1</result>"),
        ("thought", "So"),
        ("answer", "<answer>1</answer>"),
    ]


def test_a_call_beyond_the_tokens_ends_with_them():
    assert parts(["a", "b"], calls=[(1, 9, 9, 12)]) == [("thought", "a"), ("call", "b")]
    assert parts(["a", "b"], calls=[(5, 9, 9, 12)]) == [("thought", "ab")]


def test_a_thought_that_speaks_of_the_answers_tag_is_no_answer():
    texts = ["<think>", "an ", "<answer>", " follows", "</think>", "<answer>", "2"]
    assert parts(texts) == [("thought", "<think>an <answer> follows</think>"), ("answer", "<answer>2")]


def test_without_the_answers_tag_there_is_no_answer_in_tags():
    assert parts(["It", " is 2"]) == [("thought", "It is 2")]


def test_the_last_turn_of_a_chat_template_is_the_answer_after_its_thoughts():
    assert parts(["It", " is 2"], tags=False) == [("answer", "It is 2")]
    texts = ["<think>", "hm", "</think>", "2"]
    assert parts(texts, tags=False) == [("thought", "<think>hm</think>"), ("answer", "2")]
    assert parts(texts[:2], tags=False, end="length") == [("thought", "<think>hm")]


def test_the_thoughts_of_a_turn_with_calls_are_no_call():
    texts = ["<think>hm", "</think>", "<tool_call>", "{}", "</tool_call>", "r"]
    found = parts(texts, [1, 1, 1, 1, 1, 0], [(0, 5, 5, 6), (0, 5, 5, 6)], tags=False)
    assert found == [("thought", "<think>hm</think>"), ("call", "<tool_call>{}</tool_call>"), ("result", "r")]


def test_both_calls_of_a_turn_belong_to_its_parts():
    record = {
        "policy_mask": [1, 0],
        "tool_calls": [{"start": 0, "end": 1, "result_start": 1, "result_end": 2, "name": name} for name in "ab"],
    }
    call, result = segments(record, ["c", "r"], tags=False)
    assert [one["name"] for one in call.calls] == ["a", "b"] == [one["name"] for one in result.calls]


def test_the_turn_beyond_the_limit_of_calls_is_a_call():
    assert parts(["<py>", "1"], end="tool_limit") == [("call", "<py>1")]


def test_a_call_whose_result_did_not_fit_ends_the_rollout():
    assert parts(["so", "<py>", "</py>"], calls=[(1, 3, -1, -1)]) == [("thought", "so"), ("call", "<py></py>")]


def test_tokens_whose_text_is_not_known_keep_their_places():
    assert [(one.part, one.start, one.end) for one in segments({"policy_mask": [1, 0, 1]}, [None] * 3, tags=True)] == [
        ("thought", 0, 1),
        ("result", 1, 2),
        ("thought", 2, 3),
    ]
