"""Two processes under torchrun: whole tasks per process, equal weights after the run, one records file."""

import subprocess
import sys
from pathlib import Path

from appo.records import read_records

SCRIPT = """
import sys
import torch
sys.path.insert(0, {here!r})
from test_trainer import make_trainer

trainer = make_trainer(sys.argv[1], per_device_train_batch_size=8, max_steps=2, token_weight="fork")
trainer.train()
weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
both = trainer.accelerator.gather(weights[None])
assert torch.equal(both[0], both[1]), "the processes have different weights"
if trainer.accelerator.is_main_process:
    print("PROCESSES", len(both))
"""


def test_two_processes_train_one_model(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(script), str(tmp_path / "run")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert "PROCESSES 2" in run.stdout, run.stdout + run.stderr
    tasks = {}
    for record in read_records(tmp_path / "run" / "records.jsonl"):
        tasks.setdefault((record["step"], record["task"]), []).append(record)
    assert len(tasks) == 2 * 2  # one task per process and step
    assert all(len(group) == 8 for group in tasks.values())
