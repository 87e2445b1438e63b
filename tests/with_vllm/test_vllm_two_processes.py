"""Two processes on CPUs (gloo) with vLLM: as a server, whose weights are everybody's, and in each process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs these")

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SCRIPT = str(Path(__file__).parent / "two_ranks_served.py")
CLOSE = 1e-4  # nats, in float32


def run(directory, *arguments):
    command = [*LAUNCHER, SCRIPT, str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    weights = {path.stem: torch.load(path) for path in directory.glob("*.pt")}
    return weights, {path.stem: json.loads(path.read_text()) for path in directory.glob("*.json")}


@pytest.fixture(scope="module")
def found(tmp_path_factory, url):
    return {sharding: run(tmp_path_factory.mktemp(sharding), sharding, url) for sharding in ("ddp", "fsdp2")}


@pytest.mark.parametrize("case", ["branches", "nothing_to_branch", "ends_early"])
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_branches_of_all_processes_are_written_by_the_servers_present_weights(found, sharding, case):
    told = found[sharding][1][case]
    assert 0 < told["mismatch"] < CLOSE
    assert told["rounds"] == ([4.0, 0.0] if case == "nothing_to_branch" else [4.0, 4.0])


@pytest.mark.parametrize("case", ["branches", "nothing_to_branch", "ends_early"])
def test_fsdp2_trains_the_weights_of_ddp_with_a_server(found, case):
    difference = (found["fsdp2"][0][case] - found["ddp"][0][case]).abs().max()
    assert difference < 1e-4


def test_each_process_may_have_a_vllm_of_its_own(tmp_path):
    _, told = run(tmp_path, "ddp", "colocate")
    assert told["branches"]["rounds"] == [4.0, 4.0]
    assert all(0 < case["mismatch"] < CLOSE for case in told.values())
