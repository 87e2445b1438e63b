"""Engines that are asked for one turn at a time: where a turn ends, and when a server is asked again."""

from concurrent.futures import Future

import pytest

from appo.engines.base import Request, Stop
from appo.engines.remote import Answer, RemoteEngine
from appo.engines.sequences import Sequence
from appo.engines.stops import StopMatcher

EOS = 9


class Scripted(RemoteEngine):
    """Gives the answers that it was made with, in order, and keeps the questions."""

    def __init__(self, *answers, **options):
        super().__init__(eos_token_ids=[EOS], **options)
        self.answers, self.questions = list(answers), []

    def submit(self, question):
        self.questions.append(question)
        future = Future()
        future.set_result(self.answers.pop(0))
        return future

    def load(self, weights):
        pass


def answer(*token_ids, **options):
    return Answer(list(token_ids), [-0.5 * token for token in token_ids], **options)


def test_a_turn_ends_with_the_first_token_that_ends_it_and_what_follows_is_dropped():
    engine = Scripted(answer(1, 2, 3, 4))
    engine.start(Request(0, [7], 8, 0, Stop(frozenset({2}))))
    (turn,) = engine.step()
    assert (turn.token_ids, turn.logprobs, turn.reason) == ([1, 2], [-0.5, -1.0], "stop")
    assert engine.dropped == 2
    engine.answers = [answer(EOS)]
    engine.resume(0, [5, 6], 4)
    assert engine.questions[1].token_ids == [7, 1, 2, 5, 6]  # nothing of what was dropped
    assert engine.step()[0].reason == "eos"


def test_a_server_that_stopped_too_early_is_asked_again_for_the_rest_with_another_seed():
    engine = Scripted(answer(1, 2), answer(3, EOS))
    engine.start(Request(0, [7, 8], 10, 0))
    assert engine.step() == []
    (turn,) = engine.step()
    assert (turn.token_ids, turn.reason) == ([1, 2, 3, EOS], "eos")
    first, second = engine.questions
    assert (second.token_ids, second.max_tokens) == ([7, 8, 1, 2], 8)
    assert first.seed != second.seed and engine.asked_again == 1


def test_the_budget_ends_a_turn():
    engine = Scripted(answer(1, 2, 3))
    engine.start(Request(0, [7], 3, 0))
    assert engine.step()[0].reason == "length"


def test_every_turn_has_a_seed_of_its_own():
    engine = Scripted(answer(EOS), answer(EOS), answer(EOS))
    engine.start(Request(0, [7], 3, 5))
    engine.step()
    engine.resume(0, [1], 3)
    engine.step()
    engine.close(0)
    engine.start(Request(0, [7], 3, 5))
    seeds = [question.seed for question in engine.questions]
    assert seeds[0] == seeds[2] != seeds[1]
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_alternatives_belong_to_the_first_token_of_the_first_request():
    engine = Scripted(answer(1, alternatives=[(1, -0.5), (4, -2.0)]), answer(EOS), answer(EOS))
    engine.start(Request(0, [7], 3, 5, top_alternatives=2))
    engine.step()
    (turn,) = engine.step()
    assert turn.alternatives == [(1, -0.5), (4, -2.0)]
    engine.resume(0, [1], 3)
    assert [question.top_alternatives for question in engine.questions] == [2, 0, 0]
    assert engine.step()[0].alternatives is None


def test_requests_that_no_engine_could_serve_are_refused():
    engine = Scripted(context_length=8)
    with pytest.raises(ValueError, match="request 3 has no tokens to continue"):
        engine.start(Request(3, [], 2, 0))
    with pytest.raises(ValueError, match="has 6 tokens and may write 3 more, but the engine takes 8 in all"):
        engine.start(Request(3, [1] * 6, 3, 0))
    assert not engine.is_open


def test_an_answer_without_tokens_is_an_error_and_no_endless_loop():
    engine = Scripted(answer())
    engine.start(Request(4, [1], 3, 0))
    with pytest.raises(RuntimeError, match="wrote no token for sequence 4"):
        engine.step()


def test_a_failed_request_raises_in_the_step():
    engine = Scripted()
    failed = Future()
    failed.set_exception(ConnectionError("gone"))
    engine.submit = lambda question: failed
    engine.start(Request(4, [1], 3, 0))
    with pytest.raises(ConnectionError, match="gone"):
        engine.step()


class Letters:
    """A tokenizer whose token n is the n-th character of the alphabet below."""

    alphabet = "</a>bc"

    def get_vocab(self):
        return {character: index for index, character in enumerate(self.alphabet)}

    def __len__(self):
        return len(self.alphabet)

    def decode(self, ids):
        return "".join(self.alphabet[index] for index in ids)


def test_a_closing_tag_that_began_in_the_context_ends_the_turn():
    stop = Stop(strings=("</a>",))
    ids = Letters().get_vocab()
    context = [ids["b"], ids["<"], ids["/"], ids["a"]]
    sequence = Sequence(Request(0, context, 4, 0, stop, turn_tokens=4), StopMatcher(stop, Letters()), frozenset())
    assert sequence.take(ids[">"], -1.0) == "stop"


def test_a_closing_tag_of_an_earlier_turn_does_not_count():
    stop = Stop(strings=("</a>",))
    ids = Letters().get_vocab()
    context = [ids["<"], ids["/"], ids["a"]]
    sequence = Sequence(Request(0, context, 4, 0, stop, turn_tokens=0), StopMatcher(stop, Letters()), frozenset())
    assert sequence.take(ids[">"], -1.0) is None


def test_a_turn_can_be_read_as_far_as_it_has_come():
    engine = Scripted(answer(1, 2), answer(3, EOS))
    engine.start(Request(0, [7], 8, 0))
    assert engine.step() == [] and engine.so_far(0) == [1, 2]
    (turn,) = engine.step()
    assert turn.token_ids == [1, 2, 3, EOS] and engine.so_far(0) == [] and engine.so_far(1) == []


def test_a_sequence_that_is_closed_while_it_is_written_gives_no_turn():
    engine = Scripted(answer(1, EOS), answer(2, EOS))
    engine.start(Request(0, [7], 3, 5))
    engine.start(Request(1, [8], 3, 5))
    engine.close(0)
    assert [turn.id for turn in engine.step()] == [1]
    assert not engine.busy


def test_the_temperature_of_a_sequence_and_its_likeliest_tokens_are_asked_for_each_time():
    told = [[(1, -0.5), (4, -2.0), (5, -3.0)], [(EOS, -0.1), (4, -3.0)]]
    engine = Scripted(answer(1, top_logprobs=told[:1]), answer(EOS, top_logprobs=told[1:]))
    engine.start(Request(0, [7], 3, 5, temperature=0.0, top_logprobs=2))
    assert engine.step() == []
    (turn,) = engine.step()
    assert turn.top_logprobs == [[(1, -0.5), (4, -2.0)], [(EOS, -0.1), (4, -3.0)]]
    assert [(question.temperature, question.top_logprobs) for question in engine.questions] == [(0.0, 2)] * 2
