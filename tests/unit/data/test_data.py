"""The RL data is read as it was released, repaired, and compared with evaluation questions."""

import json
import logging
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, concatenate_datasets

from appo.data.benchmarks import load_benchmark
from appo.data.rl_sets import load_rl_data, main, overlap, overlap_note, print_overlap

REAL = Path(__file__).parents[4] / "shared" / "data"
needs_real = pytest.mark.skipif(not (REAL / "rl").is_dir(), reason=f"the real RL data is not in {REAL / 'rl'}")
SYSTEM = "End with \\[ \x08oxed{answer here} \\]."


def verl(question="Who?", truth="Ann", index=0, system=SYSTEM):
    """A row as verl has it, and the released files with it."""
    messages = [{"content": system, "role": "system"}, {"content": question, "role": "user"}]
    info = {"index": index, "question": question, "split": "train"}
    reward = {"ground_truth": truth, "style": "rule"}
    return {
        "data_source": "mix", "prompt": messages, "ability": "qa", "reward_model": reward, "extra_info": info,
        "metadata": None,
    }  # fmt: skip


def load(tmp_path, *found):
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(found)), path)
    return load_rl_data(path)


def test_verl_rows(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "appo.data.rl_sets"):
        data = load(tmp_path, verl(index=5), verl("When?", " 1910", index=6, system="Be brief."))
    assert data[0] == {
        "id": "mix/train/5",
        "source": "mix",
        "prompt": [
            {"content": "End with \\[ \\boxed{answer here} \\].", "role": "system"},
            {"content": "Who?", "role": "user"},
        ],
        "question": "Who?",
        "answers": ["Ann"],
        "ability": "qa",
        "repaired": True,
        "extra": '{"style": "rule", "index": 5, "split": "train"}',
    }
    assert data["answers"][1] == ["1910"]
    assert data["repaired"] == [True, False]
    assert "repaired \\boxed or \\frac in 1 of 2 prompts" in caplog.text


def test_the_mangled_question_is_repaired_like_its_prompt(tmp_path):
    data = load(tmp_path, verl("\x0crac{m}{n}?", system="Be brief."))
    assert data[0]["question"] == data[0]["prompt"][1]["content"] == "\\frac{m}{n}?"
    assert data[0]["repaired"]


def test_rows_without_an_answer_are_left_out_and_logged(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "appo.data.rl_sets"):
        data = load(tmp_path, verl(index=1), verl(truth="", index=2))
    assert data["id"] == ["mix/train/1"]
    assert "left out 1 row(s) without an answer: row 2" in caplog.text
    with pytest.raises(ValueError, match="no rows with an answer"):
        load(tmp_path, verl(truth=" "))


@pytest.mark.parametrize("mark", [{"answerable": False}, {"extra_info": {"answerable": False}}])
def test_rows_marked_as_not_answerable_are_left_out_and_logged(tmp_path, caplog, mark):
    file = tmp_path / "full.jsonl"
    rows = [{"question": "Who?", "answer": "Ann", "answerable": True}, {"question": "Who?", "answer": "Ann", **mark}]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert load_rl_data(file)["answers"] == [["Ann"]]
    assert "left out 1 row(s) without an answer: line 2" in caplog.text


def test_plain_rows_and_other_layouts(tmp_path):
    path = tmp_path / "own.jsonl"
    found = [
        {"prompt": "Question: Who?", "answer": ["Ann", "Anna"], "id": 3, "level": 1},
        {"question": "2 + 3?", "answer": 5.0, "id": 3},
        {"prompt": [{"role": "user", "content": "Who?"}], "reward_model": {"ground_truth": {"target": ["Ann"]}}},
        {"prompt": "Think, then answer: Who?", "question": "Who?", "golden_answers": ["Ann"], "source": "nq"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    data = load_rl_data(str(path))
    assert data["id"] == ["3", "3-2", "own/2", "nq/3"]
    assert data["source"] == ["own", "own", "own", "nq"]
    assert data["answers"] == [["Ann", "Anna"], ["5"], ["Ann"], ["Ann"]]
    assert data["question"] == ["Question: Who?", "2 + 3?", "Who?", "Who?"]
    assert data["prompt"][0] == [{"role": "user", "content": "Question: Who?"}]
    assert data["extra"][0] == '{"level": 1}'
    path.write_text(json.dumps(found[0]))
    assert load_rl_data(path)["prompt"] == ["Question: Who?"]


def test_sets_can_be_concatenated(tmp_path):
    first = load(tmp_path, verl())
    other = verl()
    other["ability"] = None
    del other["metadata"], other["reward_model"]["style"]
    assert len(concatenate_datasets([first, load(tmp_path, other)])) == 2


def test_unreadable_rows_are_named(tmp_path):
    path = tmp_path / "own.jsonl"
    found = [
        {"prompt": "Who?", "answer": "Ann"},
        {"answer": "Ann"},
        {"prompt": [{"role": "system", "content": "Be brief."}], "answer": "Ann"},
        {"prompt": [{"role": "user", "content": ["picture"]}], "answer": "Ann"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    with pytest.raises(ValueError) as error:
        load_rl_data(path)
    assert str(error.value) == (
        f"{path}: 3 rows cannot be read; line 2: no prompt; it must be a text or a list of messages; "
        "line 3: its prompt is empty, or without a message of the user; "
        "line 4: a message of its prompt has no text as content."
    )
    path.write_text(json.dumps({**found[0], "reward_model": "rule"}))
    with pytest.raises(ValueError, match="line 1: its reward_model is no object"):
        load_rl_data(path)


def test_missing_files_and_hub_names(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"there is no file .*missing.parquet"):
        load_rl_data(tmp_path / "missing.parquet")
    monkeypatch.setattr("datasets.load_dataset", lambda name, config, split: Dataset.from_list([verl()]))
    assert load_rl_data("owner/set-v1.5")["answers"] == [["Ann"]]

    def fail(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(
        ValueError, match=r"owner/set could not be read .*; download it and give the path of its file\."
    ):
        load_rl_data("owner/set")


LONG = "Let $x$ be the least whole number, with $\\frac{x}{2} > 3.5$. What is \\(x\\)?"


def test_overlap_ignores_punctuation_case_and_the_ways_to_write_latex():
    other = "let x be the least whole number with \\dfrac{x}{2}>3.5; what is $x$"
    assert overlap([LONG, "Who wrote “Emma”?"], ["who wrote Emma", other, "Who?"]) == [(0, 1), (1, 0)]


def test_overlap_finds_long_questions_inside_instructions_and_short_ones_alone():
    inside = f"Answer in one word. {LONG} The answer is in the form m/n."
    assert overlap([inside], [LONG]) == [(0, 0)]
    assert overlap(["Answer in one word. Who wrote Emma?"], ["Who wrote Emma?"]) == []
    assert overlap([LONG.replace("3.5", "4.5"), LONG.replace(">", "<")], [LONG]) == []
    assert overlap(["?", ""], ["", "!"]) == []


def test_counts_are_printed_per_benchmark(capsys):
    print_overlap(["Who?", "who", "When?"], {"hotpotqa": ["Who?", "Where?"], "musique": ["Why?"]})
    assert capsys.readouterr().out.splitlines() == [
        "hotpotqa   1 of 2 questions are in 2 training rows",
        "musique    0 of 1 questions are in 0 training rows",
    ]


def test_the_command(tmp_path, capsys):
    load(tmp_path, verl("Who wrote Emma?"))
    train = str(tmp_path / "train.parquet")
    with pytest.raises(SystemExit, match="holds none of the benchmarks aime24"):
        main([train, str(tmp_path)])
    (tmp_path / "musique.jsonl").write_text(json.dumps({"question": "Who wrote Emma?", "answer": "Austen"}))
    main([train, str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == [
        "1 rows, 1 prompts repaired",
        "source: mix 1",
        "ability: qa 1",
        "musique    1 of 1 questions are in 1 training rows",
    ]
    for arguments, message in (([], "usage"), (["missing.parquet"], "there is no file missing.parquet")):
        with pytest.raises(SystemExit, match=message):
            main(arguments)


@needs_real
@pytest.mark.parametrize(("name", "count"), [("train_10k", 9999), ("hard_search_1k", 1071), ("valid", 180)])
def test_the_real_rl_data(name, count):
    data = load_rl_data(REAL / "rl" / f"{name}.parquet")
    assert len(data) == len(set(data["id"])) == sum(data["repaired"]) == count
    assert all(question.strip() for question in data["question"])
    assert all(answers and all(answers) for answers in data["answers"])
    system = {messages[0]["content"] for messages in data["prompt"]}
    assert len(system) == 1
    assert system.pop().count("\\boxed{") == 2
    assert not any(
        "\x08" in message["content"] or "\x0crac" in message["content"] for row in data["prompt"] for message in row
    )


@needs_real
def test_overlap_of_the_real_sets():
    questions = {name: load_rl_data(REAL / "rl" / f"{name}.parquet")["question"] for name in ("train_10k", "valid")}
    benchmarks = REAL / "benchmarks"
    aime, hotpot = ([row.question for row in load_benchmark(name, benchmarks)] for name in ("aime24", "hotpotqa"))
    assert len(overlap(questions["train_10k"], hotpot)) == 5
    assert overlap(questions["train_10k"], aime) == []
    # The released validation set is made of evaluation questions.
    assert len({j for _, j in overlap(questions["valid"], aime)}) == 30


def test_the_overlap_of_training_and_evaluation_is_one_sentence():
    train = Dataset.from_dict({"question": ["Who wrote Emma?", "Who wrote Ulysses?"]})
    asked = Dataset.from_dict({"question": ["who wrote emma", "Who wrote Dubliners?", "Who wrote Hamlet?"]})
    assert overlap_note(train, asked) == "1 of 3 questions are in the training data"
    assert overlap_note(train, Dataset.from_dict({"prompt": ["Who wrote Emma?"]})) is None
