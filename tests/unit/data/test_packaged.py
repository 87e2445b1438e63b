"""Benchmarks that packages bring: the same questions everywhere, each with what decides about its answer."""

import random
import zlib

import pytest

from appo.data.list_functions import is_right, last_list
from appo.data.packaged import PACKAGED, load_packaged
from appo.data.rows import DataError
from appo.evaluation.scores import score_row


def test_humaneval_has_164_tasks_with_their_tests():
    rows = load_packaged("humaneval")
    assert [row.id for row in rows] == [f"HumanEval/{number}" for number in range(164)]
    assert {row.metric for row in rows} == {PACKAGED["humaneval"]} == {"tests"}
    assert all(f"def {row.extra['entry_point']}(" in row.question for row in rows)
    assert all("def check(candidate):" in row.extra["test"] for row in rows)
    assert not any(row.extra["test"].strip() in row.question for row in rows)


def test_list_functions_are_the_same_200_questions_everywhere():
    rows = load_packaged("list_functions")
    assert len({row.question for row in rows}) == 200
    assert (
        zlib.crc32("".join(row.question + row.answers[0] for row in rows).encode()) == 1378398418
    )  # of reasoning-gym 0.1.25


def test_questions_do_not_depend_on_global_random_numbers_nor_move_them():
    random.seed(1)
    first, drawn = load_packaged("list_functions"), random.random()
    random.seed(1)
    assert random.random() == drawn
    assert load_packaged("list_functions") == first


def test_the_packages_verifier_takes_its_own_answers_and_no_others():
    rows = load_packaged("list_functions")
    assert all(is_right(last_list(f"It is {row.answers[0]}."), row) for row in rows)
    assert not any(is_right("[-1, -1]", row) or is_right(None, row) for row in rows)


def test_one_answer_for_all_is_right_for_one_question_in_twelve():
    """What a figure has to be compared with: 16 of 200 answers are [0], more than any other."""
    assert sum(is_right("[0]", row) for row in load_packaged("list_functions")) == 16


def test_the_last_input_is_right_for_one_question_in_fifteen():
    rows = load_packaged("list_functions")
    assert sum(is_right(last_list(row.question), row) for row in rows) == 13


def test_a_number_of_more_digits_than_python_reads_is_wrong():
    row, long = load_packaged("list_functions", 1)[0], f"[{'9' * 5000}]"
    scored = score_row(f"{row.answers[0]}, no: {long}", row)
    assert (scored["extracted"], scored["scores"]) == (long, {"verifier": 0.0})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the rule gives [1,2 ,  -3]", "[1, 2, -3]"),
        ("[1] is wrong, so [2, 3,] it is", "[2, 3]"),
        ("nothing is left: []", "[]"),
        ("[[4, 5], [6]]", "[6]"),
        ("[a, b] and [1.5, 2]", None),
        ("5, 6", None),
    ],
)
def test_the_last_list_of_whole_numbers_is_the_answer(text, found):
    assert last_list(text) == found


def test_only_the_first_rows_and_no_other_names():
    assert [row.id for row in load_packaged("list_functions", 2)] == ["list_functions-0", "list_functions-1"]
    with pytest.raises(DataError, match="no package brings a benchmark 'gsm8k'; there are humaneval, list_functions"):
        load_packaged("gsm8k")
