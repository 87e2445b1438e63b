"""A file of one's own as a benchmark: its fields found or named, its answers, and what is refused."""

import json

import pytest

from appo.data.own_benchmark import load_own_benchmark


@pytest.fixture
def write(tmp_path):
    def write(name, *rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def test_fields_are_found_by_their_names(write):
    file = write("a.jsonl", {"Question": "Who?", "answer": "Ann", "aliases": ["A."], "id": 7, "level": 2})
    (row,) = load_own_benchmark("mine", file)
    assert (row.id, row.question, row.answers, row.metric) == ("7", "Who?", ["Ann", "A."], "f1")
    assert row.extra == {"Question": "Who?", "aliases": ["A."], "id": 7, "level": 2}


def test_columns_are_named_and_the_prompt_is_a_template(tmp_path):
    (tmp_path / "a.csv").write_text("city;ruler\nAccra;Ann\nRome;Bo\n")
    rows = load_own_benchmark("mine", tmp_path / "a.csv", prompt="Who rules {city}?", answer="ruler", metric="em")
    assert [(row.id, row.question, row.answers, row.metric) for row in rows] == [
        ("mine-0", "Who rules Accra?", ["Ann"], "em"),
        ("mine-1", "Who rules Rome?", ["Bo"], "em"),
    ]
    assert len(load_own_benchmark("mine", tmp_path / "a.csv", prompt="city", answer="ruler", limit=1)) == 1


def test_of_a_solution_the_result_counts(write):
    file = write("a.jsonl", {"problem": "6 x 7?", "answer": "Multiply.\n#### 42"})
    assert load_own_benchmark("mine", file)[0].answers == ["42"]


def test_repeated_ids_get_numbers(write):
    file = write("a.jsonl", *[{"question": f"{n}?", "answer": "x", "id": "same"} for n in range(2)])
    assert [row.id for row in load_own_benchmark("mine", file)] == ["same", "same-2"]


@pytest.mark.parametrize(
    ("rows", "named", "sentence"),
    [
        ([{"text": "a", "label": "b"}], {}, "a.jsonl has no field question, problem, prompt, input, query, but text"),
        ([{"question": "a", "label": "b"}], {}, "but question, label; give --answer COLUMN."),
        ([{"question": "a", "label": "b"}], {"answer": "labl"}, "answer = 'labl' is no column of"),
        ([], {}, "a.jsonl has no rows."),
        ([{"question": "a", "answer": None}], {"answer": "answer"}, "answer = 'answer' is empty in every row"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(write, rows, named, sentence):
    with pytest.raises(ValueError) as error:
        load_own_benchmark("mine", write("a.jsonl", *rows), **named)
    assert sentence in str(error.value) and "\n" not in str(error.value)
