"""`APPOTrainer` with vLLM in this process: weights are there when they are needed, the loss knows the difference."""

import math

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs these")

from vllm_parts import make_trainer

from appo.models.loading import settle_embeddings
from appo.rollout.writer import RolloutWriter

CLOSE = 1e-4  # nats, in float32


def branch_mismatches(trainer, monkeypatch):
    """Largest |trainer's - engine's| log-probability of the branches' own tokens, per update, as training goes on."""
    found = []
    original = RolloutWriter.branch

    def branch(self, trees, points, *args, **kwargs):
        original(self, trees, points, *args, **kwargs)
        branches = [branch for tree in trees for branch in tree.branches]
        batch, scores = self.score(branches)
        own_BT = batch.policy_mask_BT.bool()
        for row, rollout in enumerate(branches):
            own_BT[row, : rollout.branch_position] = False
        found.append((scores.logps_BT - batch.engine_logps_BT).abs()[own_BT].max().item())

    monkeypatch.setattr(RolloutWriter, "branch", branch)
    return found


def logged(trainer, name):
    """What was logged, in order; an update in which nothing could be measured logs None."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_every_branch_is_written_by_the_present_weights(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    found = branch_mismatches(trainer, monkeypatch)
    trainer.train()
    assert len(found) == 4
    assert max(found) < CLOSE
    told = [value for value in logged(trainer, "sampling/branch_logp_difference") if value is not None]
    assert told and max(told) < CLOSE


def test_weights_that_are_not_brought_show_in_the_mismatch(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    found = branch_mismatches(trainer, monkeypatch)
    monkeypatch.setattr(type(trainer), "weights_version", lambda self: 0)
    trainer.train()
    assert found[0] < CLOSE
    assert min(found[1:]) > 0.1
    told = [value for value in logged(trainer, "sampling/branch_logp_difference")[1:] if value is not None]
    assert told and min(told) > 0.1


def test_branches_of_an_adapter_are_written_by_the_merged_weights(tmp_path, monkeypatch):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = make_trainer(tmp_path, peft_config=config)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if "lora_" not in name}
    found = branch_mismatches(trainer, monkeypatch)
    trainer.train()
    assert max(found) < CLOSE
    for name, parameter in trainer.model.named_parameters():  # merged and taken apart again on the way
        if name in before:
            torch.testing.assert_close(parameter, before[name], rtol=0.0, atol=1e-5)


def adapted_trainer(directory, **options):
    """As a recipe's run makes it: `settle_embeddings` behind peft."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=16, task_type="CAUSAL_LM", **options)
    trainer = make_trainer(directory, peft_config=config)
    settle_embeddings(trainer.model)
    return trainer


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    ],
    ids=["adapter", "trained"],
)
def test_embeddings_that_an_adapter_changes_reach_vllm(tmp_path, monkeypatch, options):
    trainer = adapted_trainer(tmp_path, **options)
    found = branch_mismatches(trainer, monkeypatch)
    trainer.train()
    assert max(found) < CLOSE


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_one_half_of_shared_weights_is_refused(tmp_path, name):
    trainer = adapted_trainer(tmp_path, target_modules=["q_proj"], modules_to_save=[name])
    with pytest.raises(ValueError, match="name both in modules_to_save with ensure_weight_tying"):
        trainer.train()


def test_an_engine_that_is_far_from_the_trainer_is_told_of_once(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, max_steps=2)
    monkeypatch.setattr(RolloutWriter, "collate", shifted(0.5))
    with pytest.warns(UserWarning, match="differ by 0.50 nats") as told:
        trainer.train()
    assert len([one for one in told if "nats" in str(one.message)]) == 1


def test_prompts_that_leave_no_room_are_told_of(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, vllm_max_model_length=4)
    with pytest.warns(UserWarning, match="prompts have up to 6 tokens and leave no room for an answer in 4"):
        trainer.train()


def test_omega_is_exactly_1_before_the_first_update_of_a_generation(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "omega/mean" in entry]
    assert [(entry["omega/mean"], entry["omega/std"]) for entry in logs[::2]] == [(1.0, 0.0)] * 2
    assert all(entry["omega/std"] > 0 for entry in logs[1::2])


def test_an_evaluation_asks_the_weights_of_the_moment(tmp_path):
    trainer = make_trainer(tmp_path)
    row = trainer.train_dataset[0]

    def first_logprob():
        trainer.model.eval()
        (tree,) = trainer.writer.write([row], 1, stream=7)
        trainer.writer.release([tree])
        (rollout,) = tree.rollouts
        batch, scores = trainer.writer.score([rollout])
        return (scores.logps_BT - batch.engine_logps_BT)[batch.policy_mask_BT.bool()].abs().max().item()

    assert first_logprob() < CLOSE
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * parameter.std())
    assert first_logprob() < CLOSE


def captured(trainer, monkeypatch):
    """The loss's inputs of every micro-batch."""
    seen = []
    original = type(trainer)._compute_loss

    def compute_loss(self, model, inputs):
        seen.append(dict(inputs))
        return original(self, model, inputs)

    monkeypatch.setattr(type(trainer), "_compute_loss", compute_loss)
    return seen


def shifted(amount):
    """Makes the engine's log-probabilities wrong by so much, as rounding would."""
    original = RolloutWriter.collate

    def collate(self, rollouts):
        batch = original(self, rollouts)
        batch.engine_logps_BT = batch.engine_logps_BT - amount
        return batch

    return collate


@pytest.mark.parametrize(("amount", "expected"), [(0.1, math.exp(0.1)), (1.0, 2.0)], ids=["within", "bounded"])
def test_the_loss_gets_the_ratio_of_trainer_to_engine_at_tokens_of_the_policy(tmp_path, monkeypatch, amount, expected):
    trainer = make_trainer(tmp_path, max_steps=1)
    monkeypatch.setattr(RolloutWriter, "collate", shifted(amount))
    seen = captured(trainer, monkeypatch)
    trainer.train()
    for inputs in seen:
        ratio_BT, mask_BT = inputs["importance_sampling_ratio"], inputs["tool_mask"].bool()
        torch.testing.assert_close(
            ratio_BT[mask_BT], torch.full_like(ratio_BT[mask_BT], expected), rtol=1e-3, atol=0.0
        )
        assert (ratio_BT[~mask_BT] == 1).all()
        assert inputs["sampling_per_token_logps"].isfinite().all()
    logged = trainer.state.log_history[0]
    assert logged["sampling/sampling_logp_difference/mean"] == pytest.approx(amount, rel=1e-3)
    assert logged["sampling/importance_sampling_ratio/clipped"] == (1.0 if amount == 1.0 else 0.0)


def test_the_gradient_is_multiplied_with_the_ratio(tmp_path, monkeypatch):
    norms = []
    for amount in (0.0, 0.1):
        trainer = make_trainer(tmp_path / str(amount), max_steps=1)
        monkeypatch.setattr(RolloutWriter, "collate", shifted(amount))
        trainer.train()
        monkeypatch.undo()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms[1] / norms[0] == pytest.approx(math.exp(0.1), rel=1e-3)


def test_ratios_go_with_their_rollouts_where_idle_ones_are_left_out(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, method="raft", method_args=None, max_steps=1)
    seen = captured(trainer, monkeypatch)
    trainer.train()
    rows = sum(len(inputs["advantages"]) for inputs in seen)
    assert rows < 16  # some are left out
    assert sum(len(inputs["importance_sampling_ratio"]) for inputs in seen) == rows


def test_without_correction_the_loss_gets_no_ratio(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, max_steps=1, vllm_importance_sampling_correction=False)
    seen = captured(trainer, monkeypatch)
    trainer.train()
    assert not any("importance_sampling_ratio" in inputs for inputs in seen)


def test_evaluation_works_between_updates(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.eval_dataset = trainer.train_dataset.select(range(2))
    trainer.train()
    assert math.isfinite(trainer.evaluate()["eval_loss"])


def test_a_failed_rollout_leaves_the_engine_usable(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.args.max_tool_calls = None

    def broken(completion_ids, **kwargs):
        raise RuntimeError("mine")

    right, trainer.writer.protocol.parse_calls = trainer.writer.protocol.parse_calls, broken
    with pytest.raises(TypeError):
        trainer.train()
    trainer.writer.protocol.parse_calls = right
    trainer.train()
    assert trainer.state.global_step == 1
