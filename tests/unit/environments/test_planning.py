"""Planning: worlds, search, values, judge."""

import random
from itertools import pairwise, product

import pytest

from appo.environments.planning.judge import decision_positions, judge
from appo.environments.planning.search import Values, distances, graph, settled, skilled, starts
from appo.environments.planning.texts import named, read
from appo.environments.planning.worlds import HELD, Problem, moves, why_not

# One car at 1 that has to be at 2; objects are 0.., places follow.
FERRY = Problem("ferry", objects=1, places=2, goal=(2,))
# A, B, C on the table; wanted: A on B on C. The table is 3.
TOWER = Problem("blocks", objects=3, places=1, goal=(1, 2, 3))
# Two balls that have to change from room 2 to room 3.
BALLS = Problem("gripper", objects=2, places=2, goal=(3, 3))
PROBLEMS = [FERRY, TOWER, BALLS, Problem("ferry", 2, 3, (2, 4)), Problem("gripper", 3, 3, (3, 4, 5))]


def test_a_ferry_takes_a_car_sails_and_lands_it():
    assert distances(FERRY)[(1, 1)] == 3
    assert distances(FERRY)[(1, 2)] == 4  # the ferry has to come first
    assert distances(FERRY)[(HELD, 2)] == 1
    assert distances(FERRY)[(2, 1)] == 0


def test_a_tower_takes_two_moves_for_each_block_that_is_put():
    assert distances(TOWER)[(3, 3, 3)] == 4
    assert distances(TOWER)[(3, 3, 1)] == 6  # C on B: it has to be put on the table first
    assert distances(TOWER)[(3, 0, 1)] == 6  # C on B on A: C down, B on C, A on B
    assert distances(TOWER)[(HELD, 2, 3)] == 1


def test_a_gripper_carries_two_balls_at_once():
    assert distances(BALLS)[(2, 2, 2)] == 5
    assert distances(Problem("gripper", 3, 2, (4, 4, 4)))[(3, 3, 3, 3)] == 9  # three balls: back once more


def test_states_are_as_many_as_can_be_counted_by_hand():
    assert [len(settled("blocks", blocks, 1)) for blocks in (1, 2, 3, 4)] == [1, 3, 13, 73]
    # Two cars at three harbours, or one aboard and the other at one of three; the ferry at each of three.
    assert len(graph(PROBLEMS[3])) == (9 + 2 * 3) * 3
    # Three balls at three rooms: none held, one of three, two of three; the robot in each of three.
    assert len(graph(PROBLEMS[4])) == (27 + 3 * 9 + 3 * 3) * 3
    assert len(graph(TOWER)) == 13 + 3 * 3


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda one: f"{one.world}-{one.objects}")
def test_a_state_is_one_move_farther_than_the_nearest_that_follows(problem):
    to_go = distances(problem)
    assert set(to_go) == set(graph(problem))
    for state, following in graph(problem).items():
        if not problem.is_goal(state):
            assert to_go[state] == 1 + min(to_go[after] for after in following.values())


@pytest.mark.parametrize(
    ("problem", "state", "move", "reason"),
    [
        (TOWER, (3, 0, 3), 0, "covered"),
        (TOWER, (3, 3, 3), 3, "fixed"),
        (TOWER, (HELD, 3, 3), 0, "held"),
        (TOWER, (HELD, 3, 1), 1, "covered"),
        (TOWER, (HELD, 3, 1), 2, None),
        (FERRY, (1, 2), 0, "elsewhere"),
        (FERRY, (1, 2), 2, "there"),
        (Problem("ferry", 2, 2, (3, 3)), (HELD, 2, 2), 1, "full"),
        (BALLS, (HELD, 2, 2), 1, None),
        (Problem("gripper", 3, 2, (4, 4, 4)), (HELD, HELD, 3, 3), 2, "full"),
    ],
)
def test_a_move_that_is_impossible_has_its_reason(problem, state, move, reason):
    assert why_not(problem, state, move) == reason
    assert (move in moves(problem, state)) == (reason is None)


def brute_force(problem, state, left, policy):
    """The chance of success as a sum over all sequences of moves, each with the product of its chances."""
    if problem.is_goal(state):
        return 1.0
    total = 0.0
    for sequence in product(range(problem.objects + problem.places), repeat=left):
        chance, now = 1.0, state
        for move in sequence:
            if problem.is_goal(now):
                chance *= 1 / (problem.objects + problem.places)  # what follows the goal counts once in all
                continue
            chance *= policy(now).get(move, 0.0)
            if not chance:
                break
            now = moves(problem, now)[move]
        total += chance if chance and problem.is_goal(now) else 0.0
    return total


@pytest.mark.parametrize(("problem", "state"), [(FERRY, (1, 2)), (TOWER, (3, 3, 3)), (BALLS, (2, 2, 2))])
def test_values_are_those_of_all_sequences_of_moves(problem, state):
    policy = skilled(problem, 0.7)
    values = Values(problem, policy)
    for left in (4, 5, 6):
        assert values.v(state, left) == pytest.approx(brute_force(problem, state, left, policy), abs=1e-12)
        for move, after in moves(problem, state).items():
            assert values.q(state, move, left) == pytest.approx(brute_force(problem, after, left - 1, policy))


def test_values_by_hand():
    values = Values(FERRY, skilled(FERRY, 0.6))
    # The car aboard at the wrong harbour: sail (0.6), then land it (0.6). The other moves are one each.
    assert values.v((HELD, 1), 1) == 0.0
    assert values.v((HELD, 1), 2) == pytest.approx(0.36)
    # With three moves, a wrong one, sailing back, and landing at the goal come too late: 0.36 and no more.
    assert values.v((HELD, 1), 3) == pytest.approx(0.36)
    # With four: land and take up again (0.4 x 0.6), or sail there and back (0.6 x 0.4 x 0.6 x 0.6 ends aboard at 1..).
    assert values.v((HELD, 1), 4) == pytest.approx(0.36 + 0.4 * 0.6 * 0.36 + 0.6 * 0.4 * 0.36)


def test_the_advantages_of_all_moves_sum_to_nothing():
    for problem in PROBLEMS:
        policy = skilled(problem, 0.8)
        values = Values(problem, policy)
        for state in starts(problem):
            if not problem.is_goal(state):
                left = distances(problem)[state] + 2
                before = values.v(state, left)
                total = sum(chance * (values.q(state, move, left) - before) for move, chance in policy(state).items())
                assert total == pytest.approx(0.0, abs=1e-12)
                assert sum(policy(state).values()) == pytest.approx(1.0)


def test_the_value_of_a_skilled_policy_is_how_often_it_succeeds():
    problem, state, left = PROBLEMS[3], (4, 3, 2), 9
    policy, rng = skilled(problem, 0.75), random.Random(0)
    successes = 0
    for _ in range(4000):
        now, steps = state, left
        while steps and not problem.is_goal(now):
            chances = policy(now)
            now = moves(problem, now)[rng.choices(list(chances), list(chances.values()))[0]]
            steps -= 1
        successes += problem.is_goal(now)
    value = Values(problem, policy).v(state, left)
    assert 0.1 < value < 0.9
    assert successes / 4000 == pytest.approx(value, abs=0.035)  # more than four standard errors


def test_a_text_tells_the_whole_problem():
    for problem in PROBLEMS:
        told = named(problem.world, ["A", "C", "E"][: problem.objects], problem.goal)
        if problem.world == "blocks" or problem.places == 3:
            for state in graph(told.problem):
                assert read(told.text(state)) == (told, state)


def test_texts_by_hand():
    tower = named("blocks", ["A", "B", "C"], (1, 2, 3))
    assert tower.text((3, 2, 3)) == "hand empty table B A C ok B under table ok C"
    assert tower.text((3, HELD, 0)) == "hand B hand C B A table C under table B A"
    ferry = named("ferry", ["A", "B"], (2, 3))
    assert ferry.text((2, HELD, 3)) == "ferry south north ok A aboard here B"


ROW = {"start": "ferry north here south A here ok B", "budget": 5}


def worth(text, skill=0.6, row=ROW):
    return [(d.position, round(d.advantage, 6), d.right) for d in judge(row, text.split(), skill)]


def test_a_right_way_gains_the_doubt_that_it_ends():
    told, state = read(ROW["start"])
    values = Values(told.problem, skilled(told.problem, 0.6))
    worths = [values.v(state, 5), values.v((HELD, 2, 2), 4), values.v((HELD, 2, 3), 3), 1.0]
    text = "<act> A </act> <result> x </result> <act> south </act> <result> x </result> <act> A </act> <answer> done"
    gains = [round(after - before, 6) for before, after in pairwise(worths)]
    assert worth(text) == [(1, gains[0], True), (7, gains[1], True), (13, gains[2], True), (15, 0.0, True)]
    assert min(gains) > 0


def test_stopping_too_early_loses_the_chance_that_there_was():
    told, state = read(ROW["start"])
    chance = Values(told.problem, skilled(told.problem, 0.6)).v(state, 5)
    assert worth("<answer> done </answer>") == [(0, round(-chance, 6), False)]


def test_an_impossible_move_costs_a_move_and_changes_nothing():
    told, state = read(ROW["start"])
    values = Values(told.problem, skilled(told.problem, 0.6))
    lost = round(values.v(state, 4) - values.v(state, 5), 6)
    assert lost < 0
    for word in ("north", "H", "left", "A A"):
        assert worth(f"<act> {word} </act>") == [(1, lost, False)]


def test_behind_the_last_chance_nothing_is_decided():
    wrong = "<act> B </act> <result> x </result> " * 5 + "<act> A </act> <answer> done </answer>"
    judged = worth(wrong)
    assert [right for _, _, right in judged[:2]] == [False, True]  # back again: nothing of the budget is spare
    assert judged[-3:] == [(25, 0.0, True), (31, 0.0, True), (33, 0.0, True)]


def test_a_call_that_never_ran_is_no_decision():
    refused = "<act> A </act> <result> error: malformed call: </result> <act> A </act>"
    assert [position for position, _, _ in worth(refused)] == [9]


@pytest.mark.parametrize("form", ["words", "bytes"])
def test_decisions_stand_at_the_word_of_a_move(form):
    words = ["<act>", "A", "</act>", "<result>", "x", "</result>", "<answer>", "done", "</answer>"]
    places = [1, 6]
    if form == "bytes":
        words = ["<", "act", ">", "A", "</", "act", ">", "Ċ", "<", "result", ">", "x", "</", "result", ">", "Ċ"]
        words += ["<", "answer", ">", "done", "</", "answer", ">"]
        places = [3, 17]
    assert decision_positions(words) == places
    assert [decision.position for decision in judge(ROW, words, 0.9)] == places


def test_a_completion_of_pieces_without_any_space_is_read_where_the_form_says_so():
    words = ["<", "answer", ">", "done", "</", "answer", ">"]
    assert decision_positions(words, pieces=True) == [1]
    [stopped] = judge(ROW, words, 0.6, pieces=True)
    [(_, advantage, right)] = worth("<answer> done </answer>")
    assert (stopped.position, round(stopped.advantage, 6), stopped.right) == (1, advantage, right)


@pytest.mark.parametrize("thought", ["<act> A </act>", "<act>", "<answer>", "an <answer> or <act> B </act>"])
def test_what_a_thought_says_never_runs(thought):
    text = f"<think> {thought} </think> "
    before = len(text.split())
    expected = [(place + before, *rest) for place, *rest in worth("<act> A </act>")]
    assert worth(f"{text}<act> A </act>") == expected


def test_a_call_in_a_thought_that_was_not_closed_then_has_run():
    ran = "<act> A </act> <result> ferry </result>"
    assert worth(f"<think> {ran} </think> <act> south </act>") == [
        (place, *rest) for place, (_, *rest) in zip((2, 9), worth(f"{ran} <act> south </act>"), strict=True)
    ]


def test_a_refused_call_that_speaks_of_the_answer_ends_nothing():
    refused = "<act> A <answer> </act> <result> error: malformed call </result> <act> A </act>"
    assert [position for position, _, _ in worth(refused)] == [10]
