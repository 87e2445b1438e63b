"""`appo benchmark`, through the real command: results, going on after a kill, and models that misbehave."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from judge_server import JudgeServer
from scripted_model import save_random, save_scripted

from appo.cli.benchmark import read_flags
from appo.cli.main import main
from appo.errors import UserError
from appo.evaluation import policy
from appo.evaluation.eval_config import EvalConfig
from appo.tools import python as python_tool

QUESTIONS = {
    "gsm8k": [{"question": f"What is {n} + {n}?", "answer": f"Add.\n#### {2 * n}"} for n in range(1, 11)],
    "hotpotqa": [{"question": "Who?", "answer": ["Ann"]}, {"question": "Where?", "answer": ["Rome"]}],
    "webwalker": [{"question": "When?", "answer": "in May"}, {"question": "Why?", "answer": "rain"}],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    for name, rows in QUESTIONS.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(directory)


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
    """Writes "4" in an answer's tags and ends; it never calls a tool."""
    script = {"\n": "<think>", "<think>": "</think>", "</think>": "<answer>", "<answer>": "4", "4": "</answer>"}
    return save_scripted(tmp_path_factory.mktemp("answering"), script)


def run(out, *flags):
    return main(["benchmark", *flags, "--output_dir", str(out)])


def samples(out):
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


def results(out):
    return json.loads((out / "results.json").read_text())["benchmarks"]


def test_a_model_is_asked_as_in_its_training_and_that_is_told(tmp_path, data, answering, capsys):
    model = shutil.copytree(answering, tmp_path / "model")
    (model / "appo.json").write_text(json.dumps({"tool_protocol": "tags", "system_prompt": "", "max_tool_calls": 2}))
    flags = ["--model", str(model), "--benchmark", "gsm8k", "--data", data, "--limit", "1", "--tools", "none"]
    assert run(tmp_path / "out", *flags) == 0
    assert samples(tmp_path / "out")[0]["prompt"] == "What is 1 + 1?\n"
    assert "(appo.json): protocol, system_prompt, max_tool_calls; flags win." in capsys.readouterr().out


def test_a_model_that_never_calls_a_tool(tmp_path, data, answering, capsys):
    flags = ["--model", answering, "--benchmark", "gsm8k,hotpotqa", "--data", data, "--samples", "2"]
    assert run(tmp_path, *flags, "--limit", "4", "--tools", "none") == 0
    records = samples(tmp_path)
    assert len(records) == 2 * (4 + 2)
    assert {record["completion"] for record in records} == {"<think></think><answer>4</answer>"}
    gsm8k, hotpotqa = results(tmp_path)["gsm8k"], results(tmp_path)["hotpotqa"]
    # 2 + 2 is the second of four questions; both samples of it are right.
    assert [value["mean"] for value in gsm8k["metrics"]["math"]] == [0.25, 0.25]
    assert (gsm8k["questions"], gsm8k["samples"], gsm8k["tool_calls"], gsm8k["tokens"]) == (4, 2, 0, 5)
    assert hotpotqa["metric"] == "f1" and hotpotqa["metrics"]["f1"][0]["mean"] == 0
    assert gsm8k["format_errors"] == 1  # the paper wants a \boxed{}
    printed = capsys.readouterr().out
    assert "gsm8k" in printed and "25.0 [4.6, 69.9]w" in printed and "samples/min" in printed
    assert max(map(len, printed.splitlines()[2:-1])) <= 100


def test_wrong_samples_are_shown_after_the_table_without_sampling_again(tmp_path, data, answering, capsys):
    flags = ["--model", answering, "--benchmark", "gsm8k", "--data", data, "--limit", "4", "--tools", "none"]
    assert run(tmp_path, *flags) == 0
    before = capsys.readouterr().out
    assert "answered" not in before
    assert run(tmp_path, *flags, "--show-wrong", "2") == 0
    out = capsys.readouterr().out
    assert "4 of 4 samples are there already" in out and "loading" not in out
    table, wrong = out.split("gsm8k: 3 of 4 samples score below 1 by math, 2 of them shown\n")
    assert "pass@1" in table
    assert (
        "question   What is 1 + 1?\nreference  2\nend        <think></think><answer>4</answer>\nanswered   4" in wrong
    )
    assert wrong.count("answered   4") == 2 and "What is 2 + 2?" not in wrong
    assert run(tmp_path, *flags, "--show-wrong", "-1") == 2
    assert "show_wrong must not be below 0, got -1." in capsys.readouterr().err


def test_a_file_of_ones_own_is_a_benchmark(tmp_path, answering, capsys):
    (tmp_path / "mine.csv").write_text("city,number\nAccra,4\nRome,5\n")
    flags = ["--model", answering, "--benchmark", f"mine={tmp_path / 'mine.csv'}", "--tools", "none"]
    assert run(tmp_path / "out", *flags) == 2
    assert "has no field question, problem, prompt, input, query, but city, number" in capsys.readouterr().err
    flags += ["--prompt", "How many has {city}?", "--answer", "number"]
    assert run(tmp_path / "out", *flags) == 0
    assert [record["question"] for record in samples(tmp_path / "out")] == [
        "How many has Accra?",
        "How many has Rome?",
    ]
    result = results(tmp_path / "out")["mine"]
    assert result["metric"] == "math" and result["metrics"]["math"][0]["mean"] == 0.5
    assert run(tmp_path / "out", *flags, "--metric", "em") == 0  # from the same samples
    assert results(tmp_path / "out")["mine"]["metric"] == "em"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--benchmark", "gsm8k=x.csv"], "must read NAME=FILE, with a name of letters that none of aime24"),
        (["--benchmark", "gsm8k", "--answer", "x"], "answer belongs to a file of yours; give --benchmark NAME=FILE"),
        (["--benchmark", "mine=x.csv", "--metric", "bleu"], "metric must be one of f1, em, math, judge, got 'bleu'"),
        (["--benchmark", "mine=none.csv"], "benchmark mine: there is no file none.csv"),
    ],
)
def test_what_a_file_of_ones_own_may_not_be(tmp_path, answering, capsys, flags, sentence):
    assert run(tmp_path, "--model", answering, *flags) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_model_that_loops_for_ever(tmp_path, data, capsys):
    model = save_scripted(tmp_path / "m", {"\n": "<python>", "<python>": "1", "1": "</python>"})
    flags = ["--model", model, "--benchmark", "hotpotqa", "--data", data, "--max_completion_length", "200"]
    assert run(tmp_path / "long", *flags, "--allow_unisolated") == 0
    assert run(tmp_path / "short", *flags, "--allow_unisolated", "--max_tool_calling_iterations", "2") == 0
    long, short = results(tmp_path / "long")["hotpotqa"], results(tmp_path / "short")["hotpotqa"]
    assert long["truncated"] == 1 and long["tool_calls"] > 2 and long["no_answer"] == 1
    assert short["truncated"] == 0 and short["tool_calls"] == 2
    assert short["metrics"]["f1"][0]["mean"] == 0
    assert "hotpotqa: nothing is right; all 2 samples reached the token limit." in capsys.readouterr().out
    assert short["why_zero"] == "all 2 samples reached the limit of tool calls"
    assert {record["finish_reason"] for record in samples(tmp_path / "short")} == {"tool_limit"}
    assert len(samples(tmp_path / "long")[0]["completion_ids"]) <= 200


def test_a_model_that_emits_invalid_unicode(tmp_path, data):
    model = save_scripted(tmp_path / "m", {"\n": b"\xff", b"\xff": b"\xe2", b"\xe2": b"\xff"})
    flags = ["--model", model, "--benchmark", "hotpotqa,gsm8k", "--data", data, "--limit", "2", "--tools", "none"]
    assert run(tmp_path, *flags, "--max_completion_length", "11") == 0
    assert [record["completion"] for record in samples(tmp_path)] == ["\ufffd" * 11] * 4
    assert results(tmp_path)["gsm8k"]["metrics"]["math"][0]["mean"] == 0


def test_a_question_longer_than_the_context_scores_zero(tmp_path, answering):
    (tmp_path / "hotpotqa.jsonl").write_text(json.dumps({"question": "x" * 5000, "answer": "4"}) + "\n")
    flags = ["--model", answering, "--benchmark", "hotpotqa", "--data", str(tmp_path), "--tools", "none"]
    assert run(tmp_path / "out", *flags) == 0
    (record,) = samples(tmp_path / "out")
    assert (record["completion"], record["tokens"], record["finish_reason"]) == ("", 0, "length")
    assert results(tmp_path / "out")["hotpotqa"]["metrics"]["f1"][0]["mean"] == 0


# The command, in a process that gets SIGKILL when its 13th sample is in the file: in the middle of the second batch.
KILLED = """
import os, signal, sys
from appo.cli.main import main
from appo.evaluation.samples import SampleFile

add = SampleFile.add

def add_and_die(file, record):
    add(file, record)
    if len(file.found) == 13:
        os.kill(os.getpid(), signal.SIGKILL)

SampleFile.add = add_and_die
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_to_the_same_samples(tmp_path, data):
    model = save_random(tmp_path / "m")
    flags = ["--model", model, "--benchmark", "gsm8k,hotpotqa", "--data", data, "--samples", "3", "--seed", "7"]
    flags += ["--tools", "none", "--max_completion_length", "80", "--batch_size", "9"]
    assert run(tmp_path / "whole", *flags) == 0
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, "benchmark", *flags, "--output_dir", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode == -signal.SIGKILL
    kept = (out / "samples.jsonl").read_bytes()
    assert kept.count(b"\n") == 13
    with open(out / "samples.jsonl", "ab") as file:
        file.write(b'{"benchmark": "gsm8k", "id": ')  # half a line, as a kill may leave
    assert run(out, *flags) == 0
    again = (out / "samples.jsonl").read_bytes()
    assert again.startswith(kept)
    assert again == (tmp_path / "whole" / "samples.jsonl").read_bytes()
    assert results(out) == results(tmp_path / "whole")
    assert len({tuple(record["completion_ids"]) for record in samples(out)}) == 3 * 12


def test_more_samples_are_added_and_other_settings_refused(tmp_path, data, answering, capsys, monkeypatch):
    flags = ["--model", answering, "--data", data, "--tools", "none", "--limit", "2"]
    assert run(tmp_path, *flags, "--benchmark", "gsm8k") == 0
    before = samples(tmp_path)
    assert run(tmp_path, *flags, "--benchmark", "hotpotqa,gsm8k", "--samples", "2") == 0
    assert samples(tmp_path)[:2] == before and len(samples(tmp_path)) == 8
    capsys.readouterr()
    assert run(tmp_path, *flags, "--benchmark", "gsm8k", "--temperature", "0.5", "--seed", "1") == 2
    error = capsys.readouterr().err
    assert "were made with other values of seed (0 before), temperature (1.0 before); give --overwrite" in error
    monkeypatch.setattr(policy, "read_model", lambda *a, **k: pytest.fail("the model was loaded for nothing"))
    assert run(tmp_path, *flags, "--benchmark", "gsm8k", "--samples", "2") == 0


def test_another_chat_template_is_refused_by_name(tmp_path, data, capsys):
    model = save_scripted(tmp_path / "m", {})
    flags = ["--model", model, "--benchmark", "hotpotqa", "--data", data, "--tools", "none"]
    assert run(tmp_path / "out", *flags) == 0
    (tmp_path / "m" / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}")
    assert run(tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert "were made with other values of tokenizer_and_config (" in error and "weights" not in error


def test_the_chat_template_is_given_options(tmp_path, data, capsys):
    model = save_scripted(tmp_path / "m", {})
    thinking = "{{ '<think></think>' if enable_thinking is defined and not enable_thinking else '<think>' }}"
    (tmp_path / "m" / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}" + thinking)
    flags = ["--model", model, "--benchmark", "hotpotqa", "--data", data, "--tools", "none", "--limit", "1"]
    off = ["--chat_template_kwargs", '{"enable_thinking": false}']
    assert run(tmp_path / "on", *flags) == 0 and run(tmp_path / "off", *flags, *off) == 0
    assert [samples(tmp_path / out)[0]["prompt"] for out in ("on", "off")] == ["Who?<think>", "Who?<think></think>"]
    assert run(tmp_path / "off", *flags, *off) == 0 and len(samples(tmp_path / "off")) == 1
    capsys.readouterr()
    assert run(tmp_path / "off", *flags) == 2
    assert "other values of chat_template_kwargs ({'enable_thinking': False} before)" in capsys.readouterr().err
    assert run(tmp_path / "typo", *flags, "--chat_template_kwargs", '{"enable_thinkin": false}') == 2
    error = capsys.readouterr().err
    assert "its chat template does not read enable_thinkin; take that out of" in error and error.count("\n") == 1


def test_a_full_disk_is_one_sentence(tmp_path, data, answering, capsys):
    flags = ["--model", answering, "--benchmark", "hotpotqa", "--data", data, "--tools", "none"]
    (tmp_path / "results.json").symlink_to("/dev/full")
    assert run(tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("appo: ") and "No space left on device" in error and error.count("\n") == 1
    assert len(samples(tmp_path)) == 2


def test_an_empty_system_prompt_is_none(tmp_path, data, answering):
    flags = ["--model", answering, "--benchmark", "hotpotqa", "--data", data, "--tools", "none", "--limit", "1"]
    assert run(tmp_path, *flags, "--system_prompt", "") == 0
    assert samples(tmp_path)[0]["prompt"] == "Who?\n"


def test_programs_are_run_with_their_tests_and_not_again(tmp_path, capsys):
    body = "    return number % 1.0"  # what HumanEval/2 asks for
    model = save_scripted(tmp_path / "model", {"\n": body}, tokens=(body,))
    flags = ["--model", model, "--benchmark", "humaneval,list_functions", "--limit", "3", "--show-wrong", "1"]
    assert run(tmp_path / "out", *flags) == 0
    found = results(tmp_path / "out")
    assert found["humaneval"]["metrics"]["tests"][0]["mean"] == 1 / 3
    assert found["list_functions"]["metrics"]["verifier"][0]["mean"] == 0
    printed = capsys.readouterr().out
    assert "33.3 [6.1, 79.2]w" in printed and "humaneval: 2 of 3 samples score below 1 by tests" in printed
    assert "tests      exception: NameError: name 'number' is not defined; at return number % 1.0" in printed
    lines = (tmp_path / "out" / "programs.jsonl").read_text()
    assert lines.count("\n") == 3
    assert run(tmp_path / "out", *flags) == 0
    assert (tmp_path / "out" / "programs.jsonl").read_text() == lines
    assert "tested" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "made", "name"),
    [
        ("runs/a/model", True, "a-model"),
        ("runs/b/model/", True, "b-model"),
        ("Qwen/Qwen3-0.6B", False, "Qwen3-0.6B"),
        ("smollm2", False, "smollm2"),
    ],
)
def test_models_have_directories_of_their_own(tmp_path, monkeypatch, model, made, name):
    monkeypatch.chdir(tmp_path)
    if made:
        Path(model).mkdir(parents=True)
    assert EvalConfig(model=model, benchmark="gsm8k").directory == Path("runs/eval") / name


def test_overwrite_starts_anew_and_loses_nothing(tmp_path, data, answering):
    flags = ["--model", answering, "--benchmark", "hotpotqa", "--data", data, "--tools", "none"]
    assert run(tmp_path, *flags) == 0
    assert run(tmp_path, *flags, "--seed", "5", "--overwrite") == 0
    assert len(samples(tmp_path)) == 2 and (tmp_path / "samples.1.jsonl").exists()
    assert json.loads((tmp_path / "settings.json").read_text())["seed"] == 5


def test_a_judged_benchmark_without_a_judge_says_so(tmp_path, data, answering, capsys):
    flags = ["--model", answering, "--benchmark", "webwalker", "--data", data, "--tools", "none"]
    assert run(tmp_path, *flags) == 0
    printed = capsys.readouterr().out
    assert "webwalker needs a judge, and none was given (--judge-url, --judge-model): EM and F1 are shown" in printed
    assert " EM " in printed and " F1 " in printed
    assert results(tmp_path)["webwalker"]["metric"] == "judge"


def test_a_judge_is_asked_once_and_for_all(tmp_path, data, answering, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = JudgeServer()
    server.reply = lambda prompt: f"Verdict: {'correct' if 'When?' in prompt or '1 + 1' in prompt else 'incorrect'}"
    flags = ["--model", answering, "--benchmark", "webwalker", "--data", data, "--tools", "none", "--samples", "2"]
    flags += ["--judge-url", server.url + "/v1", "--judge-model", "big"]
    assert run(tmp_path, *flags) == 0
    assert [value["mean"] for value in results(tmp_path)["webwalker"]["metrics"]["judge"]] == [0.5, 0.5]
    assert len(server.requests) == 4  # two of the check, and the same answer to two questions
    assert run(tmp_path, *flags) == 0
    assert len(server.requests) == 6  # the check
    server.close()
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [(verdict["id"], verdict["correct"]) for verdict in verdicts] == [
        ("webwalker-0", True), ("webwalker-0", True), ("webwalker-1", False), ("webwalker-1", False),
    ]  # fmt: skip
    capsys.readouterr()
    assert run(tmp_path, *flags) == 2  # the server is gone
    error = capsys.readouterr().err
    assert "does not work with judge_model = 'big': the judge failed: the connection failed" in error
    assert error.count("\n") == 1


def test_answers_without_a_verdict_are_counted(tmp_path, data, answering, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = JudgeServer()
    server.reply = lambda prompt: "Who knows." if "Why?" in prompt else "Verdict: correct"
    flags = ["--model", answering, "--benchmark", "webwalker", "--data", data, "--tools", "none"]
    assert run(tmp_path, *flags, "--judge_url", server.url, "--judge_model", "big") == 0
    server.close()
    (value,) = results(tmp_path)["webwalker"]["metrics"]["judge"]
    assert (value["mean"], value["questions"]) == (1.0, 1)
    assert "1 of 2 answers have no verdict (the judge's reply holds no verdict)." in capsys.readouterr().out


def test_mathematics_by_the_judge_as_in_the_paper(tmp_path, data, answering, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = JudgeServer()
    flags = ["--model", answering, "--benchmark", "gsm8k", "--data", data, "--tools", "none", "--limit", "2"]
    flags += ["--judge-url", server.url + "/v1", "--judge-model", "big"]
    assert run(tmp_path, *flags) == 0
    assert not server.requests
    assert run(tmp_path, *flags, "--math_by_judge") == 0
    server.close()
    assert results(tmp_path)["gsm8k"]["metrics"]["judge"][0]["mean"] == 1


def test_search_in_a_corpus_is_called(tmp_path, data, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"title": "Zu", "text": "A zu is a beast."}) + "\n")
    model = save_scripted(tmp_path / "m", {"\n": "<search>", "<search>": "Z", "Z": "u", "u": "</search>"})
    flags = ["--model", model, "--benchmark", "hotpotqa", "--data", data, "--max_tool_calling_iterations", "1"]
    assert run(tmp_path / "out", *flags, "--search", f"corpus:{tmp_path / 'corpus.jsonl'}", "--tools", "search") == 0
    record = samples(tmp_path / "out")[0]
    (call,) = record["tool_calls"]
    assert (call["name"], call["arguments"], call["result"]) == ("search", "Zu", "Page 1: Zu\nA zu is a beast.")
    assert "wikipedia search tool" in record["prompt"] and "python" not in record["prompt"]


def test_a_search_takes_options_and_the_prompt_may_be_ones_own(tmp_path, data, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pages = [{"title": "Zu", "text": f"A zu is a beast, says page {number}."} for number in range(3)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
    model = save_scripted(tmp_path / "m", {"\n": "<search>", "<search>": "Z", "Z": "u", "u": "</search>"})
    flags = ["--model", model, "--benchmark", "hotpotqa", "--data", data, "--tools", "search"]
    flags += ["--max_tool_calling_iterations", "1"]
    flags += ["--search", f"corpus:{tmp_path / 'corpus.jsonl'}", "--search_options", '{"limits": {"top_k": 2}}']
    assert run(tmp_path / "out", *flags, "--system_prompt", "Look it up.") == 0
    record = samples(tmp_path / "out")[0]
    assert record["tool_calls"][0]["result"].count("Page ") == 2
    assert record["prompt"].startswith("Look it up.\n\n")


def test_a_sample_does_not_depend_on_what_is_sampled_beside_it(tmp_path, data):
    model = save_random(tmp_path / "m")
    flags = ["--model", model, "--data", data, "--limit", "2", "--tools", "none", "--max_completion_length", "40"]
    assert run(tmp_path / "a", *flags, "--benchmark", "gsm8k,hotpotqa", "--samples", "3") == 0
    assert run(tmp_path / "b", *flags, "--benchmark", "hotpotqa", "--samples", "2", "--batch_size", "3") == 0
    whole = {(record["benchmark"], record["id"], record["sample"]): record for record in samples(tmp_path / "a")}
    assert len(samples(tmp_path / "b")) == 4
    for record in samples(tmp_path / "b"):
        assert record == whole[record["benchmark"], record["id"], record["sample"]]
    assert len({tuple(record["completion_ids"]) for record in whole.values()}) == 12


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--benchmark", "gsm9k"], "unknown benchmark 'gsm9k'; did you mean gsm8k?"),
        (["--benchmark", ""], "unknown benchmark ''; there are aime24"),
        (["--benchmark", "musique"], "musique is not in"),
        (["--data", "/none"], "gsm8k is not in /none"),
        (["--benchmark", "humaneval,gsm8k"], "humaneval is asked otherwise than the others; evaluate it in a command"),
        (["--benchmark", "humaneval"], "humaneval comes from a package, not from a file; leave out data."),
        (["--engine", "sglang"], "engine must be one of transformers, vllm, vllm_server, got 'sglang'"),
        (["--engine", "vllm_server"], "engine vllm_server and server_url belong together"),
        (["--engine", "vllm", "--vllm_gpu_memory_utilization", "1.5"], "must lie in (0, 1], got 1.5"),
        (["--samples", "0"], "samples must not be below 1, got 0"),
        (["--samples", "few"], "samples: invalid int value: 'few'"),
        (["--temperature", "nan"], "temperature must not be below 0"),
        (["--temperature", "inf"], "temperature must not be below 0 and must be finite, got inf"),
        (["--top_p", "nan"], "top_p must lie in (0, 1], got nan"),
        (["--temperature", "0", "--samples", "2"], "set samples = 1"),
        (["--protocol", "xml"], "protocol must be one of tags, chat_template, got 'xml'"),
        (["--tool_timeout", "0"], "tool_timeout must be above 0"),
        (["--tool_timeout", "inf"], "tool_timeout must be above 0 and finite, got inf"),
        (["--judge-url", "http://localhost:1"], "judge_url and judge_model belong together"),
        (["--math_by_judge"], "math_by_judge needs a judge"),
        (["--judge-modle", "x"], "unknown option --judge-modle; did you mean --judge_model?"),
        (["--tools", "search"], "tools with search and --search SOURCE belong together"),
        (["--tools", "python", "--search", "serper"], "tools with search and --search SOURCE belong together"),
        (["--tools", "calculator"], "'calculator' is neither python nor search nor my.module:function"),
        (["--tools", "no.module:f"], "'no.module:f' cannot be imported"),
        (["--tools", "json:nothing"], "'json:nothing' is no function"),
        (["--tools", "json:dumps"], "'json:dumps': "),
        (["--search_options", "{}"], "search_options belong to a search"),
        (["--search", "serper", "--search_options", "3"], "search_options must be a mapping, got 3"),
        (["--tools", "search", "--search", "bing"], "search = 'bing' must read cache:FILE"),
        (["--tools", "search", "--search", "corpus:/none.jsonl"], "there is no file /none.jsonl"),
        (["--tools", "search", "--search", "retrieval:http://127.0.0.1:1"], "search failed: the connection failed"),
        (["--chat_template_kwargs", "{x"], "chat_template_kwargs is neither YAML nor JSON ("),
        (["--chat_template_kwargs", "[1]"], "chat_template_kwargs must be a mapping, got [1]"),
        (["--chat_template_kwargs", '{"tokenize": true}'], "must hold names of the template's own, not tokenize"),
        (["--chat_template_kwargs", '{"messages": 1}'], "must hold names of the template's own, not messages."),
        (["--chat_template_kwargs", '{"tools": [], "documents": []}'], "template's own, not tools, documents."),
        (["--chat_template_kwargs", '{"add_generation_prompt": true}'], "own, not add_generation_prompt."),
        (["--chat_template_kwargs", '{"range": 1, "loop": 1}'], "template's own, not range, loop."),
        (["--chat_template_kwargs", '{"raise_exception": 1}'], "template's own, not raise_exception."),
        (["--output_dir", "/proc/none"], "output_dir = '/proc/none' cannot be made or used"),
        (["--output_dir", "/proc"], "output_dir = '/proc' cannot be made or used"),
        (["stray"], "'stray' is one value too many"),
    ],
)
def test_mistakes_are_one_sentence_before_the_model_is_loaded(tmp_path, data, capsys, monkeypatch, flags, sentence):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(policy, "read_model", lambda *a, **k: pytest.fail("the model was loaded"))
    given = {"--model": "m", "--benchmark": "gsm8k", "--data": data, "--output_dir": str(tmp_path / "out")}
    arguments = [part for name, value in given.items() if name not in flags for part in (name, value)]
    assert main(["benchmark", *arguments, *flags]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("appo: ") and error.count("\n") == 1


def test_python_needs_isolation(tmp_path, data, answering, capsys, monkeypatch):
    def bubblewrap():
        raise RuntimeError("bubblewrap is missing: install it")

    monkeypatch.setattr(python_tool, "bubblewrap", bubblewrap)
    flags = ["--model", answering, "--benchmark", "gsm8k", "--data", data, "--limit", "1"]
    assert run(tmp_path, *flags) == 2
    assert capsys.readouterr().err == "appo: bubblewrap is missing: install it\n"
    assert run(tmp_path, *flags, "--allow_unisolated") == 0


def test_a_model_that_is_not_there(tmp_path, data, capsys):
    flags = ["--model", "/no/such/model", "--benchmark", "gsm8k", "--data", data, "--tools", "none"]
    assert run(tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert "model = '/no/such/model' cannot be used" in error and error.count("\n") == 1


def test_chat_template_needs_a_template(tmp_path, data, answering, capsys):
    flags = ["--model", answering, "--benchmark", "gsm8k", "--data", data, "--tools", "none"]
    assert run(tmp_path, *flags, "--protocol", "chat_template") == 2
    assert "has no chat template; use protocol = tags" in capsys.readouterr().err


def test_help_shows_the_options_and_loads_no_weights(capsys):
    assert main(["benchmark", "--help"]) == 0
    assert "--judge_url" in capsys.readouterr().out
    assert main(["benchmark"]) == 2
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert "appo eval  RECIPE" in printed and "appo benchmark --model M" in printed


def test_eval_of_benchmarks_names_their_command(capsys):
    assert main(["eval", "--model", "m", "--benchmark", "gsm8k"]) == 2
    sentence = "appo: benchmarks have a command of their own: appo benchmark --model m --benchmark gsm8k\n"
    assert capsys.readouterr().err == sentence
    assert main(["eval", "recipe.yaml", "--benchmark=gsm8k"]) == 2
    assert "appo benchmark" in capsys.readouterr().err


def test_options_of_a_mapping_are_given_one_by_one(data, answering):
    flags = ["--model", answering, "--benchmark", "gsm8k", "--search", "serper", "--search_options.limits.top_k", "3"]
    assert read_flags(flags).search_options == {"limits": {"top_k": 3}}
    with pytest.raises(UserError, match="the flags: search_options belong to a search; give --search SOURCE"):
        read_flags([*flags[:4], "--search_options.a", "1"])
