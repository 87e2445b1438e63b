"""`appo benchmark` with each engine: the same questions, the same greedy answers."""

import json

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs these")

from vllm_parts import make_model

from appo.cli.main import main
from appo.engines.weight_transfer import FileTransfer

FLAGS = ["--benchmark", "gsm8k", "--tools", "none", "--temperature", "0", "--max_completion_length", "24"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    rows = [{"question": f"What is {n} + {n}?", "answer": f"#### {2 * n}"} for n in range(1, 9)]
    (directory / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(directory)


def written(directory, model, data, *flags):
    assert (
        main(["benchmark", "--model", str(model), "--data", data, "--output_dir", str(directory), *FLAGS, *flags]) == 0
    )
    records = [json.loads(line) for line in (directory / "samples.jsonl").read_text().splitlines()]
    return {record["id"]: (record["completion_ids"], record["finish_reason"]) for record in records}


def test_every_engine_writes_the_same_greedy_answers(tmp_path, data, url, model_directory):
    model = model_directory / "model"
    FileTransfer(url).send(list(make_model()[0].named_parameters()))  # other tests brought others
    server = written(tmp_path / "server", model, data, "--engine", "vllm_server", "--server_url", url)
    assert len(server) == 8
    settings = json.loads((tmp_path / "server" / "results.json").read_text())["settings"]
    assert settings["served"] == str(model)
    embedded = written(tmp_path / "embedded", model, data)
    assert embedded == server
    assert written(tmp_path / "vllm", model, data, "--engine", "vllm") == embedded


def test_a_server_that_is_not_there_is_told_in_a_sentence(tmp_path, data, capsys):
    model, tokenizer = make_model()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    flags = ["--model", str(tmp_path / "model"), "--data", data, "--engine", "vllm_server"]
    url = "http://127.0.0.1:9"
    assert main(["benchmark", *flags, *FLAGS, "--server_url", url, "--output_dir", str(tmp_path / "out")]) == 2
    assert f"the vLLM server {url} does not answer (ConnectError)" in " ".join(capsys.readouterr().err.split())
