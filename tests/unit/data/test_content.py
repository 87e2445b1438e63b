"""Which rows are the same question, which texts are held out, and what two sets share."""

import logging

import pytest
from datasets import Dataset

from appo.data import without_shared
from appo.data.content import check_apart, is_held_out, shared


def rows(*texts, **columns):
    found = [{"prompt": text, **{name: values[i] for name, values in columns.items()}} for i, text in enumerate(texts)]
    return Dataset.from_list(found)


def test_space_makes_no_other_question_and_letter_case_does():
    found = shared(rows("Where is  Accra?", "b"), rows("Where is Accra? ", "c"))
    assert (found.train_rows, found.questions, found.of, found.example) == ([0], 1, 2, "Where is Accra?")
    assert shared(rows("Swap the case of: aB"), rows("Swap the case of: Ab")) is None


def test_messages_are_compared_by_what_they_say_but_for_the_systems():
    talk = [{"role": "system", "content": "S"}, {"role": "user", "content": "Hm?"}]
    other = [{"role": "system", "content": "T"}, {"role": "user", "content": "Hm? "}]
    assert shared(rows(talk), rows(other)).questions == 1
    assert shared(rows(talk), rows(talk[:1])) is None


def test_another_answer_is_another_question_and_another_id_is_not():
    train = rows("a?", "b?", answer=["1", "2"], id=["x", "y"])
    assert shared(train, rows("a?", answer=["2"], id=["x"])) is None
    assert shared(train, rows("a?", answer=["1"], id=["z"])).train_rows == [0]


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ({"solution": "s", "split": "train"}, {"solution": "s", "split": "test"}, True),
        ({"label": 1, "source": "a"}, {"label": 1, "source": "b"}, True),
        ({"label": 1}, {"label": 2}, False),
        ({"answer": 5}, {"answer": "5"}, True),
        ({"answers": ["a", "b"]}, {"answers": ["b", "a"]}, True),
        ({"answers": ["a", "b"]}, {"answers": ["a"]}, False),
        ({"answer": "a"}, {"answer": "A"}, False),
        ({"answer": "a", "target": "x"}, {"answer": "a", "target": "y"}, True),
        ({"ground_truth": {"target": ["a"]}}, {"ground_truth": {"target": ["b"]}}, False),
    ],
)
def test_answers_are_sets_of_texts_and_other_columns_make_no_other_question(ours, theirs, same):
    train, evaluation = (Dataset.from_list([{"prompt": "a?", **row}]) for row in (ours, theirs))
    assert (shared(train, evaluation) is not None) is same


def test_without_a_known_answer_the_prompt_alone_decides():
    assert shared(rows("a?", "b?", level=[1, 2]), rows("b?", level=[3])).train_rows == [1]


def test_an_environment_whose_rows_repeat_draws_its_episodes_itself(caplog):
    levels = rows(*["Play."] * 9, level=[0, 1, 2] * 3)
    with caplog.at_level(logging.INFO):
        assert shared(levels, rows("Play.", level=[1]), with_environment=True) is None
    assert "data sets are not compared" in caplog.text
    seeds = rows(*["Play."] * 9, seed=list(range(9)))
    assert shared(seeds, rows("Play.", seed=[4]), with_environment=True).train_rows == [4]


def test_shared_questions_may_be_allowed_and_are_told(caplog):
    check_apart(rows("a?"), rows("a?"), with_environment=False, allowed=True)
    assert "1 of 1 questions of the evaluation is in the training data too, such as 'a?', as allow" in caplog.text


def test_with_an_environment_the_whole_row_counts():
    train = rows("start e1", "start e1", seed=[1, 2], answer=["e2", "e2"])
    other = rows("start e1", seed=[3], answer=["e2"])
    assert shared(train, other, with_environment=True) is None
    assert shared(train, other).questions == 1


def test_an_environment_whose_rows_are_all_alike_draws_its_episodes_itself():
    assert shared(rows(*["Play."] * 5), rows(*["Play."] * 3), with_environment=True) is None
    assert shared(rows(*["Play."] * 5), rows(*["Play."] * 3)).questions == 3


def test_repeated_rows_are_all_found_and_taken_out():
    train, evaluation = rows("a", "b", " a", "c"), rows("a", "a", "d")
    found = shared(train, evaluation)
    assert (found.train_rows, found.questions, found.of) == ([0, 2], 2, 3)
    assert without_shared(train, evaluation)["prompt"][:] == ["b", "c"]
    assert without_shared(train, rows("z")) is train


def test_an_evaluation_of_what_is_trained_on_is_refused_with_an_example_and_the_remedy():
    with pytest.raises(ValueError) as error:
        check_apart(rows("a?", "b?"), {"first": rows("c?"), "second": rows("b? ", "d?")}, with_environment=False)
    assert str(error.value) == (
        "eval_dataset: 1 of 2 questions of the evaluation is in the training data too, such as 'b?'; take them out: "
        "train_dataset=appo.data.without_shared(train_dataset, eval_dataset), or set "
        "allow_shared_questions=True."
    )


def test_what_is_streamed_or_made_by_a_transform_cannot_be_told():
    data = rows("a?")
    assert shared(data, data.to_iterable_dataset()) is None
    assert shared(data, data.with_transform(lambda batch: batch)) is None
    assert shared(data, None) is None


def test_the_share_that_is_held_out_is_about_the_share_and_depends_on_the_words_alone():
    texts = [f"question {n}" for n in range(2000)]
    held = [is_held_out(text, 0.2) for text in texts]
    assert 320 <= sum(held) <= 480  # 400 on average, with a standard deviation of 18
    assert held == [is_held_out(f"  QUESTION  {n}", 0.2) for n in range(2000)]
    assert not any(is_held_out(text, 0.0) for text in texts)
