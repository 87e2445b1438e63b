"""Every layout of the benchmarks that circulates becomes the same rows, and what cannot be read is said."""

import base64
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset

from appo.data.benchmarks import BENCHMARKS, BenchmarkRow, final_answer, load_benchmark

REAL = Path(__file__).parents[4] / "shared" / "data" / "benchmarks"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real benchmarks are not in {REAL}")


def load(tmp_path, name, *found, **options):
    """Loads rows that are written as DIR/NAME.jsonl."""
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return load_benchmark(name, tmp_path, **options)


def test_the_plain_layout(tmp_path):
    row = {"_id": "x1", "question": " Who? ", "answer": "Ann", "level": "hard"}
    assert load(tmp_path, "hotpotqa", row) == [BenchmarkRow("x1", "Who?", ["Ann"], "f1", {"level": "hard"})]


@pytest.mark.parametrize("name", ["question", "problem", "Question", "prompt", "Problem", "input"])
def test_names_of_the_question(tmp_path, name):
    (row,) = load(tmp_path, "aime25", {name: "1 + 1?", "answer": 2})
    assert (row.id, row.question, row.answers, row.extra) == ("aime25-0", "1 + 1?", ["2"], {})


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"answer": ["New York", "NYC", "New York"]}, ["New York", "NYC"]),
        ({"golden_answers": ["Ann"]}, ["Ann"]),
        ({"answer": "Ann", "answer_aliases": ["Anna", "A."]}, ["Ann", "Anna", "A."]),
        ({"answer": "Ann", "answer_aliases": []}, ["Ann"]),
        ({"answer": 18}, ["18"]),
        ({"answer": 18.0}, ["18"]),
        ({"ground_truth": 2.5}, ["2.5"]),
    ],
)
def test_layouts_of_the_answer(tmp_path, fields, answers):
    assert load(tmp_path, "musique", {"question": "Who?", **fields})[0].answers == answers


@pytest.mark.parametrize(
    "mark",
    [{"answerable": False}, {"answerable": "false"}, {"metadata": {"answerable": False}}, {"is_impossible": True}],
)
def test_questions_without_an_answer_are_left_out_and_counted(tmp_path, caplog, mark):
    found = [{"question": "Who?", "answer": "Ann", **mark}, {"question": "Why?", "answer": "so", "answerable": True}]
    (row,) = load(tmp_path, "musique", *found)
    assert (row.id, row.question, row.answers) == ("musique-1", "Why?", ["so"])
    assert "left out 1 of 2 questions, marked as not answerable" in caplog.text
    with pytest.raises(ValueError, match="no rows that can be answered"):
        load(tmp_path, "musique", found[0])


def test_gsm8k_answers_end_with_the_number_and_the_solution_is_kept(tmp_path):
    solution = "2 * 1000 = <<2*1000=2000>>2,000\n#### 2,000"
    (row,) = load(tmp_path, "gsm8k", {"question": "How much?", "answer": solution, "idx": 7})
    assert (row.id, row.answers, row.extra) == ("7", ["2000"], {"answer": solution})
    assert load(tmp_path, "gsm8k", {"question": "How much?", "answer": "2000"})[0].answers == ["2000"]


def test_math_answers_are_boxed_in_the_solution(tmp_path):
    solution = r"First \boxed{1}, then $\boxed{\frac{3}{\sqrt{2}}}$."
    (row,) = load(tmp_path, "math", {"problem": "x?", "level": "Level 5", "solution": solution})
    assert row.answers == [r"\frac{3}{\sqrt{2}}"]
    assert row.extra == {"level": "Level 5", "solution": solution}
    # An answer of its own goes before the solution.
    (row,) = load(tmp_path, "math500", {"problem": "x?", "answer": "3", "solution": solution, "unique_id": "a/1.json"})
    assert (row.id, row.answers, row.extra) == ("a/1.json", ["3"], {"solution": solution})


def test_final_answers():
    assert final_answer("#### -1,234,567") == "-1234567"
    assert final_answer("#### (1,2)") == "(1,2)"
    assert final_answer(r"\fbox{a}") == "a"
    assert final_answer(r"so \boxed 5.") == "5"
    assert final_answer(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert final_answer(r"open \boxed{1") == r"open \boxed{1"
    assert final_answer("[0, 1)") == "[0, 1)"


def test_gaia_and_webwalker(tmp_path):
    row = {"task_id": "t", "Question": "Who?", "Level": "1", "Final answer": "Ann", "file_name": "a.png"}
    assert load(tmp_path, "gaia", row) == [
        BenchmarkRow("t", "Who?", ["Ann"], "judge", {"Level": "1", "file_name": "a.png"})
    ]
    row = {"question": "Who?", "answer": "Ann", "root_url": "u", "info": {"lang": "en"}}
    assert load(tmp_path, "webwalker", row)[0].extra == {"root_url": "u", "info": {"lang": "en"}}


def test_hidden_answers_of_gaia_are_said(tmp_path):
    with pytest.raises(ValueError, match=r"line 1: its answer is hidden .*validation set"):
        load(tmp_path, "gaia", {"Question": "Who?", "Final answer": "?"})


def test_xbench_in_chinese_and_encrypted(tmp_path):
    plain = {"id": 1, "prompt": "谁写了《红楼梦》？", "answer": "曹雪芹", "canary": "key"}
    assert load(tmp_path, "xbench", plain) == [
        BenchmarkRow("1", "谁写了《红楼梦》？", ["曹雪芹"], "judge", {"canary": "key"})
    ]
    secret = {**plain, "prompt": base64.b64encode(plain["prompt"].encode()).decode()}
    with pytest.raises(
        ValueError, match=r"2 rows cannot be read; line 1, line 2: encrypted, .*xbench-evals.*data_dir"
    ):
        load(tmp_path, "xbench", secret, secret)


def test_places_of_a_file(tmp_path):
    row = {"question": "Who?", "answer": "Ann"}
    paths = ["bamboogle/test.parquet", "bamboogle.parquet", "bamboogle/test.json", "bamboogle.json"]
    paths += ["bamboogle/test.jsonl", "bamboogle.jsonl"]
    (tmp_path / "bamboogle").mkdir()
    for number, name in enumerate(paths):
        # Each goes before those that lie there already.
        content = [{**row, "id": number}]
        if name.endswith("parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), tmp_path / name)
        elif name.endswith("json"):
            (tmp_path / name).write_text(json.dumps({"data": content}))
        else:
            (tmp_path / name).write_text(json.dumps(content[0]))
        assert [found.id for found in load_benchmark("bamboogle", str(tmp_path))] == [str(number)], name


def test_ids_are_distinct_and_a_limit_changes_none(tmp_path):
    found = [{"id": "a", "question": f"{number}?", "answer": number} for number in range(3)]
    assert [row.id for row in load(tmp_path, "2wiki", *found)] == ["a", "a-2", "a-3"]
    assert [row.id for row in load(tmp_path, "2wiki", *found, limit=2)] == ["a", "a-2"]


def test_mathematics_is_compared_unless_the_papers_judge_is_asked_for(tmp_path):
    metrics = {name: load(tmp_path, name, {"question": "x?", "answer": "1"})[0].metric for name in BENCHMARKS}
    assert len(metrics) == 13
    assert {name for name in metrics if metrics[name] == "f1"} == {"hotpotqa", "2wiki", "musique", "bamboogle"}
    assert {name for name in metrics if metrics[name] == "judge"} == {"webwalker", "gaia", "hle", "xbench"}
    judged = {name: load_benchmark(name, tmp_path, math_by_judge=True)[0].metric for name in BENCHMARKS}
    changed = {name for name in judged if judged[name] != metrics[name]}
    assert changed == {"aime24", "aime25", "math500", "gsm8k", "math"}
    assert set(judged.values()) == {"f1", "judge"}


def test_bad_rows_are_named_and_none_is_dropped(tmp_path):
    good = {"question": "x?", "answer": "1"}
    with pytest.raises(ValueError) as error:
        load(tmp_path, "gsm8k", good, {"answer": "1"}, {**good, "answer": ""}, {**good, "answer": True}, limit=1)
    assert str(error.value) == (
        f"{tmp_path}/gsm8k.jsonl: 3 rows cannot be read; line 2: no question; its fields are answer; "
        "line 3: no answer; its fields are question, answer; "
        "line 4: an answer must be a text or a number, not True."
    )
    for row, reason in (
        ({"question": 3, "answer": "1"}, "its question is no text"),
        ({"problem": "x?", "solution": "3"}, r"no answer, and no \\boxed"),
        ({"question": "x?", "answer": "#### "}, "its answer is empty"),
        ({"question": "x?", "answer": " "}, "its answer is empty"),
    ):
        with pytest.raises(ValueError, match=f"1 row cannot be read; line 1: {reason}"):
            load(tmp_path, "gsm8k", row)


def test_other_mistakes_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"unknown benchmark 'gsm8'; did you mean gsm8k\?"):
        load_benchmark("gsm8")
    with pytest.raises(ValueError, match=r"there are aime24, .*xbench"):
        load_benchmark("???")
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        load_benchmark("gsm8k", tmp_path, limit=0)
    with pytest.raises(ValueError, match=r"gaia is not in .*: there is none of .*gaia.jsonl, .*gaia/test.jsonl, "):
        load_benchmark("gaia", tmp_path)
    with pytest.raises(ValueError, match=r"gsm8k.jsonl: no rows\."):
        load(tmp_path, "gsm8k")


def test_the_hub_is_the_default_and_data_dir_the_remedy(monkeypatch):
    asked = []

    def give(hub_id, config, split):
        asked.append((hub_id, config, split))
        return Dataset.from_list([{"problem": config, "solution": r"\boxed{1}"}])

    monkeypatch.setattr("datasets.load_dataset", give)
    found = load_benchmark("math")
    assert [row.id for row in found] == [f"math-{number}" for number in range(7)]
    assert asked[0] == ("EleutherAI/hendrycks_math", "algebra", "test")
    assert found[-1].question == "precalculus"

    def fail(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(
        ValueError, match=r"openai/gsm8k .* \(no route\); put the questions into DIR/gsm8k.jsonl and give"
    ):
        load_benchmark("gsm8k")
    with pytest.raises(ValueError, match=r"accept its terms there and log in, or put .* data_dir=DIR\.$"):
        load_benchmark("hle")


@needs_real
@pytest.mark.parametrize(
    ("name", "count", "metric"),
    [
        ("aime24", 30, "math"),
        ("aime25", 30, "math"),
        ("math500", 500, "math"),
        ("gsm8k", 1319, "math"),
        ("hotpotqa", 200, "f1"),
        ("2wiki", 200, "f1"),
        ("musique", 200, "f1"),
        ("webwalker", 680, "judge"),
    ],
)
def test_the_real_benchmarks(name, count, metric):
    found = load_benchmark(name, REAL)
    assert len(found) == len({row.id for row in found}) == count
    assert all(row.question.strip() and row.answers and all(row.answers) for row in found)
    assert not any("\x0c" in row.question for row in found)
    assert {row.metric for row in found} == {metric}
    assert len(load_benchmark(name, REAL, limit=5)) == 5


@needs_real
def test_answers_of_the_real_mathematics_are_short():
    assert all(row.answers[0].lstrip("-").isdigit() for row in load_benchmark("gsm8k", REAL))
    for name in ("aime24", "aime25"):
        assert all(0 <= int(row.answers[0]) < 1000 for row in load_benchmark(name, REAL))


def test_only_xbench_is_taken_for_encrypted(tmp_path):
    word = {"question": "Pneumonoultramicroscopic", "answer": "1"}
    assert load(tmp_path, "hle", word)[0].question == "Pneumonoultramicroscopic"


def test_a_box_without_braces_is_one_token_or_left_as_it_is(tmp_path):
    rows = [{"question": "x?", "answer": answer} for answer in ("so \\boxed 5.", "so \\boxed\\frac12")]
    assert [row.answers for row in load(tmp_path, "gsm8k", *rows)] == [["5"], ["so \\boxed\\frac12"]]
