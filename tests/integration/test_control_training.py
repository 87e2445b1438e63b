"""Controls in the trainer: they know the truth, or pay for what no method may."""

import pytest
import torch
from training_parts import branches_written, make_searching_trainer, make_trainer, rollouts_of, watch

from appo.environments import kinship
from appo.rollout.scoring import Scores
from appo.rollout.types import Rollout

ORACLE = {"method": "appo.research.controls:OracleBranching", "method_args": {"branching": "entropy"}}
VARIANCE = {"method": "appo.research.controls:OutcomeVariance", "method_args": {"branching": "entropy"}}


def test_the_oracle_branches_at_decisions_where_there_are_any(tmp_path, monkeypatch):
    trainer = make_trainer(
        tmp_path, extra={"decision_positions": kinship.decision_positions}, max_completion_length=48, **ORACLE
    )
    plan = trainer.processing_class.convert_tokens_to_ids("plan")
    with torch.no_grad():
        trainer.model.model.embed_tokens.weight[plan] *= 2
    seen = watch(trainer, monkeypatch)
    trainer.train()
    decided = {True: 0, False: 0}
    for _, trees, _ in seen:
        for tree in trees:
            assert len(tree.branches) == 4
            for branch in tree.branches:
                ids = tree.rollouts[branch.parent].completion_ids
                places = {i + 2 for i, token in enumerate(ids[:-2]) if token == plan}
                assert not places or branch.branch_position in places
                decided[bool(places)] += 1
    assert decided[True] > 4


def test_outcome_variance_branches_where_continuations_differ_and_costs_nothing(tmp_path, monkeypatch):
    trainer = make_searching_trainer(tmp_path, max_steps=1, **VARIANCE)
    scores = []
    variances = trainer.method.known_scores

    def watched_variances(*args):
        scores.append(variances(*args))
        return scores[-1]

    monkeypatch.setattr(trainer.method, "known_scores", watched_variances)
    calls = branches_written(trainer, monkeypatch)
    trainer.train()
    (_, tried), (_, chosen) = calls
    assert len(chosen) == 8
    best = 0
    for row, point in enumerate(chosen):
        candidates = {p.position for p in tried if p.tree is point.tree and p.rollout == point.rollout}
        assert len(candidates) == min(6, sum(point.tree.rollouts[point.rollout].policy_mask))
        assert set(scores[0][row].nonzero()[:, 0].tolist()) <= candidates
        assert scores[0][row, point.position] == scores[0][row].max()
        best += scores[0][row].max().item() > 0
    assert best > 0
    # Three rewards of 0 or 1 have the mean 0, 1/3, 2/3 or 1.
    assert {round(score, 5) for score in scores[0].unique().tolist()} == {0.0, round(2 / 9, 5)}
    # Four tasks of 4 rollouts are written, and two of them branched.
    assert trainer.counters.totals()["rollouts/generated"] == 4 * 4 + 8


def test_outcome_variance_draws_anew_in_a_second_pass(tmp_path):
    trainer = make_searching_trainer(
        tmp_path, max_completion_length=8, num_iterations=2, steps_per_generation=1, **VARIANCE
    )
    trees = trainer.writer.write([trainer.train_dataset[0]], 4)
    batch, current = trainer.writer.score(rollouts_of(trees))
    scores = Scores(batch, current, current, [4])
    fresh = trainer.method.known_scores(trees, scores, trainer.writer)
    # Branches of an earlier pass are none of the samples.
    for index in range(4):
        stale = trees[0].rollouts[index].prefix(0)
        stale.reward = 100.0
        trees[0].add_branch(stale, index, 0)
    assert torch.equal(trainer.method.known_scores(trees, scores, trainer.writer), fresh)
    assert not trees[0].branches


@pytest.mark.parametrize("name", ["OracleBranching", "DecisionWeights"])
def test_what_looks_at_decisions_has_to_be_told_where_they_are(tmp_path, name):
    options = {"method_args": {"branching": "entropy"}} if name == "OracleBranching" else {}
    sentence = f"method = 'appo.research.controls:{name}' needs a task with decision_positions"
    with pytest.raises(ValueError, match=sentence):
        make_trainer(tmp_path, method=f"appo.research.controls:{name}", **options)


def test_decisions_are_read_from_the_rollouts_words(tmp_path):
    seen = []
    extra = {"decision_positions": lambda words: seen.append(words) or [len(words)]}
    trainer = make_trainer(tmp_path, method="grpo", extra=extra)
    rollout = Rollout([1])
    rollout.append(trainer.processing_class.convert_tokens_to_ids(["plan", "mother"]), [-1.0] * 2)
    assert trainer.method.decisions(rollout) == [2]
    assert seen == [["plan", "mother"]]


def test_loss_on_decisions_weighs_all_other_tokens_by_the_floor(tmp_path, monkeypatch):
    trainer = make_searching_trainer(
        tmp_path, method="appo.research.controls:DecisionWeights", method_args={"weight_floor": 0.25}
    )
    trainer.method.decisions = lambda rollout: [1, 3] if len(rollout.completion_ids) > 3 else []
    seen = watch(trainer, monkeypatch)
    trainer.train()
    for inputs, *_ in seen:
        advantages_BT = inputs["advantages"]
        long_B = inputs["completion_mask"].sum(dim=1) > 3
        assert long_B.any() and advantages_BT.any()
        torch.testing.assert_close(advantages_BT[long_B][:, 0], 0.25 * advantages_BT[long_B][:, 1])
        torch.testing.assert_close(advantages_BT[long_B][:, 3], advantages_BT[long_B][:, 1])
        torch.testing.assert_close(advantages_BT[long_B][:, 2], advantages_BT[long_B][:, 0])
