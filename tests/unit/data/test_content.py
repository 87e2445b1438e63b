"""Which rows are the same question, which texts are held out, and what two sets share."""

import pytest
from datasets import Dataset

from appo.data import without_shared
from appo.data.content import check_apart, is_held_out, shared


def rows(*texts, **columns):
    found = [{"prompt": text, **{name: values[i] for name, values in columns.items()}} for i, text in enumerate(texts)]
    return Dataset.from_list(found)


def test_case_and_space_make_no_other_question():
    found = shared(rows("Where is  Accra?", "b"), rows("where is accra? ", "c"))
    assert (found.train_rows, found.questions, found.of, found.example) == ([0], 1, 2, "where is accra?")


def test_messages_are_compared_by_what_they_say():
    talk = [{"role": "system", "content": "S"}, {"role": "user", "content": "Hm?"}]
    louder = [{"role": "system", "content": "s"}, {"role": "user", "content": "HM?"}]
    assert shared(rows(talk), rows(louder)).questions == 1


def test_another_answer_is_another_question_and_another_id_is_not():
    train = rows("a?", "b?", answer=["1", "2"], id=["x", "y"])
    assert shared(train, rows("a?", answer=["2"], id=["x"])) is None
    assert shared(train, rows("a?", answer=["1"], id=["z"])).train_rows == [0]


def test_without_an_answer_every_column_but_the_rows_name_counts():
    train = rows("Play.", "Play.", level=[1, 2], id=["x", "y"])
    assert shared(train, rows("Play.", level=[3], id=["x"])) is None
    assert shared(train, rows("Play.", level=[2], id=["z"])).train_rows == [1]


def test_with_an_environment_the_whole_row_counts():
    train = rows("start e1", "start e1", seed=[1, 2], answer=["e2", "e2"])
    other = rows("start e1", seed=[3], answer=["e2"])
    assert shared(train, other, with_environment=True) is None
    assert shared(train, other).questions == 1


def test_an_environment_whose_rows_are_all_alike_draws_its_episodes_itself():
    assert shared(rows(*["Play."] * 5), rows(*["Play."] * 3), with_environment=True) is None
    assert shared(rows(*["Play."] * 5), rows(*["Play."] * 3)).questions == 3


def test_repeated_rows_are_all_found_and_taken_out():
    train, evaluation = rows("a", "b", "A", "c"), rows("a", "a", "d")
    found = shared(train, evaluation)
    assert (found.train_rows, found.questions, found.of) == ([0, 2], 2, 3)
    assert without_shared(train, evaluation)["prompt"][:] == ["b", "c"]
    assert without_shared(train, rows("z")) is train


def test_an_evaluation_of_what_is_trained_on_is_refused_with_an_example_and_the_remedy():
    with pytest.raises(ValueError) as error:
        check_apart(rows("a?", "b?"), {"first": rows("c?"), "second": rows("B?", "d?")}, with_environment=False)
    assert str(error.value) == (
        "eval_dataset: 1 of 2 questions of the evaluation is in the training data too, such as 'B?'; take them out: "
        "train_dataset=appo.data.without_shared(train_dataset, eval_dataset)."
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
