"""Books as rollouts, with tokens by hand: what is the policy's, where calls and results stand, whose a place is."""

import json
import math

import pytest

from appo.rollout.agents.rollouts import as_rollout, branched_segment, completion_of, main_segment, place_of
from appo.rollout.agents.run import AgentRun
from appo.rollout.batches import rollout_as_dict, rollout_from_dict
from appo.serve.book import Book, WrittenTurn
from appo.serve.replay import Branch

CALL = {"id": "call1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def turn(prompt, written, reason="eos", **options):
    return WrittenTurn(list(prompt), list(written), [-0.5] * len(written), reason, **options)


def book_of(*turns):
    book = Book()
    for one in turns:
        book.add(one)
    return book


def run_of(*turns, row=None):
    run = AgentRun(row or {"question": "?"}, 0, book=book_of(*turns))
    run.chain = main_segment(run.book)
    return run


def test_what_stands_between_two_turns_is_not_the_policys():
    rollout = as_rollout(
        run_of(turn([1, 2], [3, 4]), turn([1, 2, 3, 4, 5], [6]), turn([1, 2, 3, 4, 5, 6, 7, 8], [9])), [0]
    )
    assert (rollout.prompt_ids, rollout.completion_ids) == ([1, 2], [3, 4, 5, 6, 7, 8, 9])
    assert rollout.policy_mask == [1, 1, 0, 1, 0, 0, 1]
    assert [x for x in rollout.logprobs if not math.isnan(x)] == [-0.5] * 4 and math.isnan(rollout.logprobs[2])


def test_a_rollout_whose_last_turn_was_cut_off_ended_by_length():
    assert as_rollout(run_of(turn([1], [2], "length")), [0]).finish_reason == "length"
    assert as_rollout(run_of(turn([1], [2], "length"), turn([1, 2, 3], [4])), [0]).finish_reason == "stop"


def test_a_run_that_failed_says_so_unless_it_was_cut_off():
    for reason, found in (("eos", "failed"), ("length", "length")):
        run = run_of(turn([1], [2], reason))
        run.error = "KeyError"
        assert as_rollout(run, [0]).finish_reason == found


def test_the_segment_with_the_most_sampled_tokens_is_the_rollout_the_last_of_equal_ones():
    assert main_segment(book_of(turn([1], [2, 3]), turn([7], [8, 8, 8]), turn([1, 2, 3, 4], [5, 6]))) == [0, 2]
    assert main_segment(book_of(turn([1], [2, 3]), turn([7], [8, 8]))) == [1]
    assert main_segment(Book()) == []


def test_a_run_that_asked_nothing_is_an_empty_rollout_with_a_prompt():
    run = run_of(row={"prompt": "Say."})
    rollout = as_rollout(run, [42])
    assert (rollout.prompt_ids, rollout.completion_ids, rollout.prompt) == ([42], [], "Say.")
    assert rollout.environment is run


def test_calls_stand_where_their_turn_is_and_results_where_the_next_prompt_has_them():
    asked = [{"role": "user", "content": "?"}]
    told = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    after = [*asked, told, {"role": "tool", "tool_call_id": "call1", "content": "3"}]
    run = run_of(
        turn([1], [2, 3], message=told, messages=asked), turn([1, 2, 3, 4], [5], message=told, messages=after)
    )
    first, second = as_rollout(run, [0]).tool_calls
    assert (first.name, first.arguments, first.start, first.end) == ("add", {"a": 1}, 0, 2)
    assert (first.result, first.result_start, first.result_end, first.answered) == ("3", 2, 3, True)
    assert (second.start, second.end, second.answered) == (3, 4, False)  # the agent asked no more


def test_a_rollout_can_be_cut_at_each_token_of_the_policy():
    rollout = as_rollout(run_of(turn([1], [2, 3]), turn([1, 2, 3, 4], [5])), [0])
    assert [rollout.prefix(p).completion_ids for p in (0, 1, 3)] == [[], [2], [2, 3, 4]]


def test_the_place_of_a_position_is_its_turn_and_the_token_within():
    run = run_of(turn([1, 2], [3, 4]), turn([9], [9]), turn([1, 2, 3, 4, 5], [6, 7]))
    assert run.chain == [0, 2]
    assert [place_of(run, position) for position in (0, 1, 3, 4)] == [(0, 0), (0, 1), (2, 0), (2, 1)]
    for position in (2, 5, -1):
        with pytest.raises(ValueError, match="is no token of the policy"):
            place_of(run, position)


def test_the_branched_segment_is_the_one_that_was_written_on():
    record = book_of(turn([1], [2, 3]))
    run = AgentRun({}, 0, Branch(record, 0, 1), book=book_of(turn([7], [8, 8, 8, 8]), turn([1], [2, 4])))
    assert branched_segment(run) == []  # nothing was
    run.branch.written = 1
    assert branched_segment(run) == [1]


def test_a_completion_is_what_followed_the_first_request_as_the_agent_had_it():
    asked, said = [{"role": "user", "content": "?"}], {"role": "assistant", "content": "a"}
    more = {"role": "user", "content": "go on"}
    first = turn([1], [2], message=said, messages=asked)
    second = turn([1, 2, 3], [4], message=said, messages=[*asked, said, more])
    assert completion_of(run_of(first, second)) == [said, more, said]
    assert completion_of(run_of(turn([1], [2]))) is None  # token ids have no messages
    assert completion_of(run_of()) is None


def test_a_run_that_was_stored_is_the_same_run():
    told = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    asked = [{"role": "user", "content": "?"}]
    first = turn([1], [2, 3], message=told, messages=asked, also=("a", "b"), likeliest=[[(2, -0.5)], [(3, -0.25)]])
    run = run_of(first, turn([7], [8]), turn([1, 2, 3, 4], [5], settings={"limit": 4, "stop": ["</x>"]}))
    run.reward, run.error, run.seconds = 0.5, "timeout", 1.5
    again = rollout_from_dict(json.loads(json.dumps(rollout_as_dict(as_rollout(run, [0]))))).environment
    assert again.book.turns == run.book.turns and again.chain == [0, 2]
    assert {**vars(again), "book": None} == {**vars(run), "book": None}
    assert place_of(again, 3) == (2, 0)
