"""What decisions of a rollout are worth, in words: against numbers by hand and against every program."""

import json
import random
from itertools import islice, product

import pytest

from appo.environments.programs import TASK
from appo.environments.programs.guesses import demonstrate
from appo.environments.programs.judge import decision_positions, judge, right_programs
from appo.environments.programs.primitives import PRIMITIVES, is_program, run
from appo.environments.programs.questions import examples_of, fits, questions
from appo.environments.programs.words import demonstration

# `reverse` alone is right in up to two steps: the lists have three and four numbers, in no order.
VISIBLE = [[[3, 1, 2], [2, 1, 3]], [[4, 8, 0], [0, 8, 4]], [[5, 6, 7, 1], [1, 7, 6, 5]]]
HIDDEN = [[[9, 2, 4, 4], [4, 4, 2, 9]], [[6, 0, 8, 7, 3], [3, 7, 8, 0, 6]]]
ROW = {"visible": json.dumps(VISIBLE), "hidden": json.dumps(HIDDEN)}


def worth(text, skill=0.5, tries=2, row=ROW):
    return [(pytest.approx(one.advantage), one.right) for one in judge(row, text.split(), skill, tries=tries)]


# With skill 0.5 a right program of one step is written with chance 0.25, its end included. Before the first of two
# tests success is 1 - 0.75^3 = 0.578125, before the second 1 - 0.75^2 = 0.4375, without any left 0.25.


def test_a_right_test_and_its_answer():
    text = "<run_tests> reverse </run_tests> <result> all pass </result> <answer> reverse </answer>"
    begun = 0.5 + 0.5 * 0.4375  # the end of the program is still to be decided
    assert worth(text) == [
        (0.0, True),
        (begun - 0.578125, True),
        (1 - begun, True),
        (0.0, True),
        (0.0, True),
        (0.0, True),
    ]


def test_a_wrong_step_loses_a_test_and_what_follows_it_in_the_program_nothing():
    text = "<run_tests> sort drop1 </run_tests> <result> 0 pass </result>"
    assert worth(text) == [(0.0, True), (0.4375 - 0.578125, False), (0.0, True), (0.0, True)]


def test_a_program_that_ends_too_late_is_wrong_where_it_leaves_the_right_one():
    text = "<run_tests> reverse sort </run_tests>"
    [_, first, second, end] = judge(ROW, text.split(), 0.5, tries=2)
    assert (first.right, second.right, end.right) == (True, False, True)


def test_answering_before_a_test_has_passed_is_wrong_whatever_the_answer():
    text = "<answer> reverse </answer>"
    assert worth(text) == [(0.25 - 0.578125, False), (0.25, True), (0.5, True)]
    assert worth("<answer> sort </answer>")[1] == (-0.25, False)


def test_answering_without_a_test_left_is_right():
    failed = "<run_tests> sort </run_tests> <result> 1 pass </result> "
    assert worth(failed + "<answer> sort </answer>", tries=1)[3:] == [(0.0, True), (-0.25, False), (0.0, True)]


def test_another_test_after_all_have_passed_is_wrong_and_another_answer_loses_everything():
    passed = "<run_tests> reverse </run_tests> <result> all pass </result> "
    [again, *_] = worth(passed + "<run_tests> sort </run_tests>")[3:]
    assert again == (0.25 + 0.75 * 0.25 - 1, False)
    assert worth(passed + "<answer> sort </answer>")[3:] == [(0.0, True), (-1.0, False), (0.0, True)]


def test_a_test_that_is_refused_changes_nothing():
    text = "<run_tests> sort </run_tests> <result> 0 pass </result> <run_tests> reverse </run_tests>"
    assert worth(text, tries=1)[3:] == [(0.0, True)] * 3


def test_an_answer_that_repeats_a_wrong_program_that_passed_is_not_blamed():
    # `sort` gives the visible outputs; `cap5 sort` too, but not the hidden one.
    row = {"visible": json.dumps([[[3, 1, 2], [1, 2, 3]]]), "hidden": json.dumps([[[9, 7], [7, 9]]])}
    fooled = "<run_tests> cap5 sort </run_tests> <result> all pass </result> <answer> cap5 sort </answer>"
    judged = worth(fooled, row=row)
    assert [right for _, right in judged] == [True, False, True, True, True, True, True, True]
    assert judged[1] == (-0.578125, False) and all(advantage == 0.0 for advantage, _ in judged[2:])


def test_testing_on_is_right_where_what_passed_is_wrong():
    # `cap5 sort` passes, but a hidden example tells it from `sort`: another test may still find that.
    row = {"visible": json.dumps([[[3, 1, 2], [1, 2, 3]]]), "hidden": json.dumps([[[9, 7], [7, 9]]])}
    fooled = "<run_tests> cap5 sort </run_tests> <result> all pass </result> <run_tests> sort </run_tests>"
    assert worth(fooled, row=row)[4] == (0.25 + 0.75 * 0.25, True)


def test_right_programs_are_those_that_fit_out_of_all_there_are():
    rng = random.Random(3)
    every = [p for length in (1, 2, 3) for p in product(PRIMITIVES, repeat=length) if is_program(p)]
    assert len(every) == 40 + 32 * 40 + 32 * 32 * 40
    for question in islice(questions(rng, (1, 2), 4, False), 2):
        row = question.row()
        examples = examples_of(row["visible"]) + examples_of(row["hidden"])
        xs, output = examples[0]
        found = {p for p in every if run(p, xs) == output and fits(p, examples)}
        assert right_programs(row["visible"], row["hidden"]) == found
        assert question.program in found


def test_decisions_are_judged_at_the_positions_of_the_task_and_fail_where_a_demonstration_does():
    rng = random.Random(4)
    task = TASK()
    for question in islice(questions(rng, (1, 2), 4, False), 15):
        tested, answer = demonstrate(question, 4, 0.5, rng)
        words = "".join(one.text for one in demonstration(question, tested, answer).segments).split()
        judged = task.judge(question.row(), words, 0.7)
        assert [one.position for one in judged] == task.decision_positions(words) == decision_positions(words)
        succeeded = fits(answer, question.hidden)
        answered = [one for one in judged if one.position >= words.index("<answer>")]
        assert all(one.right for one in answered) == succeeded


def test_advantages_of_a_rollout_add_up_to_its_outcome():
    rng = random.Random(5)
    for question in islice(questions(rng, (1, 2), 4, False), 15):
        tested, answer = demonstrate(question, 4, 0.5, rng)
        words = "".join(one.text for one in demonstration(question, tested, answer).segments).split()
        row = question.row()
        shortest = min(map(len, right_programs(row["visible"], row["hidden"])))
        start = 1 - (1 - 0.7 ** (shortest + 1)) ** 5
        total = sum(one.advantage for one in judge(row, words, 0.7, tries=4))
        assert start + total == pytest.approx(float(fits(answer, question.hidden)))


def test_words_that_make_no_turn_decide_nothing_and_a_cut_off_program_has_no_end():
    words = ["reverse", "</run_tests>", "<result>", "sort", "</result>", "<run_tests>", "sort"]
    assert decision_positions(words) == [5, 6]
