"""Keys: each has its own book, bounds and random numbers."""

import pytest

from appo.serve.api import ApiError
from appo.serve.book import WrittenTurn
from appo.serve.bounds import Bounds
from appo.serve.keys import Keys, RolloutTerms
from appo.serve.replay import Branch


def write(account, prompt=(1,)):
    account.book.add(WrittenTurn(list(prompt), [2], [-1.0], "eos"))


def status(call):
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value.status


def enter(keys, key):
    with keys.entered(key):
        pass


def test_a_training_knows_its_keys_and_no_others():
    keys = Keys(Bounds())
    account = keys.open("a")
    enter(keys, "a")
    assert status(lambda: enter(keys, "b")) == 401
    with pytest.raises(ValueError, match="'a' is open"):
        keys.open("a")
    assert keys.take("a") is account
    assert status(lambda: enter(keys, "a")) == 401  # its rollout has ended


def test_a_key_may_have_so_many_open_requests_and_all_keys_together_too():
    keys = Keys(Bounds(requests=3, requests_per_key=2), anyone=True)
    with keys.entered("a"), keys.entered("a"):
        assert status(lambda: enter(keys, "a")) == 429
        with keys.entered("b"):
            assert keys.open_requests == 3
            assert status(lambda: enter(keys, "c")) == 429
        enter(keys, "c")
    enter(keys, "a")
    assert keys.open_requests == 0


def test_a_training_refuses_a_turn_too_many_and_a_server_for_everybody_forgets_the_oldest():
    keys = Keys(Bounds(turns_per_key=2))
    account = keys.open("a")
    for n in range(2):
        write(account, [n])
    assert status(lambda: enter(keys, "a")) == 429
    forgetting = Keys(Bounds(turns_per_key=2, forgets=True), anyone=True)
    with forgetting.entered("a") as account:
        for n in range(3):
            write(account, [n])
    enter(forgetting, "a")
    assert [turn.prompt_ids for turn in account.book.turns.values()] == [[1], [2]]


def test_a_training_refuses_a_key_too_many_and_a_server_for_everybody_forgets_the_silent_one():
    keys = Keys(Bounds(keys=2))
    keys.open("a"), keys.open("b")
    assert status(lambda: keys.open("c")) == 429
    forgetting = Keys(Bounds(keys=2, forgets=True), anyone=True)
    with forgetting.entered("a") as first:
        write(first)
        enter(forgetting, "b")
        enter(forgetting, "c")  # b is forgotten: a has an open request
    with forgetting.entered("a") as again:
        assert again is first
    with forgetting.entered("b") as new:
        assert not new.book.turns


def test_a_key_that_is_too_long_is_refused():
    assert status(lambda: enter(Keys(Bounds(), anyone=True), "k" * 201)) == 401


def test_random_numbers_follow_from_the_key_and_the_turn_alone():
    def seeds(key, others=()):
        keys = Keys(Bounds(), seed=7)
        for other in others:
            keys.open(other).seed(None)
        account = keys.open(key)
        return [account.seed(None) for _ in range(3)]

    assert seeds("a") == seeds("a", others=["b", "c"])
    assert len({*seeds("a"), *seeds("b")}) == 6
    assert all(0 <= seed < 2**63 for seed in seeds("a"))


def test_a_rollouts_random_numbers_do_not_hang_on_which_of_two_requests_comes_first():
    def seeds(*prompts):
        account = Keys(Bounds()).open("any", rollout=RolloutTerms(seed=3))
        return [account.seed(None, prompt) for prompt in prompts]

    one, other, again = seeds([1, 2], [1, 3], [1, 2])
    assert seeds([1, 3], [1, 2], [1, 2]) == [other, one, again]
    assert len({one, other, again}) == 3


def test_a_seed_of_the_clients_is_heeded_and_two_branches_of_one_place_still_differ():
    keys = Keys(Bounds())
    record = keys.open("a")
    assert record.seed(5) == 5 and 0 <= record.seed(-1) < 2**63
    write(record)
    first, second = (keys.open(f"branch {n}", Branch(record.book, 0, 0, seed=n)) for n in range(2))
    assert len({first.seed(5), second.seed(5), 5}) == 3


def test_branches_that_were_left_out_are_counted_by_cause():
    keys = Keys(Bounds())
    write(record := keys.open("a"))
    for n in range(2):
        keys.open(f"branch {n}", Branch(record.book, 0, 0))
        keys.take(f"branch {n}")
    assert dict(keys.diverged) == {"unreached": 2}
