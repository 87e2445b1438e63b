"""Files of every kind become rows with places; bad rows become one sentence."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from appo.data.rows import (
    BadRows,
    DataError,
    as_texts,
    distinct,
    find_field,
    hub_rows,
    is_unanswerable,
    read_rows,
    repair_latex,
    source_rows,
)


def read(path):
    bad = BadRows(path.name)
    found = list(read_rows(path, bad))
    bad.raise_if_any()
    return found


def test_jsonl_gives_line_numbers_and_skips_blank_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"x": "a\u2028b"}\n\n{"x": 2}\n', encoding="utf-8")
    assert read(path) == [("line 1", {"x": "a\u2028b"}), ("line 3", {"x": 2})]


def test_json_is_a_list_or_a_list_below_data(tmp_path):
    path = tmp_path / "a.json"
    for content in ([{"x": 1}], {"data": [{"x": 1}], "version": 2}):
        path.write_text(json.dumps(content))
        assert read(path) == [("row 1", {"x": 1})]
    path.write_text('{"x": 1}')
    with pytest.raises(DataError, match=r'must hold a list of rows, or \{"data": \[..\]\}'):
        read(path)


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"x": [["a"], ["b", "c"]]}), path)
    assert read(path) == [("row 1", {"x": ["a"]}), ("row 2", {"x": ["b", "c"]})]


def test_bad_rows_are_counted_and_the_first_named_by_reason(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n{broken\n' + "[1]\n" * 5)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value) == (
        "a.jsonl: 6 rows cannot be read; line 2: no JSON (Expecting property name enclosed in double quotes); "
        "line 3, line 4, line 5 and 2 more: an object is expected, not list."
    )
    bad = BadRows("b")
    for number in range(5):
        bad.add(f"line {number}", f"reason {number}")
    with pytest.raises(DataError, match=r"^b: 5 rows cannot be read; .*line 2: reason 2; and others\.$"):
        bad.raise_if_any()


def test_files_that_cannot_be_read_at_all(tmp_path):
    cases = {"missing.jsonl": None, "a.txt": b"x", "broken.json": b"{", "latin.jsonl": b"\xff", "a.parquet": b"no"}
    for name, content in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=name) as error:
            read(path)
        assert "\n" not in str(error.value)


def test_the_hub_is_read_config_by_config(monkeypatch):
    from datasets import Dataset

    monkeypatch.setattr(
        "datasets.load_dataset", lambda hub_id, config, split: Dataset.from_list([{"x": f"{hub_id} {config} {split}"}])
    )
    assert list(hub_rows("a/b", ["c", "d"], "test", "")) == [
        ("c row 1", {"x": "a/b c test"}),
        ("d row 1", {"x": "a/b d test"}),
    ]


def test_a_hub_out_of_reach_is_one_sentence_with_the_remedy(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(DataError) as error:
        list(hub_rows("a/b", [None], "test", "give data_dir"))
    assert str(error.value) == "a/b could not be read from the Hugging Face hub (no route); give data_dir."


def test_fields_are_found_by_order_and_whatever_their_case():
    row = {"Final answer": "7", "Question": "", "PROBLEM": "p", "answer": None}
    assert find_field(row, ("question", "problem")) == "PROBLEM"
    assert find_field(row, ("answer", "final_answer")) == "Final answer"
    assert find_field(row, ("other",)) is None


def test_answers_become_texts_and_whole_numbers_have_no_point():
    assert as_texts(18.0) == ["18"]
    assert as_texts(18) == ["18"]
    assert as_texts(0.5) == ["0.5"]
    assert as_texts(" 18.0 ") == ["18.0"]
    assert as_texts(["a", None, " ", 3]) == ["a", "3"]
    for wrong in (True, float("nan"), {"a": 1}, [["a"]]):
        with pytest.raises(ValueError, match="must be a text or a number"):
            as_texts(wrong)


def test_only_what_was_mangled_is_repaired():
    assert repair_latex("\x08oxed{} \x0crac{m}{n} \x0crac {1}") == "\\boxed{} \\frac{m}{n} \\frac {1}"
    for text in ("in\x0cfinite", "\\boxed{}", "a\x08b", "\x0cractal", "tab\there"):
        assert repair_latex(text) == text


def test_names_become_distinct_and_the_first_keeps_its_own():
    assert distinct(["a", "a", "a-2", "b", "a"]) == ["a", "a-2", "a-2-2", "b", "a-3"]


@pytest.mark.parametrize("no", [False, "false", "False ", 0, 0.0, "0", "no", "No"])
def test_a_row_may_say_in_many_ways_that_its_question_has_no_answer(no):
    kept = json.dumps({"answerable": no})
    rows = [{"answerable": no}, {"metadata": {"answerable": no}}, {"metadata": kept}, {"extra_info": kept}]
    assert [is_unanswerable(row) for row in rows] == [True] * 4


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"answerable": 1, "is_impossible": "no"},
        {"answerable": None, "metadata": "{no JSON"},
        {"metadata": "false", "extra_info": '["answerable"]'},
    ],
)
def test_a_row_that_does_not_say_so_has_an_answer(row):
    assert not is_unanswerable(row)


# ---- CSV ----


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_csv_is_divided_as_its_header_is_and_its_cells_are_texts(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    lines = ['\ufeffid|text|"the answer"', '007|"so ""it"" is\nhere"|3.0', "||1e5"]
    path.write_text("\n".join(lines).replace("|", delimiter) + "\n", encoding="utf-8")
    assert read(path) == [
        ("row 1", {"id": "007", "text": 'so "it" is\nhere', "the answer": "3.0"}),
        ("row 2", {"id": None, "text": None, "the answer": "1e5"}),
    ]


def test_a_comma_in_a_text_divides_nothing_in_a_csv_of_semicolons(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text;label\none, two, three;x\n")
    assert read(path) == [("row 1", {"text": "one, two, three", "label": "x"})]


def test_rows_of_a_csv_with_other_numbers_of_cells_are_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n1,2,3\n4,5\n6\n")
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value) == (
        "a.csv: 2 rows cannot be read; row 2: 3 cell(s), where the header has 2; row 4: 1 "
        "cell(s), where the header has 2."
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty; its first row must name the columns"),
        (b"a,b,a\n1,2,3\n", "has two columns called 'a'; rename one"),
        (b"a,b\n1,\xff\n", "cannot be read: "),
    ],
)
def test_a_csv_that_cannot_be_read_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=sentence) as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_column_without_a_name_gets_its_number(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(",q\n0,a?\n")  # as pandas writes its index
    assert read(path) == [("row 1", {"column_1": "0", "q": "a?"})]


def test_a_name_that_is_no_path_is_looked_up_on_the_hub(monkeypatch, tmp_path):
    from datasets import Dataset

    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: asked.append((a, k)) or Dataset.from_list([{"x": 1}]))
    bad = BadRows("b")
    assert list(source_rows("some/set", bad)) == [("train row 1", {"x": 1})]
    assert asked == [(("some/set", None), {"split": "train"})]
    for name in ("none.csv", "none.cvs", "./none", str(tmp_path / "none.jsonl")):
        with pytest.raises(DataError, match="none"):
            list(source_rows(name, bad))
    assert len(asked) == 1
