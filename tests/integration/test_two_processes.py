"""Two processes under torchrun: whole tasks per process, equal weights after the run, one folder of records."""

import subprocess
import sys
from pathlib import Path

import pytest

from appo.rollout.records import read_records, record_files

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
    print("PROCESSES", len(both))
"""


@pytest.mark.parametrize("what", ["branches", "raft"])
def test_two_processes_train_one_model(tmp_path, what):
    """`raft`: no rollout of the second process succeeds, and still both hold as many rows."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parents[1])))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(script), str(tmp_path / "run"), what]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "PROCESSES 2" in run.stdout, run.stdout + run.stderr
    tasks = {}
    for record in read_records(tmp_path / "run"):
        tasks.setdefault((record["step"], record["task"]), []).append(record)
    assert len(tasks) == 2 * 2  # one task per process and step
    assert all(len(group) == 8 for group in tasks.values())
    files = [path.name for path in record_files(tmp_path / "run")]
    assert files == [f"00000{step}.{process}.parquet" for step in (1, 2) for process in (0, 1)]
