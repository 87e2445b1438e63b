"""Scores of the current policy: TRL's forward against a plain one, at the sampling temperature."""

import pytest
import torch
from training_parts import make_trainer

from appo.environments import kinship
from appo.rollout.records import read_records
from appo.rollout.types import Rollout


def rollouts_with_results():
    """Prompts and completions of different lengths; 0, 1 and 3 results among the tokens."""
    rollouts = []
    for calls, prompt in ((0, [5, 6]), (1, [7, 8, 9, 10]), (3, [11])):
        rollout = Rollout(prompt)
        rollout.append([20, 21, 22], [0.0] * 3)
        for _ in range(calls):
            rollout.append([30, 31], None)
            rollout.append([23, 24], [0.0] * 2)
        rollouts.append(rollout)
    return rollouts


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_full_vocabulary_entropies_equal_a_plain_forward(tmp_path, temperature):
    # 2 initial of 4 rollouts per task: the three rollouts are scored two rows at a time.
    options = {"num_generations": 4, "per_device_train_batch_size": 4}
    method_args = {"num_initial_rollouts": 2, "token_weight": "fork"}
    trainer = make_trainer(tmp_path, temperature=temperature, method_args=method_args, **options)
    rollouts = rollouts_with_results()
    scores = trainer.writer.score_batch(trainer.writer.collate(rollouts))
    for row, rollout in enumerate(rollouts):
        ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
        with torch.no_grad():
            logps = torch.log_softmax(trainer.model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1] / temperature, -1)
        size = len(rollout.completion_ids)
        taken = logps.gather(1, torch.tensor(rollout.completion_ids)[:, None])[:, 0]
        torch.testing.assert_close(scores.logps_BT[row, :size], taken, atol=1e-4, rtol=0)
        entropy = -(logps.exp() * logps).sum(-1)
        torch.testing.assert_close(scores.entropies_BT[row, :size], entropy, atol=1e-4, rtol=0)
        collision = logps.exp().square().sum(-1).log()
        torch.testing.assert_close(scores.log_sum_sq_probs_BT[row, :size], collision, atol=1e-4, rtol=0)


def test_collisions_are_not_measured_where_no_weight_needs_them(tmp_path):
    trainer = make_trainer(tmp_path)
    assert trainer.writer.score_batch(trainer.writer.collate(rollouts_with_results())).log_sum_sq_probs_BT is None


def test_the_sampler_and_the_scores_agree(tmp_path):
    trainer = make_trainer(tmp_path, temperature=0.7)
    trainer.model.train()
    trees = trainer.writer.write(list(kinship.make_dataset(4, seed=3)), 2)
    rollouts = [rollout for tree in trees for rollout in tree.initial]
    _, scores = trainer.writer.score(rollouts)
    for row, rollout in enumerate(rollouts):
        written = torch.tensor(rollout.policy_mask).bool()
        sampled = torch.tensor(rollout.logprobs)[written]
        scored = scores.logps_BT[row, : len(written)][written]
        torch.testing.assert_close(sampled, scored, atol=1e-4, rtol=0)


def test_scoring_leaves_the_model_in_training_mode(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model.train()
    trainer.writer.score_batch(trainer.writer.collate(rollouts_with_results()))
    assert trainer.model.training


def test_branch_points_follow_the_present_policy(tmp_path, monkeypatch):
    """Authors' mistake 4: points chosen once, before any update. Here each step chooses with its own scores."""
    trainer = make_trainer(tmp_path, num_iterations=2, steps_per_generation=1)
    seen = []
    choose, score = trainer.method.choose, trainer.method.branching_scores

    def watched_scores(tree, omega, entropy, *args):
        seen.append([trainer.state.global_step, entropy.clone()])
        return score(tree, omega, entropy, *args)

    def watched_choice(tree, *args):
        seen[-1].append(tree)
        return choose(tree, *args)

    monkeypatch.setattr(trainer.method, "branching_scores", watched_scores)
    monkeypatch.setattr(trainer.method, "choose", watched_choice)
    trainer.train()
    first = {id(tree): entropy for step, entropy, tree in seen if step == 0}
    second = {id(tree): entropy for step, entropy, tree in seen if step == 1}
    assert first.keys() == second.keys()
    assert all((first[key] - second[key]).abs().max() > 1e-4 for key in first)


def test_the_branch_token_is_redrawn_unless_asked_otherwise(tmp_path):
    """Authors' mistake 8: token i is kept."""
    shares = {}
    for resample in ("token", "after_token"):
        make_trainer(tmp_path / resample, method_args={"resample": resample}).train()
        tasks = {}
        for record in read_records(tmp_path / resample):
            tasks.setdefault((record["step"], record["task"]), []).append(record)
        changed = []
        for group in tasks.values():
            for record in group[4:]:
                parent = group[record["parent"]]["completion_ids"]
                at = record["branch_position"] - (resample == "after_token")
                changed.append(record["completion_ids"][at] != parent[at])
        shares[resample] = sum(changed) / len(changed)
    assert shares["after_token"] == 0.0
    assert shares["token"] > 0.5  # a random model seldom draws the same token again


def test_the_prompt_is_the_rows_own(tmp_path):
    """Authors' mistake 14: a text of theirs is put into the system prompt."""
    trainer = make_trainer(tmp_path)
    trainer.model.train()
    row = kinship.make_dataset(1, seed=3)[0]
    rollout = trainer.writer.write([row], 1)[0].initial[0]
    assert rollout.prompt == row["prompt"]
    assert rollout.prompt_ids == trainer.processing_class(row["prompt"])["input_ids"]


def test_what_is_remembered_is_scored_once_until_the_next_generation(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    scored, original = [], trainer.score_tokens

    def watched(batch, **kwargs):
        scored.append(len(batch.completion_ids_BT))
        return original(batch, **kwargs)

    monkeypatch.setattr(trainer, "score_tokens", watched)
    one, two, three = rollouts_with_results()
    _, first = trainer.writer.score([one, three], remember=True)
    again, second = trainer.writer.score([three, two, one])
    assert scored == [2, 1]
    plain = trainer.writer.score_batch(again)
    for name in ("logps_BT", "entropies_BT"):
        found, expected = getattr(second, name), getattr(plain, name)
        mask = again.completion_mask_BT.bool()
        torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=0)
        assert torch.equal(found[2, :3], getattr(first, name)[0, :3])
    trainer.writer.begin_generation()
    trainer.writer.score([one])
    assert scored == [2, 1, 3, 1]
