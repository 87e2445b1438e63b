"""Programs from examples in Python: what runs in the sandbox, what counts, and what decisions are worth."""

import json
import random
import re
from itertools import islice

import pytest

from appo.environments.programs import TASK, chat
from appo.environments.programs.chat_judge import decision_positions
from appo.environments.programs.guesses import demonstrate
from appo.environments.programs.primitives import expression
from appo.environments.programs.questions import fits, questions
from appo.tools.python import check_isolation
from appo.tools.results import ToolError

try:
    check_isolation()
except RuntimeError as error:
    pytest.skip(str(error), allow_module_level=True)

VISIBLE = [[[3, 1, 2], [2, 1, 3]], [[4, 8, 0], [0, 8, 4]], [[5, 6, 7, 1], [1, 7, 6, 5]]]
HIDDEN = [[[9, 2, 4, 4], [4, 4, 2, 9]], [[6, 0, 8, 7, 3], [3, 7, 8, 0, 6]]]
ROW = {"visible": json.dumps(VISIBLE), "hidden": json.dumps(HIDDEN)}
TESTED = "<run_tests>{}</run_tests>\n<result>\n..\n</result>\n"


def started(**settings):
    environment = TASK(form="chat", **settings).environment_factory()
    environment.reset(**ROW)
    return environment


def drawn(count):
    return list(islice(questions(random.Random(0), (1, 2), 3, False), count))


def as_tokens(text):
    """Tokens as a byte-level BPE names them: runs of letters, with the space before, and single other characters."""
    return re.findall("[Ġ]?[A-Za-z0-9_]+|.", text.replace(" ", "Ġ").replace("\n", "Ċ"))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("xs[::-1]", "all 3 pass"),
        ("reverse(sort(xs))", "0 of 3 pass; [3,1,2] gives [3,2,1]"),
        ("reverse(xs)", "all 3 pass"),
        ("return list(reversed(xs))", "all 3 pass"),
        ("ys = xs[:]\nys.reverse()\nreturn ys", "all 3 pass"),
        ("sorted(xs)", "0 of 3 pass; [3,1,2] gives [1,2,3]"),
        ("[2, 1, 3]", "1 of 3 pass; [4,8,0] gives [2,1,3]"),
        ("xs[9]", "0 of 3 pass; [3,1,2] gives IndexError: list index out of range"),
        ("xs[", "0 of 3 pass; [3,1,2] gives SyntaxError: '[' was never closed"),
        ("__import__('sys').exit()", "0 of 3 pass; [3,1,2] gives it ended the process"),
        ("__import__('os')._exit(0)", "0 of 3 pass; [3,1,2] gives it ended the process"),
    ],
)
def test_a_test_tells_how_many_pass_and_the_first_failure(code, told):
    assert started().run_tests(code) == told


def test_a_program_that_does_not_end_passes_nothing():
    assert "stopped after 2 seconds" in started().run_tests("while True: pass")


def test_printing_and_changing_the_input_do_not_make_a_program_pass():
    printed = 'print(\'[{"value": [2, 1, 3]}, {"value": [0, 8, 4]}, {"value": [1, 7, 6, 5]}]\')\nreturn 0'
    assert started().run_tests(printed) == "0 of 3 pass; [3,1,2] gives 0"
    assert started().run_tests("xs.sort()") == "0 of 3 pass; [3,1,2] gives null"


def test_a_value_of_another_type_is_not_the_same():
    assert chat.passed([json.dumps({"value": True}), json.dumps({"value": 1})], [([1], 1), ([1], 1)]) == [False, True]


def test_tests_are_counted_also_in_a_fork():
    environment = started(tries=1)
    copy = environment.fork()
    assert environment.run_tests("xs[::-1]") == "all 3 pass"
    with pytest.raises(ToolError, match="no tries are left"):
        environment.run_tests("xs[::-1]")
    assert copy.run_tests("sorted(xs)").startswith("0 of 3")


@pytest.mark.parametrize(
    "code",
    [
        "exit([])",
        "print([]) or exit()",
        "print('[1, 2, 3]') or exit()",
        'print(\'[{"value": 1, "error": 2}, {"value": 1}, {"value": 1}]\') or exit()',
        "import json\njson.dumps = lambda *_: '7'\nreturn 0",
    ],
)
def test_a_program_that_writes_other_outputs_passes_nothing(code):
    assert started().run_tests(code).startswith("0 of 3 pass")
    assert chat.passes_all([f"<answer>{code}</answer>"], [ROW["visible"]], [ROW["hidden"]]) == [0.0]


def test_the_reward_is_one_where_all_examples_pass():
    texts = ["<answer>xs[::-1]</answer>", "<answer>sorted(xs)</answer>", "xs[::-1]", "<answer></answer>"]
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {name: [ROW[name]] * 4 for name in ("visible", "hidden")}
    assert chat.passes_all(messages, **columns) == [1.0, 0.0, 0.0, 0.0]


def test_demonstrations_tell_results_as_the_sandbox_does_and_succeed_exactly_without_a_flaw():
    rng = random.Random(2)
    for question in drawn(12):
        tested, answer = demonstrate(question, 4, 0.5, rng)
        made = chat.demonstration(question, tested, answer)
        environment = TASK(form="chat").environment_factory()
        environment.reset(**question.row())
        results = [one.text for one in made.segments if not one.trained]
        codes = [expression(program) for program in tested]
        assert results == [f"\n<result>\n{environment.run_tests(code)}\n</result>\n" for code in codes]
        text = "".join(one.text for one in made.segments)
        row = question.row()
        reward = chat.passes_all([text], [row["visible"]], [row["hidden"]])
        assert reward == [float(fits(answer, question.visible + question.hidden))]


def test_decisions_are_the_names_of_tags_and_the_first_token_of_a_program():
    words = as_tokens(TESTED.format(" sorted(xs)") + "<answer>xs</answer>")
    assert [words[place] for place in decision_positions(words)] == ["run_tests", "Ġsorted", "answer", "xs"]
    # A text without any space is one of tokens as well.
    assert len(decision_positions(as_tokens("<answer>xs[1:]</answer>"))) == 2


def test_decisions_are_worth_what_they_change():
    # With skill 0.5: 1 - 0.5^3 before two tests, 1 - 0.5^2 before one.
    text = TESTED.format("sorted(xs)") + TESTED.format("xs[::-1]") + "<answer>xs[::-1]</answer>"
    judged = TASK(form="chat", tries=2).judge(ROW, as_tokens(text), 0.5)
    assert [(one.advantage, one.right) for one in judged] == [
        (0.0, True),
        (pytest.approx(0.75 - 0.875), False),
        (0.0, True),
        (pytest.approx(0.25), True),
        (0.0, True),
        (0.0, True),
    ]


def test_answering_untested_is_wrong():
    judged = TASK(form="chat", tries=2).judge(ROW, as_tokens("<answer>sorted(xs)</answer>"), 0.5)
    assert [(one.advantage, one.right) for one in judged] == [(0.5 - 0.875, False), (-0.5, False)]


def total(text, skill=0.5):
    """V before two tests, 1 - 0.5^3 = 0.875, and what all decisions added."""
    return 0.875 + sum(one.advantage for one in TASK(form="chat", tries=2).judge(ROW, as_tokens(text), skill))


def test_a_program_that_is_missing_is_booked_at_its_tag():
    judged = TASK(form="chat", tries=2).judge(ROW, as_tokens("<answer></answer>"), 0.5)
    assert [(one.position, one.advantage, one.right) for one in judged] == [(1, -0.875, False)]
    empty = TESTED.format("")
    judged = TASK(form="chat", tries=2).judge(ROW, as_tokens(empty), 0.5)
    assert [(one.position, one.advantage, one.right) for one in judged] == [(1, 0.75 - 0.875, False)]
    assert total(empty + "<answer>xs[::-1]</answer>") == 1.0
    assert total(empty + TESTED.format("") + TESTED.format("") + "<answer> </answer>") == 0.0


def test_a_tag_that_was_cut_off_has_chosen_to_test_and_no_more():
    judged = TASK(form="chat", tries=2).judge(ROW, as_tokens("<run_tests>"), 0.5)
    assert [(one.advantage, one.right) for one in judged] == [(0.0, True)]
