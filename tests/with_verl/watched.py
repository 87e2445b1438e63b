"""APPO that writes down what it was given and what it decided, for tests: one file per update in `$APPO_WATCHED`."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from appo.methods.appo import APPO, APPOOptions


@dataclass
class WatchedOptions(APPOOptions):
    """APPO's options and one more."""

    directory: str = field(default="", metadata={"help": "Where the files go."})


class WatchedAPPO(APPO):
    """APPO, watched."""

    Options = WatchedOptions

    def branch(self, trees, scores, writer):
        super().branch(trees, scores, writer)
        branches = [branch for tree in trees for branch in tree.branches]
        self.branch_logps_BT = writer.score(branches)[1].logps_BT  # by the trainer, as the branches were written

    def credit(self, trees, scores):
        credit = super().credit(trees, scores)
        directory = Path(self.options.directory)
        found = {"trees": trees, "scores": scores, "credit": credit, "branch_logps_BT": self.branch_logps_BT}
        torch.save(found, directory / f"update-{len(list(directory.glob('update-*')))}.pt")
        return credit
