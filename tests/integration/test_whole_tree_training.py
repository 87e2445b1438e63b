"""Training on branches of the present policy: loss, ratios and Omega of rollouts that two policies wrote."""

import pytest
import torch
from training_parts import completions, make_searching_trainer, mask_of, rollouts_of, trained, watch

from appo.rollout.records import read_records

BY_SCORE = {"branching": "branching_score", "future_weight": 0.5}


@pytest.mark.parametrize("options", [BY_SCORE, {**BY_SCORE, "num_initial_rollouts": 2, "num_branch_rounds": 2}])
def test_branches_carry_loss_on_their_own_tokens_once(tmp_path, monkeypatch, options):
    for inputs, trees, now in trained(tmp_path, monkeypatch, method="whole_tree", method_args=options):
        assert completions(inputs) == [rollout.completion_ids for rollout in rollouts_of(trees)]
        changed = 0
        for row, rollout in enumerate(rollouts_of(trees)):
            at = rollout.branch_position or 0
            assert mask_of(inputs, row, rollout) == [0] * at + rollout.policy_mask[at:]
            if rollout.parent is not None:
                own = inputs["tool_mask"][row].bool()
                old = inputs["old_per_token_logps"][row]
                # Ratios at a branch's own tokens are 1: the policy that wrote them is the one that is trained.
                torch.testing.assert_close(old[own], now[row][own], atol=1e-5, rtol=0)
                sampled = torch.tensor(rollout.logprobs)[own[: len(rollout.logprobs)]]
                torch.testing.assert_close(old[own], sampled, atol=1e-4, rtol=0)
            else:
                policy = torch.tensor(rollout.policy_mask).bool()
                sampled = torch.tensor(rollout.logprobs)[policy]
                old = inputs["old_per_token_logps"][row, : len(policy)][policy]
                torch.testing.assert_close(old, sampled, atol=1e-4, rtol=0)
                changed += ((old - now[row, : len(policy)][policy]).abs() > 1e-3).any()
    assert changed > 0  # in the second update, initial rollouts are another policy's


def test_omega_of_a_branch_is_its_parents_up_to_the_branching_and_1_after(tmp_path):
    make_searching_trainer(tmp_path, method="whole_tree", method_args={**BY_SCORE, "discount_over": "policy"}).train()
    groups, moved = {}, 0
    for record in read_records(tmp_path):
        groups.setdefault((record["step"], record["task"]), []).append(record)
    for (step, _), group in groups.items():
        assert len(group) == 8
        for record in group[4:]:
            parent, at = group[record["parent"]], record["branch_position"]
            own, others = record["behaviour_logprobs"][:at], parent["behaviour_logprobs"][:at]
            assert own == pytest.approx(others, abs=1e-3)
            after = [o for o, m in zip(record["omega"][at:], record["policy_mask"][at:], strict=True) if m]
            assert set(after) <= {1.0}
            before = [o for o, m in zip(record["omega"][:at], record["policy_mask"][:at], strict=True) if m]
            moved += step == 2 and any(abs(o - 1) > 1e-3 for o in before)
    assert moved > 0


def test_one_step_of_whole_trees_equals_the_objective_by_hand(tmp_path, monkeypatch):
    """The first update: all ratios are 1, so the gradient is that of the mean of A log pi over own tokens."""
    trainer = make_searching_trainer(
        tmp_path, method="whole_tree", method_args=BY_SCORE, max_steps=1, steps_per_generation=1, max_grad_norm=0.0
    )
    reference = make_searching_trainer(tmp_path / "reference").model
    seen, gradients = watch(trainer, monkeypatch), {}
    original = trainer.training_step

    def training_step(model, *args, **kwargs):
        loss = original(model, *args, **kwargs)
        gradients.update({name: p.grad.clone() for name, p in model.named_parameters()})
        return loss

    monkeypatch.setattr(trainer, "training_step", training_step)
    trainer.train()
    inputs, trees, _ = seen[0]
    loss = torch.zeros(())
    for row, rollout in enumerate(rollouts_of(trees)):
        ids, size = torch.tensor([rollout.prompt_ids + rollout.completion_ids]), len(rollout.completion_ids)
        logps = torch.log_softmax(reference(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[-size:, 0]
        at = rollout.branch_position or 0
        own = torch.tensor([0] * at + rollout.policy_mask[at:])
        loss = loss - (inputs["advantages"][row, :size] * logps * own).sum() / own.sum().clamp(min=1) / 16
    loss.backward()
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_accumulation_of_whole_trees_gives_the_same_step_as_one_large_batch(tmp_path):
    weights = []
    for name, micro, accumulation in (("one", 16, 1), ("two", 8, 2)):
        trainer = make_searching_trainer(
            tmp_path / name,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            steps_per_generation=2 * accumulation,
            lr_scheduler_type="constant",
            optim="sgd",
            method="whole_tree",
            method_args=BY_SCORE,
        )
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=1e-3)


def test_a_second_pass_over_whole_trees_trains_on_new_branches(tmp_path, monkeypatch):
    first, second = trained(
        tmp_path, monkeypatch, num_iterations=2, steps_per_generation=1, method="whole_tree", method_args=BY_SCORE
    )
    initial = [row for row in range(16) if row % 8 < 4]
    assert [completions(first[0])[row] for row in initial] == [completions(second[0])[row] for row in initial]
    assert completions(first[0]) != completions(second[0])
    assert len(second[0]["completion_ids"]) == 16
