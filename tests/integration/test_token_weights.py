"""Training by weights: fork weights on real scores, and rollouts that teach nothing left out of the step."""

import pytest
import torch
from training_parts import captured, make_trainer, rollouts_of

from appo.algorithm import fork_weight
from appo.environments import kinship
from appo.rollout.records import read_records


@pytest.mark.parametrize("method", ["appo", "grpo", "raft", "whole_tree", "arpo"])
def test_fork_weights_multiply_the_advantage(tmp_path, monkeypatch, method):
    """The same rollouts with and without weights: what differs is `fork_weight` of the scores that were kept."""

    def often(completion_ids, **kwargs):
        return [float(sum(ids) % 4 > 0) for ids in completion_ids]

    inputs = {}
    for name, own in {"uniform": {}, "fork": {"token_weight": "fork", "weight_floor": 0.25}}.items():
        with monkeypatch.context() as patch:
            trainer = make_trainer(tmp_path / name, max_steps=1, method=method, method_args=own, reward=often)
            seen = captured(trainer, patch)
            trainer.train()
            inputs[name] = seen[0][0]
    plain, weighted = inputs["uniform"], inputs["fork"]
    assert torch.equal(plain["completion_ids"], weighted["completion_ids"])
    # A plain forward of the untrained model, which wrote the rollouts and the branches of the first step.
    model, _ = (torch.manual_seed(0), kinship.make_model())[1]
    ids = torch.cat([plain["prompt_ids"], plain["completion_ids"]], 1)
    attention = torch.cat([plain["prompt_mask"], plain["completion_mask"]], 1)
    with torch.no_grad():
        logits = model(ids, attention_mask=attention).logits[:, plain["prompt_ids"].shape[1] - 1 : -1]
    logps = torch.log_softmax(logits, -1)
    entropy = -(logps.exp() * logps).sum(-1)
    weight = fork_weight(entropy, logps.exp().square().sum(-1).log(), floor=0.25)
    mask = (plain["tool_mask"] * plain["completion_mask"]).bool()
    torch.testing.assert_close(weighted["advantages"][mask], (plain["advantages"] * weight)[mask], atol=1e-4, rtol=0)
    assert weight[mask].max() - weight[mask].min() > 0.01


def test_fork_weights_are_those_of_the_policy_that_wrote_the_rollout(tmp_path, monkeypatch):
    """Also where branches are trained on, after an update: only the branches' own tokens are of the present policy."""
    options = {"branching": "branching_score", "token_weight": "fork"}
    trainer = make_trainer(tmp_path, method="whole_tree", method_args=options)
    pairs = []
    credit, prepare = trainer.method.credit, trainer._prepare_mini_batch

    def watched(trees, scores):
        pairs[-1].append((trees, scores))
        return credit(trees, scores)

    monkeypatch.setattr(trainer.method, "credit", watched)
    monkeypatch.setattr(trainer, "_prepare_mini_batch", lambda batch: (pairs.append([batch]), prepare(batch))[1])
    trainer.train()
    batch, (trees, scores) = pairs[1]  # the second update of the generation
    rows = [i for i, r in enumerate(rollouts_of(trees)) if r.parent is None]
    width = min(batch.behaviour.entropies_BT.shape[1], scores.length)
    for name in ("entropies_BT", "log_sum_sq_probs_BT"):
        written, used = (getattr(x, name) for x in (batch.behaviour, scores.behaviour))
        assert torch.equal(used[rows, :width], written[:, :width])
        assert not torch.equal(getattr(scores.current, name)[rows, :width], written[:, :width])


def test_where_no_rollout_succeeds_each_micro_batch_keeps_one(tmp_path, monkeypatch):
    options = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "max_steps": 1, "method": "raft"}
    trainer = make_trainer(tmp_path, reward=lambda completions, **_: [0.0] * len(completions), **options)
    seen = captured(trainer, monkeypatch)
    trainer.train()
    assert [len(inputs["advantages"]) for inputs, _ in seen] == [1, 1]
    assert trainer.state.log_history[0]["tokens/trained"] == 0


@pytest.mark.parametrize("own", [{"top_entropy_quantile": 0.5}, {"entropy_coef": 0.1}])
def test_idle_rows_stay_where_something_else_looks_at_them(tmp_path, monkeypatch, own):
    trainer = make_trainer(tmp_path, max_steps=1, method="raft", **own)
    seen = captured(trainer, monkeypatch)
    trainer.train()
    assert len(seen[0][0]["advantages"]) == 16


@pytest.mark.parametrize("accumulation", [1, 2])
def test_leaving_idle_rows_out_changes_no_step(tmp_path, monkeypatch, accumulation):
    options = {
        "method": "raft",
        "optim": "sgd",
        "max_steps": 1,
        "steps_per_generation": 2 * accumulation,
        "per_device_train_batch_size": 16 // accumulation,
        "gradient_accumulation_steps": accumulation,
    }
    weights, rows = {}, {}
    for name in ("without", "all"):
        with monkeypatch.context() as patch:
            if name == "all":
                patch.setattr("appo.trainer.without_idle_rows", lambda inputs, size: inputs)
            trainer = make_trainer(tmp_path / name, **options)
            seen = captured(trainer, patch)
            trainer.train()
        weights[name] = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        rows[name] = sum(len(inputs["advantages"]) for inputs, _ in seen)
    assert rows["without"] < rows["all"]
    start = torch.cat([p.detach().flatten() for p in (torch.manual_seed(0), kinship.make_model())[1][0].parameters()])
    assert (weights["all"] - start).abs().max() > 1e-4
    torch.testing.assert_close(weights["without"], weights["all"], atol=1e-6, rtol=1e-4)


def test_raft_with_fork_weights_trains_without_branches(tmp_path):
    trainer = make_trainer(
        tmp_path,
        method="raft",
        method_args={"token_weight": "fork"},
        num_iterations=2,
        num_generations=16,
        per_device_train_batch_size=32,
    )
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.train()
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    assert not torch.equal(before, after)
    assert all(record["parent"] is None for record in read_records(tmp_path))
