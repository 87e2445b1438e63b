"""An agent that is a program of its own, trained with vLLM writing behind its endpoint."""

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs these")

import torch
from vllm_parts import make_agents_trainer

from appo.rollout.tree import BranchPoint

CLOSE = 1e-4  # nats, in float32


def test_an_agents_rollouts_and_branches_are_written_by_the_present_weights(tmp_path):
    trainer = make_agents_trainer(tmp_path)
    for update in range(2):
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.mul_(1.01)  # other weights, which the engine has to get
        rows = [trainer.train_dataset[i] for i in range(4)]
        trees = trainer.writer.write(rows, 2, stream=update)
        points = [
            BranchPoint(tree, index, len(rollout.completion_ids) - 1)  # in the last turn, in a sequence kept open
            for tree in trees
            for index, rollout in enumerate(tree.initial)
            if 0 in rollout.policy_mask
        ]
        assert len(points) > 4
        trainer.writer.branch(trees, points, 10 + update)
        rollouts = [rollout for tree in trees for rollout in tree.rollouts]
        assert len(rollouts) == 8 + len(points)
        batch, scores = trainer.writer.score(rollouts)
        own_BT = batch.policy_mask_BT.bool()
        assert (scores.logps_BT - batch.engine_logps_BT).abs()[own_BT].max() < CLOSE


def test_two_updates_of_an_agent(tmp_path):
    trainer = make_agents_trainer(tmp_path, max_steps=2)
    before = trainer.model.model.embed_tokens.weight.detach().clone()
    trainer.train()
    assert trainer.state.global_step == 2
    assert not torch.equal(before, trainer.model.model.embed_tokens.weight)
