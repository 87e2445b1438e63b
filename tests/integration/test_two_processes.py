"""Two processes under torchrun: whole tasks per process, equal weights after the run, one folder of records; FSDP2."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from appo.rollout.record_files import record_files
from appo.rollout.records import read_records

SCRIPT = """
import sys
import torch
sys.path.insert(0, {here!r})
from training_parts import make_trainer, parity_reward

def only_here(completion_ids, **kwargs):
    return [r * (trainer.accelerator.process_index == 0) for r in parity_reward(completion_ids)]


own = {{"method": "raft", "reward": only_here}} if sys.argv[2] == "raft" else {{}}
fork = {{"token_weight": "fork"}}
trainer = make_trainer(sys.argv[1], per_device_train_batch_size=8, max_steps=2, method_args=fork, **own)
trainer.train()
weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
both = trainer.accelerator.gather(weights[None])
assert torch.equal(both[0], both[1]), "the processes have different weights"
if trainer.accelerator.is_main_process:
    print("PROCESSES " + str(len(both)))  # in one piece: the other process prints, too
"""

CASES = ["branches", "nothing_to_branch", "more_to_train_on", "ends_early", "reference", "interrupted"]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.mark.parametrize("what", ["branches", "raft"])
def test_two_processes_train_one_model(tmp_path, what):
    """`raft`: no rollout of the second process succeeds, and still both hold as many rows."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parents[1])))
    command = [*LAUNCHER, str(script), str(tmp_path / "run"), what]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "PROCESSES 2" in run.stdout, run.stdout + run.stderr
    tasks = {}
    for record in read_records(tmp_path / "run"):
        tasks.setdefault((record["step"], record["task"]), []).append(record)
    assert len(tasks) == 2 * 2  # one task per process and step
    assert all(len(group) == 8 for group in tasks.values())
    files = [path.name for path in record_files(tmp_path / "run")]
    assert files == [f"00000{step}.{process}.parquet" for step in (1, 2) for process in (0, 1)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The last weights of each case of `two_ranks.py`, by DDP and by FSDP2."""
    found = {}
    for sharding in ("ddp", "fsdp2"):
        directory = tmp_path_factory.mktemp(sharding)
        command = [*LAUNCHER, str(Path(__file__).parent / "two_ranks.py"), str(directory), sharding]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert run.returncode == 0, run.stdout + run.stderr
        found[sharding] = {path.stem: torch.load(path) for path in directory.glob("*.pt")}
    return found


@pytest.mark.parametrize("case", CASES)
def test_fsdp2_trains_the_weights_of_ddp(weights, case):
    """Though processes write and score rollouts of different lengths and numbers, and one may have nothing to do."""
    assert (weights["fsdp2"][case] - weights["ddp"][case]).abs().max() < 1e-5
    assert (weights["ddp"][case] - weights["ddp"]["start"]).abs().max() > 1e-2


def test_a_run_of_fsdp2_goes_on_from_its_checkpoint_to_the_same_weights(weights):
    assert torch.equal(weights["fsdp2"]["resumed"], weights["fsdp2"]["interrupted"])
