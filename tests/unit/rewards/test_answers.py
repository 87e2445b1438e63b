"""The tag protocol: which answer counts, what breaks the format, which tools were used."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appo.rewards import extract_answer, format_errors
from appo.rewards.answers import last_box, parse_blocks, used_tools

GOOD = (
    "<think>I search.</think>\n<search>capital of France</search>\n<result>\nParis\n</result>\n"
    "<think>Now count.</think><python>print(len('Paris'))</python><result>5</result>"
    r"<think>Done.</think><answer>It has \boxed{5} letters.</answer>"
)
SHORT = r"<think>a</think><answer>\boxed{5}</answer>"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (GOOD, "5"),
        (SHORT, "5"),
        (r"<answer>\boxed{1} or \boxed{2}</answer>", "2"),
        (r"<answer>\boxed{1}</answer><answer>\boxed{2}</answer>", "2"),
        (r"<answer>\boxed{1}</answer><answer>\boxed{2}", "1"),
        (r"<answer>\boxed{\frac{1}{2}}</answer>", r"\frac{1}{2}"),
        (r"<answer>\boxed {\{1, 2\}}</answer>", r"\{1, 2\}"),
        (r"<answer>\boxed{\left\{ x \right.}</answer>", r"\left\{ x \right."),
        (r"<answer>\boxed{\boxed{5}}</answer>", "5"),
        (r"<answer>\boxed{x = \boxed{5}}</answer>", r"x = \boxed{5}"),
        (r"<answer>\boxed{ \boxed{5} </answer>", "5"),
        (r"<answer>\boxed{5</answer>", None),
        (r"<answer>\boxed{5} then \boxed{6</answer>", "5"),
        (r"<answer>\boxed{}</answer>", None),
        (r"<answer>\boxed{ }</answer>", None),
        ("<answer> Paris </answer>", "Paris"),
        ("<answer> </answer>", None),
        ("<answer>use <answer>Paris</answer>", "Paris"),
        (r"<answer>\boxed{5}", None),
        # boxes that never count
        (r"<think>\boxed{5}</think>", None),
        (r"<think>\boxed{5}", None),
        (r"<think><answer>\boxed{5}</answer></think>", None),
        (r"<think>a</think><python>print('\boxed{5}')</python>", None),
        (r"<search>q</search><result>\boxed{5}</result>", None),
        (r"<search>q</search><result><answer>\boxed{5}</answer></result>", None),
        (r"<search>q</search><result>\boxed{5}", None),
        (r"<answer>\boxed{1}</answer><search>q</search><result><answer>\boxed{9}</answer></result>", "1"),
        (r"<think>\boxed{1}</think><answer>\boxed{2}</answer>", "2"),
        (r"\boxed{1}<answer>\boxed{2</answer>", None),
        # without tags
        (r"So it is \boxed{5}, or rather \boxed{6}.", "6"),
        (r"<think>\boxed{1}</think>It is \boxed{2}.", "2"),
        (r"\boxed{1}<think>\boxed{2}</think>", "1"),
        (r"thought that the prompt began: \boxed{1}</think> It is \boxed{2}.", "2"),
        (r"\boxed{1}</think>", None),
        (r"\boxed{1", None),
        ("It is 5.", None),
        ("", None),
    ],
)
def test_the_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        (GOOD, []),
        (SHORT, []),
        (SHORT + "<|im_end|>", []),
        (r"<think>I could write <search> or <answer></think><answer>\boxed{5}</answer>", []),
        (r"<answer>\boxed{5}</answer>", ["no <think>"]),
        ("", ["no <think>", "no <answer>"]),
        ("<think>a</think>5", ["no <answer>"]),
        ("<think>a</think><answer>5</answer>", [r"no complete \boxed{} in <answer>"]),
        (r"<think>a</think><answer>\boxed{5</answer>", [r"no complete \boxed{} in <answer>"]),
        (r"<think>a</think><answer>\boxed{}</answer>", [r"an empty \boxed{} in <answer>"]),
        (SHORT + r"<answer>\boxed{5}</answer>", ["2 <answer> blocks instead of one"]),
        (SHORT + "<think>b</think>", ["tags after <answer>"]),
        (r"<think>a<answer>\boxed{5}</answer>", ["<think> is not closed", "no <answer>"]),
        (r"a</think><answer>\boxed{5}</answer>", ["</think> without an opening tag", "no <think>"]),
        (r"<think>a<think>b</think><answer>\boxed{5}</answer>", ["<think> inside <think>"]),
        (
            r"<think><search>q</search></think><answer>\boxed{5}</answer>",
            ["a call inside <think>"],
        ),
        ("<search>q</search>" + SHORT, ["<search> without its <result>"]),
        (
            "<search>q</search> so <result>r</result>" + SHORT,
            ["<search> without its <result>", "<result> without its call"],
        ),
        ("<result>r</result>" + SHORT, ["<result> without its call"]),
        ("<python>1<result>r</result>" + SHORT, ["<python> is not closed", "no <think>", "no <answer>"]),
        (SHORT + "<search>q</search>", ["<search> without its <result>", "tags after <answer>"]),
        ("</python>" + SHORT, ["</python> without an opening tag"]),
    ],
)
def test_format_errors(text, errors):
    assert format_errors(text) == errors


def test_used_tools():
    assert used_tools(GOOD) == {"search", "python"}
    assert used_tools("<search>q</search><python>1</python><result>1</result>") == {"python"}
    assert used_tools("<think><python>1</python><result>1</result></think>") == set()


@pytest.mark.parametrize(
    "piece",
    [
        r"\boxed{",
        "<think>",
        "</think>",
        "<answer>",
        "<search>",
        "<think><search></think>",
        "{",
        "<answer></answer>",
        "\\",
    ],
)
def test_long_texts_take_linear_time(piece):
    start = time.thread_time()  # of this thread's work, however busy the machine is
    extract_answer(piece * 20_000)
    format_errors(piece * 20_000)
    assert time.thread_time() - start < 10


PIECES = ["<think>", "</think>", "<search>", "</search>", "<python>", "</python>", "<result>", "</result>", "<answer>"]
PIECES += ["</answer>", r"\boxed{", "{", "}", "\\", "x", " "]


@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text_is_read(text):
    answer = extract_answer(text)
    assert answer is None or answer == answer.strip() != ""
    if not format_errors(text):
        assert answer is not None and len(parse_blocks(text)) >= 3
    assert last_box(text) is None or last_box(text) in text
