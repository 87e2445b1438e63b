"""Weights to a server by files: where they lie, and what comes of a server that is not there."""

import pytest
import torch

from appo.engines import weight_transfer
from appo.engines.weight_transfer import FileTransfer

WEIGHTS = [("a", torch.zeros(2)), ("b", torch.ones(3))]


def test_two_runs_with_one_directory_do_not_meet(tmp_path):
    first, second = FileTransfer("http://x", tmp_path), FileTransfer("http://x", tmp_path)
    assert first.directory != second.directory
    assert first.directory.parent == second.directory.parent == tmp_path


def test_a_server_that_is_gone_is_a_runtime_error_and_leaves_no_files(tmp_path):
    transfer = FileTransfer("http://127.0.0.1:9", tmp_path)
    with pytest.raises(RuntimeError, match=r"http://127\.0\.0\.1:9 cannot be reached for new weights"):
        transfer.send(WEIGHTS)
    assert list(transfer.directory.iterdir()) == []


def test_the_server_is_told_of_whole_files_alone(tmp_path, monkeypatch):
    seen = []

    def post(url, path, body):
        if path == "collective_rpc":
            directory = tmp_path / body["args"][0]
            seen.extend(sorted(file.name for file in directory.iterdir()))
        return {"success": True}

    monkeypatch.setattr(weight_transfer, "_post", post)
    monkeypatch.setattr(weight_transfer, "SHARD_BYTES", 8)
    FileTransfer("http://x", tmp_path).send(WEIGHTS)
    assert seen == ["model-00001.safetensors", "model-00002.safetensors"]


def test_a_process_that_does_not_send_goes_through_the_weights(tmp_path):
    gone_through = []
    FileTransfer("http://x", tmp_path, sends=False).send(gone_through.append(name) or (name, x) for name, x in WEIGHTS)
    assert gone_through == ["a", "b"]


def test_a_cache_that_could_not_be_emptied_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_transfer, "_post", lambda url, path, body: {"success": path != "reset_prefix_cache"})
    with pytest.raises(RuntimeError, match="could not empty its prefix cache"):
        FileTransfer("http://x", tmp_path).send(WEIGHTS)
