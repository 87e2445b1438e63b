"""An environment that cannot be copied is branched by a replay of its calls, and only where that gives the same."""

import itertools

import pytest
from test_loop import ANSWER, CALL, ScriptedEngine, make_loop, start

from appo.rollout.counters import RunCounters
from appo.rollout.environments import EnvironmentPool, ReplayDiverged
from appo.rollout.loop import snapshot
from appo.rollout.prefixes import Prefixes
from appo.rollout.tree import BranchPoint, RolloutTree

ROW = {"prompt": "mother boss e1", "seed": 1}


class Uncopied:
    """Counts its calls, and has a lock, as clients of servers do."""

    def __deepcopy__(self, memo):
        raise TypeError("it holds a lock")

    def reset(self, **row):
        self.count = 0
        return self.greeting()

    def greeting(self):
        return None

    def search(self, query: str) -> str:
        self.count += 1
        return f"e{self.count}"


def wandering():
    """A class whose results tell how many calls there were in the whole process: a replay reads other ones."""
    numbers = itertools.count(1)

    class Wandering(Uncopied):
        def search(self, query: str) -> str:
            return f"e{next(numbers)}"

    return Wandering


def drawing():
    """A class whose `reset` draws another task each time."""
    tasks = itertools.count(1)

    class Drawing(Uncopied):
        def greeting(self):
            return f" e{next(tasks)}"

    return Drawing


def written(tokenizer, factory, texts=(CALL, CALL, ANSWER), tools=()):
    """A rollout of the environment, with its pool and loop."""
    pool = EnvironmentPool(list(tools), factory)
    loop = make_loop(ScriptedEngine(tokenizer, {0: list(texts)}), tokenizer)
    (rollout,) = loop.run([start(tokenizer, pool)], seed=0)
    return rollout, pool, loop


def test_results_that_differ_in_a_replay_are_one_sentence(tiny):
    rollout, pool, loop = written(tiny[1], wandering())
    assert [call.result for call in rollout.tool_calls] == ["e1", "e2"]
    prefix = rollout.prefix(rollout.tool_calls[1].start)
    with pytest.raises(ReplayDiverged, match=r"^search\('mother e1'\) gave 'e3' in a replay, and 'e1' before\."):
        pool.enter_prefix(prefix, ROW, loop.runner)


def test_a_prefix_without_calls_has_nothing_to_differ_in(tiny):
    rollout, pool, loop = written(tiny[1], wandering())
    prefix = rollout.prefix(rollout.tool_calls[0].start)
    pool.enter_prefix(prefix, ROW, loop.runner)
    assert prefix.environment is not rollout.environment


def test_another_first_observation_is_told_though_no_call_was_made(tiny):
    rollout, pool, loop = written(tiny[1], drawing())
    rollout.prompt = "mother boss e1 e1"  # as `reset` had it
    with pytest.raises(ReplayDiverged, match=r"^reset\(\) returned ' e2' in a replay, which is not how"):
        pool.enter_prefix(rollout.prefix(2), ROW, loop.runner)


def test_functions_beside_the_environment_are_not_called_again(tiny):
    asked = []

    def search(query: str) -> str:
        """Searches. Args: query: What."""
        asked.append(query)
        return "e2"

    class Silent(Uncopied):
        search = None

    rollout, pool, loop = written(tiny[1], Silent, tools=[search])
    pool.enter_prefix(rollout.prefix(rollout.tool_calls[1].start), ROW, loop.runner)
    assert asked == ["mother e1", "mother e1"]  # the rollout's own two


@pytest.mark.parametrize(("kind", "kept", "left_out"), [(wandering(), [0], 2), (Uncopied, [0, 1, 2], 0)])
def test_branches_whose_replay_differs_are_left_out_counted_and_told_once(tiny, recwarn, kind, kept, left_out):
    rollout, pool, loop = written(tiny[1], kind)
    tree = RolloutTree(ROW)
    tree.add_initial(rollout)
    first, second = rollout.tool_calls
    points = [BranchPoint(tree, 0, position) for position in (1, second.start, len(rollout.completion_ids) - 1)]
    assert points[0].position < first.start
    counters = RunCounters(["search"])
    with counters.counted():
        entered, starts = Prefixes(pool, loop.runner, counters).enter(points)
    assert entered == [points[i] for i in kept]
    assert [len(start.rollout.completion_ids) for start in starts] == [point.position for point in entered]
    assert counters.totals()["branches/left_out"] == left_out
    told = [str(warning.message) for warning in recwarn if "a branch is left out" in str(warning.message)]
    assert len(told) == (left_out > 0)


def test_states_of_replayed_branches_are_those_of_their_prefixes(tiny):
    rollout, pool, loop = written(tiny[1], Uncopied)
    for calls, position in enumerate([1, rollout.tool_calls[1].start, len(rollout.completion_ids) - 1]):
        prefix = rollout.prefix(position)
        pool.enter_prefix(prefix, ROW, loop.runner)
        assert prefix.environment.count == calls
    assert rollout.environment.count == 2


def test_a_class_that_could_not_be_copied_is_not_tried_again():
    tries = []

    class Locked:
        def __deepcopy__(self, memo):
            tries.append(self)
            raise TypeError("it holds a lock")

    assert [snapshot(Locked()), snapshot(Locked())] == [None, None]
    assert len(tries) == 1


def test_fork_none_says_that_copies_would_share_a_state():
    class Remote:
        fork = None

    assert snapshot(Remote()) is None
