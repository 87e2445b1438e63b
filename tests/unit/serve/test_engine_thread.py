"""Requests of many threads, one engine: who writes beside whom changes nothing, and whoever goes away is closed."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from appo.engines.base import Request
from appo.engines.transformers_engine import TransformersEngine
from appo.serve.engine_thread import EngineFailed, EngineThread, Left, request_of


class Watched(TransformersEngine):
    """The embedded engine, which keeps the ids that it was told to close and may fail on purpose."""

    fails_with = None

    def __init__(self, model):
        self.closed = []
        super().__init__(model, pad_token_id=model.config.pad_token_id, eos_token_ids=[-1])

    def close(self, id):
        self.closed.append(id)
        super().close(id)

    def step(self):
        if self.fails_with is not None:
            error, self.fails_with = self.fails_with, None
            raise error
        return super().step()


@pytest.fixture
def thread(tiny):
    thread = EngineThread(Watched(tiny[0]))
    yield thread
    thread.close()


def alone(model, request):
    engine = Watched(model)
    engine.start(request)
    while engine.busy:
        for turn in engine.step():
            return turn.token_ids


def test_requests_of_many_threads_are_written_as_if_each_were_alone(tiny, thread):
    def ask(n):
        return thread.write(request_of([5, 6 + n], 10 + n, n)).turn.result(timeout=60).token_ids

    with ThreadPoolExecutor(6) as pool:
        written = list(pool.map(ask, range(6)))
    assert written == [alone(tiny[0], Request(0, [5, 6 + n], 10 + n, n)) for n in range(6)]


def test_whoever_leaves_is_closed_and_its_neighbour_writes_what_it_would_have_written(tiny, thread):
    begun = threading.Event()
    leaving = thread.write(request_of([7], 900, 1), lambda ids: begun.set())
    staying = thread.write(request_of([8], 200, 2))
    assert begun.wait(60)
    thread.leave(leaving)
    with pytest.raises(Left):
        leaving.turn.result(timeout=60)
    assert staying.turn.result(timeout=60).token_ids == alone(tiny[0], Request(0, [8], 200, 2))
    assert thread.engine.closed == [leaving.id, staying.id]
    thread.leave(leaving)  # once more is nothing
    assert thread.call(lambda engine: engine.busy).result(timeout=60) is False


def test_tokens_are_told_as_they_come(thread):
    told = []
    turn = thread.write(request_of([7], 12, 1), lambda ids: told.append(list(ids))).turn.result(timeout=60)
    assert [len(ids) for ids in told] == list(range(1, 12))  # the twelfth comes with the turn
    assert all(turn.token_ids[: len(ids)] == ids for ids in told)


def test_a_request_that_the_engine_refuses_fails_alone(thread):
    good = thread.write(request_of([7], 5, 1))
    with pytest.raises(ValueError, match="has no tokens to continue"):
        thread.write(request_of([], 5, 1)).turn.result(timeout=60)
    assert len(good.turn.result(timeout=60).token_ids) == 5


def test_a_step_that_fails_ends_what_is_open_and_the_next_request_is_written(tiny, thread):
    thread.engine.fails_with = RuntimeError("out of memory")
    writings = [thread.write(request_of([7], 5, n)) for n in range(2)]
    wait([writing.turn for writing in writings], timeout=60)
    assert thread.failures >= 1
    with pytest.raises(EngineFailed, match="RuntimeError: out of memory"):
        writings[0].turn.result()
    after = thread.write(request_of([7], 5, 3)).turn.result(timeout=60)
    assert after.token_ids == alone(tiny[0], Request(0, [7], 5, 3))


def test_work_on_the_engine_is_done_between_steps_and_its_fault_is_the_callers(tiny, thread):
    thread.call(lambda engine: engine.load(tiny[0])).result(timeout=60)
    writing = thread.write(request_of([7], 900, 1))
    with pytest.raises(RuntimeError, match="new weights came while sequences are open"):
        thread.call(lambda engine: engine.load(tiny[0])).result(timeout=60)
    thread.leave(writing)


def test_a_closed_thread_takes_nothing_and_fails_what_was_open(tiny):
    thread = EngineThread(Watched(tiny[0]))
    writing = thread.write(request_of([7], 900, 1))
    thread.close()
    with pytest.raises(EngineFailed):
        writing.turn.result(timeout=60)
    with pytest.raises(EngineFailed, match="has been closed"):
        thread.write(request_of([7], 5, 1))
    assert not thread.alive
