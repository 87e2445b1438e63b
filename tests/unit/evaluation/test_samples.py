"""The file of samples: what belongs to it, and what is refused."""

import json

import pytest

from appo.data.benchmarks import BenchmarkRow
from appo.errors import UserError
from appo.evaluation.samples import Job, SampleFile

ROW = BenchmarkRow("q1", "Who?", ["Ann"], "f1")


def record(sample=0, **fields):
    return {"benchmark": "hotpotqa", "id": "q1", "sample": sample, "question": "Who?", "answers": ["Ann"], **fields}


def opened(directory, settings=None, overwrite=False):
    file = SampleFile(directory, settings or {"seed": 0}, overwrite)
    file.start()
    return file


def test_seeds_differ_by_every_part_and_by_nothing_else():
    jobs = [
        Job(benchmark, BenchmarkRow(id, "Who?", ["Ann"], "f1"), sample)
        for benchmark in ("hotpotqa", "2wiki")
        for id in ("q1", "q2")
        for sample in range(3)
    ]
    seeds = [job.seed(seed) for seed in (0, 1) for job in jobs]
    assert len(set(seeds)) == 24
    assert seeds == [job.seed(seed) for seed in (0, 1) for job in jobs]
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_samples_are_there_again(tmp_path):
    opened(tmp_path).add(record())
    assert list(opened(tmp_path).found) == [("hotpotqa", "q1", 0)]


@pytest.mark.parametrize("partial", ['{"benchmark": "hot', '{"benchmark": "hotpotqa", "id": "q1", "sample": 1}'])
def test_a_cut_last_line_gives_way_to_the_next_sample(tmp_path, partial):
    file = opened(tmp_path)
    file.add(record(0))
    with open(file.path, "a") as stream:
        stream.write(partial)
    opened(tmp_path).add(record(1, tokens=5))
    assert [json.loads(line).get("tokens") for line in file.path.read_text().splitlines()] == [None, 5]


def test_a_broken_line_elsewhere_is_said(tmp_path):
    file = opened(tmp_path)
    file.path.write_text("{\n" + json.dumps(record()) + "\n")
    with pytest.raises(UserError, match="line 1 is not JSON"):
        opened(tmp_path)


def test_other_settings_are_named(tmp_path):
    opened(tmp_path, {"seed": 0, "top_p": 1.0}).add(record())
    with pytest.raises(UserError, match=r"other values of seed \(0 before\); give --overwrite or another"):
        opened(tmp_path, {"seed": 1, "top_p": 1.0})
    opened(tmp_path, {"seed": 1, "top_p": 1.0}, overwrite=True)
    assert opened(tmp_path, {"seed": 1, "top_p": 1.0}).found == {}


def test_samples_without_their_settings_are_refused(tmp_path):
    opened(tmp_path).add(record())
    (tmp_path / "settings.json").unlink()
    with pytest.raises(UserError, match=r"settings.json is missing"):
        opened(tmp_path)


@pytest.mark.parametrize("content", ["", '{"seed": 0', "[]", "null"])
def test_broken_settings_are_refused(tmp_path, content):
    opened(tmp_path).add(record())
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(UserError, match=r"settings.json is broken, .* give --overwrite or another --output_dir"):
        opened(tmp_path)


def test_a_directory_is_tried_and_nothing_stays_in_it(tmp_path):
    SampleFile(tmp_path, {"seed": 0}, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_another_question_under_the_same_id_is_refused(tmp_path):
    opened(tmp_path).add(record())
    file = opened(tmp_path)
    file.check_questions([Job("hotpotqa", ROW, 0)])
    with pytest.raises(UserError, match="hotpotqa q1 has another question or answer"):
        file.check_questions([Job("hotpotqa", BenchmarkRow("q1", "Who?", ["Bob"], "f1"), 0)])
