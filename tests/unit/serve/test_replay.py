"""Replay branching on hand-made records: what is answered from the record, what is forced, and each way to diverge."""

import pytest

from appo.serve.book import Book, WrittenTurn
from appo.serve.replay import Branch, Diverged

SETTINGS = {"temperature": 1.0, "limit": 8}
PROMPTS = ([1, 2], [1, 2, 10, 11, 12, 5], [1, 2, 10, 11, 12, 5, 20, 21, 22, 6])


@pytest.fixture
def record():
    """Three turns of three tokens, each of which continues the one before it."""
    book = Book()
    for prompt, written in zip(PROMPTS, ([10, 11, 12], [20, 21, 22], [30, 31, 32]), strict=True):
        book.add(WrittenTurn(prompt, written, [-1.0, -2.0, -3.0], "eos", SETTINGS))
    assert [turn.kind for turn in book.turns.values()] == ["opened", "continued", "continued"]
    return book


def test_turns_before_the_chosen_one_are_the_records_then_tokens_are_forced_then_the_policy_is_free(record):
    branch = Branch(record, turn=1, position=2)
    first = branch.meet(PROMPTS[0], SETTINGS)
    assert (first.turn.token_ids, first.forced) == ([10, 11, 12], None) and not branch.reached
    second = branch.meet(PROMPTS[1], SETTINGS)
    assert (second.turn.token_ids[: second.forced], branch.reached) == ([20, 21], True)
    assert branch.meet([1, 2, 10, 11, 12, 5, 20, 21, 99], SETTINGS) is None
    assert branch.outcome is None


@pytest.mark.parametrize(
    ("answered", "prompt", "settings", "cause"),
    [
        (0, [1, 3], SETTINGS, "opening"),
        (1, [1, 2, 10, 11, 12, 7], SETTINGS, "results"),
        (1, [1, 2, 10, 11, 99, 5], SETTINGS, "history"),
        (1, PROMPTS[1], {**SETTINGS, "limit": 9}, "settings"),
    ],
)
def test_whatever_differs_from_the_record_ends_the_branch_for_its_cause(record, answered, prompt, settings, cause):
    branch = Branch(record, turn=2, position=0)
    for one in PROMPTS[:answered]:
        branch.meet(one, SETTINGS)
    with pytest.raises(Diverged, match=cause):
        branch.meet(prompt, settings)
    assert branch.outcome == cause
    with pytest.raises(Diverged):
        branch.meet(PROMPTS[answered], SETTINGS)  # it stays over


def test_an_agent_that_ends_before_the_chosen_turn_has_not_reached_it(record):
    branch = Branch(record, turn=2, position=0)
    branch.meet(PROMPTS[0], SETTINGS)
    assert branch.outcome == "unreached"


def test_a_request_that_was_not_answered_may_come_again(record):
    branch = Branch(record, turn=1, position=1)
    branch.meet(PROMPTS[0], SETTINGS)
    branch.back(branch.meet(PROMPTS[1], SETTINGS))
    assert not branch.reached
    assert branch.meet(PROMPTS[1], SETTINGS).forced == 1 and branch.reached


def test_requests_at_once_may_come_in_another_order():
    book = Book()
    for prompt in ([1], [2], [1]):
        book.add(WrittenTurn(prompt, [prompt[0] * 10], [-1.0], "eos", SETTINGS))
    branch = Branch(book, turn=2, position=0)
    assert branch.meet([2], SETTINGS).number == 1
    assert [branch.meet([1], SETTINGS).number for _ in range(2)] == [0, 2]


@pytest.fixture
def with_a_lost_answer():
    """The first request came twice, as its answer was lost; the agent went on from the second answer."""
    book = Book()
    for prompt, written in (([1], [2]), ([1], [3]), ([1, 3, 9], [4])):
        book.add(WrittenTurn(prompt, written, [-1.0], "eos", SETTINGS))
    assert [turn.kind for turn in book.turns.values()] == ["opened", "repeated", "continued"]
    return book


def test_a_request_that_was_repeated_is_answered_with_what_the_agent_went_on_from(with_a_lost_answer):
    branch = Branch(with_a_lost_answer, turn=2, position=0)
    assert branch.meet([1], SETTINGS).turn.token_ids == [3]
    assert branch.meet([1, 3, 9], SETTINGS).forced == 0 and branch.outcome is None


@pytest.mark.parametrize(("turn", "token"), [(0, 2), (1, 3)])
def test_each_answer_to_a_repeated_request_can_be_branched(with_a_lost_answer, turn, token):
    branch = Branch(with_a_lost_answer, turn, position=0)
    step = branch.meet([1], SETTINGS)
    assert (step.turn.token_ids, step.forced) == ([token], 0) and branch.reached


@pytest.mark.parametrize(("prompt", "cause"), [([1, 3, 8], "results"), ([1, 7, 9], "history")])
def test_an_answer_that_was_lost_does_not_hide_the_cause(with_a_lost_answer, prompt, cause):
    branch = Branch(with_a_lost_answer, turn=2, position=0)
    branch.meet([1], SETTINGS)
    with pytest.raises(Diverged, match=cause):
        branch.meet(prompt, SETTINGS)


def test_of_requests_that_differ_in_their_settings_alone_each_gets_its_own_answer():
    book = Book()
    for temperature in (0.5, 1.0):
        book.add(WrittenTurn([1], [2], [-1.0], "eos", {"temperature": temperature}))
    branch = Branch(book, turn=1, position=0)
    assert branch.meet([1], {"temperature": 1.0}).number == 1


@pytest.mark.parametrize(("turn", "position"), [(3, 0), (0, 3), (0, -1)])
def test_a_place_that_the_record_has_not_is_refused(record, turn, position):
    with pytest.raises(ValueError, match="must"):
        Branch(record, turn, position)
