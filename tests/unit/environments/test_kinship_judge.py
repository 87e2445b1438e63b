import random

from appo.environments.kinship import DEFAULT, TASK, _demonstrate, _make_question
from appo.environments.kinship_judge import chance, judge

ROW = {"prompt": "start mother friend e1"}


def worth(text, skill=0.5, weak_share=0.25):
    return [(d.advantage, d.right) for d in judge(ROW, text.split(), skill, weak_share=weak_share)]


RIGHT = (
    "plan start mother </think> <search> mother e1 </search> <result> e2 </result> "
    "plan mother friend </think> <search> friend e2 </search> <result> e3 </result> plan friend done"
)


def test_chances_before_each_decision_without_weak_results():
    assert [chance(left, False, 0.5, 0.0) for left in (0, 1, 2)] == [0.5, 0.25, 0.125]


def test_a_weak_result_costs_one_more_decision():
    # One relation to go: 0.5 to decide rightly, then 0.5 at once or, in a quarter of cases, 0.25.
    assert chance(1, False, 0.5, 0.25) == 0.5 * (0.75 * 0.5 + 0.25 * 0.25)
    assert chance(0, True, 0.5, 0.25) == 0.25


def test_right_decisions_are_worth_the_doubt_that_they_end():
    assert worth(RIGHT, weak_share=0.0) == [(0.125, True), (0.25, True), (0.5, True)]


def test_a_wrong_decision_loses_the_whole_chance_and_what_follows_is_worth_nothing():
    text = RIGHT.replace("plan mother friend", "plan mother done")
    assert worth(text, weak_share=0.0) == [(0.125, True), (-0.25, False), (0.0, True)]


def test_a_needless_retry_is_harmless():
    once_more = "plan mother retry </think> <search> mother e1 </search> <result> e2 </result> "
    again = RIGHT.replace("plan mother friend", once_more + "plan mother friend")
    assert worth(again, weak_share=0.0) == [(0.125, True), (0.0, True), (0.25, True), (0.5, True)]


def test_after_a_weak_result_only_a_retry_is_right():
    text = RIGHT.replace("<result> e2", "<result> weak e9")
    assert [right for _, right in worth(text)][:2] == [True, False]


def test_a_rollout_that_decides_nothing_is_judged_so():
    assert worth("<answer> e3 </answer>") == []
    assert worth("so plan mother") == []


def test_a_search_about_another_entity_ends_what_can_be_decided():
    assert worth(RIGHT.replace("friend e2", "friend e4"), weak_share=0.0)[2] == (0.0, True)


def test_demonstrations_fail_exactly_where_a_decision_was_judged_wrong():
    rng = random.Random(3)
    seen = set()
    for _ in range(300):
        row = _make_question(rng, DEFAULT)
        text = "".join(segment.text for segment in _demonstrate(row, 0.15, rng, DEFAULT))
        judged = TASK.judge(row, text.split(), 0.9)
        succeeded = TASK.reward_funcs[0]([text], [row["answer"]])[0] == 1.0
        lost = any(not decision.right for decision in judged)
        seen.add((succeeded, lost))
        if not lost:
            assert succeeded
    # By chance a wrong way may end at the right entity, one in 24.
    assert (False, True) in seen and (True, False) in seen
    assert [d.position for d in judged] == TASK.decision_positions(text.split())
