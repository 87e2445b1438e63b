"""Trains on two processes, a case after another: `torchrun .. two_ranks.py DIRECTORY ddp|fsdp2`.

The last weights of each case go to DIRECTORY/CASE.pt; `test_two_processes.py` compares them.
"""

import gc
import sys
from pathlib import Path

import accelerate.state
import torch
from accelerate.utils import DistributedType

sys.path.insert(0, str(Path(__file__).parents[1]))

from training_parts import HALVES, make_trainer

from appo.environments import kinship
from appo.methods.appo import APPO
from appo.methods.whole_tree import WholeTree

FSDP2 = {
    "fsdp": True,
    "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]},
}


class Lopsided(APPO):
    """Branches on the first process alone."""

    def choose(self, tree, *args, **kwargs):
        return super().choose(tree, *args, **kwargs) if tree.id.split(".")[1] == "0" else []


class LopsidedTree(WholeTree):
    """Trains branches, too, which the first process alone has."""

    def choose(self, tree, *args, **kwargs):
        return super().choose(tree, *args, **kwargs) if tree.id.split(".")[1] == "0" else []


CASES = {
    "branches": {"method_args": {"token_weight": "fork"}},
    "nothing_to_branch": {"method": "two_ranks:Lopsided", "method_args": HALVES},
    "more_to_train_on": {"method": "two_ranks:LopsidedTree", "method_args": HALVES},
    "ends_early": {},
    "reference": {"beta": 0.1},
    "interrupted": {"save_strategy": "steps", "save_steps": 1},
}


def shard_on_cpus():
    """accelerate shards where there are GPUs and leaves FSDP out elsewhere, without a word: here it shards too."""
    original = accelerate.state.AcceleratorState.__init__

    def init(self, *args, fsdp_plugin=None, **kwargs):
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            accelerate.state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    accelerate.state.AcceleratorState.__init__ = init


def trainer_of(directory, case, sharding, **options):
    options = {**CASES[case], **options, **(FSDP2 if sharding == "fsdp2" else {})}
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    if case == "reference":  # TRL loads it from where the model came from
        model.save_pretrained(directory / "start")  # by the first process
        torch.distributed.barrier()
        model = type(model).from_pretrained(directory / "start")
    trainer = make_trainer(directory / case, (model, tokenizer), per_device_train_batch_size=8, max_steps=3, **options)
    if case == "ends_early" and trainer.accelerator.process_index == 1:
        trainer.max_completion_length = 2
    return trainer


def keep(trainer, path):
    """Saves the weights of all processes together."""
    parts = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in trainer.model.parameters()]
    if trainer.accelerator.is_main_process:
        torch.save(torch.cat([part.detach().flatten() for part in parts]), path)


def check_that_parameters_are_whole(trainer):
    """What other engines are given: the same within a writing phase, where weights are whole, and outside."""
    outside = {name: weight.clone() for name, weight in trainer.whole_parameters()}
    with trainer.whole_weights():
        inside = dict(trainer.whole_parameters())
        assert outside.keys() - {"lm_head.weight"} == inside.keys()  # tied to the embeddings
        assert all(torch.equal(inside[name], outside[name]) for name in inside)


def main(directory, sharding):
    directory = Path(directory)
    gc.freeze()  # each training collects garbage, and would walk through all modules
    shard_on_cpus()
    for case in CASES:
        trainer = trainer_of(directory, case, sharding)
        keep(trainer, directory / "start.pt")
        trainer.train()
        assert trainer.accelerator.is_fsdp2 == (sharding == "fsdp2")
        keep(trainer, directory / f"{case}.pt")
        if case == "branches":
            check_that_parameters_are_whole(trainer)
        if case == "interrupted":
            trainer = trainer_of(directory, case, sharding)
            trainer.train(resume_from_checkpoint=f"{directory}/{case}/checkpoint-1")
            keep(trainer, directory / "resumed.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
