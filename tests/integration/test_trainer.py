"""APPOTrainer on the testbed's tiny model: Algorithm 1, step by step, and what TRL's users count on."""

import statistics

import pytest
import torch
from recorded import recorded
from training_parts import captured, make_trainer, parity_reward
from trl import GRPOTrainer

from appo import APPOTrainer
from appo.environments import kinship
from appo.rollout.records import read_records


def test_the_loss_is_trls_own():
    assert APPOTrainer._compute_loss is GRPOTrainer._compute_loss


def test_omega_is_exactly_1_before_the_first_update_and_not_after(tmp_path):
    make_trainer(tmp_path).train()
    omega = {1: [], 2: []}
    for record in read_records(tmp_path):
        if record["parent"] is None:
            omega[record["step"]] += [o for o, m in zip(record["omega"], record["policy_mask"], strict=True) if m]
    assert set(omega[1]) == {1.0}
    assert sum(abs(o - 1) > 1e-3 for o in omega[2]) > len(omega[2]) / 2


def test_branches_come_from_the_updated_weights(tmp_path, monkeypatch):
    """Each branch's sampled log-probabilities are those of the policy at its own step, not of the one before."""
    trainer = make_trainer(tmp_path)
    branches = []
    original = trainer.writer.branch

    def write_branches(trees, points, *args, **kwargs):
        original(trees, points, *args, **kwargs)
        with torch.no_grad():
            for branch in points[0].tree.branches:
                ids = torch.tensor([branch.prompt_ids + branch.completion_ids])
                logps = torch.log_softmax(trainer.model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
                logps = logps[len(branch.prompt_ids) - 1 :]
                own = [i for i, m in enumerate(branch.policy_mask) if m and i >= branch.branch_position]
                sampled = torch.tensor([branch.logprobs[i] for i in own])
                branches.append((trainer.state.global_step, (sampled - logps[own]).abs().max().item()))

    monkeypatch.setattr(trainer.writer, "branch", write_branches)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    assert any((p != b).any() for p, b in zip(trainer.model.parameters(), before, strict=True))
    assert {step for step, _ in branches} == {0, 1}
    assert max(difference for _, difference in branches) < 1e-4


def test_branch_points_of_a_moved_policy_have_the_largest_score_of_eq_5(tmp_path):
    """Eq. 5 again from the records: the z-scores of the clipped Omega and of the entropy, multiplied."""
    options = {"max_steps": 8, "steps_per_generation": 4, "learning_rate": 2e-2}
    make_trainer(tmp_path, max_completion_length=60, **options).train()
    records = list(read_records(tmp_path))
    telling = 0
    for first in range(0, len(records), 8):
        task = records[first : first + 8]
        for initial in task[:4]:
            own = [i for i, m in enumerate(initial["policy_mask"]) if m]
            omega = [min(max(initial["omega"][i], 1.0), 1.2) for i in own]
            entropy = [initial["entropies"][i] for i in own]
            z_omega, z_entropy = (
                [(x - statistics.fmean(values)) / (statistics.pstdev(values) or 1.0) for x in values]
                for values in (omega, entropy)
            )
            both = {i: a * b for i, a, b in zip(own, z_omega, z_entropy, strict=True) if a > 0 and b > 0}
            branched_at = [r["branch_position"] for r in task[4:] if r["parent"] == initial["rollout"]]
            if both:
                assert branched_at[0] == max(both, key=both.get)
                # Where the opposite order, or the bare product without z-scores, would have chosen another token.
                bare = {i: initial["omega"][i] * initial["entropies"][i] for i in both}
                telling += max(both, key=both.get) not in (min(both, key=both.get), max(bare, key=bare.get))
    assert telling >= 3


def test_gradients_flow_through_initial_rollouts_only(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    seen = captured(trainer, monkeypatch)
    trainer.train()
    initial = {1: [], 2: []}
    for record in read_records(tmp_path):
        if record["parent"] is None:
            initial[record["step"]].append(record["completion_ids"])
    for step, (inputs, _) in enumerate(seen, 1):
        rows = [
            ids[m.bool()].tolist() for ids, m in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)
        ]
        assert rows == initial[step]
        assert inputs["advantages"].shape == inputs["completion_ids"].shape


def test_tool_results_carry_no_loss(tmp_path, monkeypatch, tiny):
    def reward(completions, **kwargs):
        return parity_reward([[len(c)] for c in completions])

    trainer = make_trainer(tmp_path, max_completion_length=40, max_steps=1, steps_per_generation=1, reward=reward)
    # A random model closes calls rarely; with this bias it does all the time.
    closing = trainer.processing_class.convert_tokens_to_ids("</search>")
    with torch.no_grad():
        trainer.model.model.embed_tokens.weight[closing] *= 3
    seen = captured(trainer, monkeypatch)
    trainer.train()
    inputs = seen[0][0]
    records = [record for record in read_records(tmp_path) if record["parent"] is None]
    lengths = []
    for row, record in enumerate(records):
        mask = inputs["tool_mask"][row].tolist()
        assert mask == record["policy_mask"] + [0] * (len(mask) - len(record["completion_ids"]))
        for call in record["tool_calls"]:
            assert not any(mask[call["result_start"] : call["result_end"]])
            lengths.append(call["result_end"] - call["result_start"])
    assert row + 1 == len(inputs["tool_mask"])
    assert sum(length > 2 for length in lengths) > 1  # results of several tokens, not their first one alone


def test_one_step_equals_the_objective_by_hand(tmp_path, monkeypatch):
    """Eq. 8 in its first step: the ratio is 1, so the gradient is that of mean(A * logp)."""
    trainer = make_trainer(tmp_path, max_steps=1, steps_per_generation=1, max_grad_norm=0.0)
    seen = captured(trainer, monkeypatch)
    gradients = {}
    original = trainer.training_step

    def training_step(model, *args, **kwargs):
        loss = original(model, *args, **kwargs)
        gradients.update({n: p.grad.clone() for n, p in model.named_parameters()})
        return loss

    monkeypatch.setattr(trainer, "training_step", training_step)
    torch.manual_seed(0)
    reference, _ = kinship.make_model()
    trainer.train()
    inputs = seen[0][0]
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    logits = reference(input_ids=ids, attention_mask=mask, position_ids=position_ids).logits
    length = inputs["completion_ids"].shape[1]
    logps = torch.log_softmax(logits[:, -length - 1 : -1], -1).gather(2, inputs["completion_ids"][..., None])[..., 0]
    tokens = inputs["tool_mask"] * inputs["completion_mask"]
    loss = -((inputs["advantages"] * logps * tokens).sum(1) / tokens.sum(1)).mean()
    loss.backward()
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_accumulation_gives_the_same_step_as_one_large_batch(tmp_path):
    weights = []
    for name, micro, accumulation in (("one", 16, 1), ("four", 4, 4)):
        trainer = make_trainer(
            tmp_path / name,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            steps_per_generation=2 * accumulation,
            lr_scheduler_type="constant",
            optim="sgd",
        )
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=1e-3)


def test_a_second_pass_draws_new_branches_of_the_same_rollouts(tmp_path):
    make_trainer(tmp_path, num_iterations=2, steps_per_generation=1).train()
    records = list(read_records(tmp_path))
    first, second = ([r for r in records if r["step"] == step] for step in (1, 2))
    assert [r["completion_ids"] for r in first if r["parent"] is None] == [
        r["completion_ids"] for r in second if r["parent"] is None
    ]
    assert [r["completion_ids"] for r in first if r["parent"] is not None] != [
        r["completion_ids"] for r in second if r["parent"] is not None
    ]


@pytest.mark.parametrize("resample", ["token", "after_token"])
def test_two_rounds_branch_branches(tmp_path, resample):
    trainer = make_trainer(
        tmp_path,
        method_args={"num_initial_rollouts": 2, "num_branch_rounds": 2, "resample": resample},
    )
    trainer.train()
    tasks = {}
    for record in read_records(tmp_path):
        tasks.setdefault((record["step"], record["task"]), []).append(record)
    for group in tasks.values():
        assert len(group) == 8
        points = [(r["parent"], r["branch_position"]) for r in group[2:]]
        assert len(set(points)) == len(points)
        for record in group[2:]:
            parent, at = group[record["parent"]], record["branch_position"]
            assert record["completion_ids"][:at] == parent["completion_ids"][:at]
            assert at >= (parent["branch_position"] or 0)
    assert any(r["parent"] is not None and r["parent"] >= 2 for group in tasks.values() for r in group)


@pytest.mark.parametrize("method", ["grpo", "appo"])
def test_without_branches_it_is_grpo(tmp_path, monkeypatch, method):
    plain = {"num_initial_rollouts": 8, "num_branch_points": 0, "advantage": "group", "future_weight": 0.0}
    trainer = make_trainer(tmp_path, method=method, method_args=plain if method == "appo" else None, max_steps=1)
    seen = captured(trainer, monkeypatch)
    trainer.train()
    records = list(read_records(tmp_path))
    for index in range(0, 16, 8):
        rewards = torch.tensor([r["reward"] for r in records[index : index + 8]])
        expected = (rewards - rewards.mean()) / rewards.std(correction=0) if rewards.std() > 0 else 0 * rewards
        torch.testing.assert_close(seen[0][0]["advantages"][index : index + 8, 0], expected, atol=1e-4, rtol=1e-4)


def test_equal_rewards_give_no_gradient(tmp_path):
    trainer = make_trainer(tmp_path, reward=lambda completions, **k: [1.0] * len(completions))
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.train()
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), before)
    assert trainer.state.log_history[0]["groups_without_signal"] == 1.0


def test_a_rollout_that_no_reward_function_scores_is_left_out(tmp_path, monkeypatch):
    def reward(completions, completion_ids, **kwargs):
        return [None if index % 4 == 0 else value for index, value in enumerate(parity_reward(completion_ids))]

    trainer = make_trainer(tmp_path, reward=reward, max_steps=1)
    seen = captured(trainer, monkeypatch)
    trainer.train()
    advantages = seen[0][0]["advantages"]
    assert (advantages[0::4] == 0).all()
    assert advantages.isfinite().all()
    assert advantages.abs().sum() > 0


def test_truncated_rollouts_can_be_masked(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, mask_truncated_completions=True, max_completion_length=6, max_steps=1)
    seen = captured(trainer, monkeypatch)
    trainer.train()
    records = [r for r in read_records(tmp_path) if r["parent"] is None]
    for record, mask in zip(records, seen[0][0]["tool_mask"], strict=True):
        assert bool(mask.any()) == (record["finish_reason"] != "length")


def test_a_resumed_run_writes_what_the_whole_run_wrote(tmp_path):
    whole = make_trainer(tmp_path / "whole", max_steps=4, save_strategy="steps", save_steps=2)
    whole.train()
    cut = make_trainer(tmp_path / "cut", max_steps=4, save_strategy="steps", save_steps=2)
    cut.train()
    resumed = make_trainer(tmp_path / "cut", max_steps=4, save_strategy="steps", save_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    assert recorded(tmp_path / "cut") == recorded(tmp_path / "whole") != {}


def test_prompts_that_fill_the_context_leave_empty_rollouts_without_signal(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model.config.max_position_embeddings = 1
    with pytest.warns(UserWarning, match="prompts have up to 6 tokens and leave no room for an answer in 1"):
        trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    ("branching", "advantage"),
    [
        ("entropy", "pooled"),
        ("future_value", "prefix"),
        ("weighted_sum", "group"),
        ("random", "dual_group"),
        ("tool_boundary", "prefix"),
    ],
)
def test_the_papers_ablations_train(tmp_path, branching, advantage):
    trainer = make_trainer(tmp_path, method_args={"branching": branching, "advantage": advantage})
    trainer.train()
    assert all(p.isfinite().all() for p in trainer.model.parameters())
