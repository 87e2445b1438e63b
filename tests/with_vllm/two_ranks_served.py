"""Trains on two processes with vLLM: `torchrun .. two_ranks_served.py DIRECTORY ddp|fsdp2 URL|colocate`.

Each case's last weights go to DIRECTORY/CASE.pt, and the largest |trainer's - vLLM's| log-probability of branches' own
tokens, over both processes, to DIRECTORY/CASE.json; `test_vllm_two_processes.py` looks at them.
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from two_ranks import FSDP2, keep, shard_on_cpus
from vllm_parts import make_trainer

from appo.methods.appo import APPO
from appo.rollout.writer import RolloutWriter


class Lopsided(APPO):
    """Branches on the first process alone."""

    def choose(self, tree, *args, **kwargs):
        return super().choose(tree, *args, **kwargs) if tree.id.split(".")[1] == "0" else []


CASES = {"branches": {}, "nothing_to_branch": {"method": "two_ranks_served:Lopsided"}, "ends_early": {}}


def watch_branches():
    """Fills the list with the mismatch of every round of branches that there are."""
    found = []
    original = RolloutWriter.branch

    def branch(self, trees, points, *args, **kwargs):
        original(self, trees, points, *args, **kwargs)
        branches = [branch for tree in trees for branch in tree.branches]
        if branches:
            batch, scores = self.score(branches)
            own_BT = batch.policy_mask_BT.bool()
            for row, rollout in enumerate(branches):
                own_BT[row, : rollout.branch_position] = False
            found.append((scores.logps_BT - batch.engine_logps_BT).abs()[own_BT].max().item())

    RolloutWriter.branch = branch
    return found


def main(directory, sharding, where):
    directory = Path(directory)
    if sharding == "fsdp2":
        shard_on_cpus()
    mode = {"vllm_mode": "colocate"} if where == "colocate" else {"vllm_mode": "server", "vllm_server_base_url": where}
    found = watch_branches()
    for case in CASES:
        found.clear()
        options = {**CASES[case], **mode, **(FSDP2 if sharding == "fsdp2" else {})}
        trainer = make_trainer(directory / case, per_device_train_batch_size=8, **options)
        if case == "ends_early" and trainer.accelerator.process_index == 1:
            trainer.max_completion_length = 2
        trainer.train()
        keep(trainer, directory / f"{case}.pt")
        worst = torch.tensor([max(found, default=0.0), float(len(found))])
        both = trainer.accelerator.gather(worst[None])
        if trainer.accelerator.is_main_process:
            text = json.dumps({"mismatch": both[:, 0].max().item(), "rounds": both[:, 1].tolist()})
            (directory / f"{case}.json").write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
