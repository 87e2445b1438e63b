"""Every method in the trainer, on the testbed's tiny model: what makes each of them what it is, on real rollouts."""

import statistics
from types import SimpleNamespace

import pytest
import torch
from training_parts import (
    branches_written,
    completions,
    make_searching_trainer,
    make_trainer,
    mask_of,
    normalised,
    parity_reward,
    rollouts_of,
    trained,
    watch,
)
from trl import GRPOTrainer

from appo import APPOTrainer
from appo.environments import kinship
from appo.methods import METHODS
from appo.methods.gigpo import step_group_advantage
from appo.methods.gppo import gppo_coefficient
from appo.methods.turns import result_at
from appo.rollout.scoring import Scores, TokenScores

TWO_OF_EIGHT = {"num_initial_rollouts": 2, "num_branch_points": 3}
DAPO = {"method": "dapo", "loss_type": "dapo"}
CONTROLS = "appo.research.controls"
RUNS = {
    **{name: {"method": name} for name in METHODS if name != "dapo"},
    "dapo": DAPO,
    "arpo hard": {"method": "arpo", "method_args": {"shared_prefix": "hard"}},
    "arpo fork": {"method": "arpo", "method_args": {"token_weight": "fork"}},
    "oracle": {"method": f"{CONTROLS}:OracleBranching", "method_args": {"branching": "entropy"}},
    "outcome variance": {"method": f"{CONTROLS}:OutcomeVariance", "method_args": {"branching": "entropy"}},
    "decision weights": {"method": f"{CONTROLS}:DecisionWeights"},
}


@pytest.mark.parametrize("name", RUNS)
def test_every_method_trains_on_finite_numbers(tmp_path, name):
    trainer = make_searching_trainer(tmp_path, max_completion_length=24, **RUNS[name])
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    assert trainer.state.global_step == 2
    assert any((p != b).any() for p, b in zip(trainer.model.parameters(), before, strict=True))
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_the_loss_is_trls_own():
    assert APPOTrainer._compute_loss is GRPOTrainer._compute_loss


def test_arpo_branches_after_tool_results_before_the_first_update(tmp_path, monkeypatch):
    trainer = make_searching_trainer(tmp_path, method="arpo")
    calls = branches_written(trainer, monkeypatch)
    seen = watch(trainer, monkeypatch)
    trainer.train()
    # All of a generation by the behaviour policy; nothing before the second update.
    assert {step for step, _ in calls} == {0}
    places = []
    for _, trees, _ in seen:
        for tree in trees:
            assert (tree.num_initial, len(tree.rollouts)) == (4, 8)
            for branch in tree.branches:
                place = branch.branch_position
                assert place == 0 or place in tree.rollouts[branch.parent].answered_turns()
                places.append(place)
    assert any(places)


def test_arpo_branches_are_those_of_the_policy_that_is_old_in_the_loss(tmp_path, monkeypatch):
    """What the engine sampled with is `old_per_token_logps`, in the second update as in the first."""
    for inputs, trees, now in trained(tmp_path, monkeypatch, method="arpo"):
        for row, rollout in enumerate(rollouts_of(trees)):
            own = [i for i, m in enumerate(rollout.policy_mask) if m]
            sampled = torch.tensor(rollout.logprobs)[own]
            torch.testing.assert_close(inputs["old_per_token_logps"][row, own], sampled, atol=1e-4, rtol=0)
        last = (inputs["old_per_token_logps"] - now)[inputs["tool_mask"].bool()].abs().max()
    assert last > 1e-3  # the second update has another policy


@pytest.mark.parametrize("method", ["arpo", "tree_grpo"])
def test_every_rollout_is_in_the_loss_with_its_prefix(tmp_path, monkeypatch, method):
    for inputs, trees, _ in trained(tmp_path, monkeypatch, method=method):
        rollouts = rollouts_of(trees)
        assert completions(inputs) == [rollout.completion_ids for rollout in rollouts]
        assert len(rollouts) == 16
        for row, rollout in enumerate(rollouts):
            assert mask_of(inputs, row, rollout) == rollout.policy_mask
        assert inputs["num_items_in_batch"] == 2 * inputs["tool_mask"].sum()


def test_arpo_soft_gives_each_rollout_its_own_advantage(tmp_path, monkeypatch):
    inputs, trees, _ = trained(tmp_path, monkeypatch, method="arpo", max_steps=1)[0]
    expected = [a for tree in trees for a in normalised([r.reward for r in tree.rollouts])]
    for column in (0, -1):
        torch.testing.assert_close(inputs["advantages"][:, column], torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_arpo_hard_averages_shared_tokens(tmp_path, monkeypatch):
    inputs, trees, _ = trained(
        tmp_path, monkeypatch, method="arpo", method_args={"shared_prefix": "hard"}, max_steps=1, seed=2
    )[0]
    shared = 0
    for first, tree in zip((0, 8), trees, strict=True):
        own = normalised([r.reward for r in tree.rollouts])
        # Rollouts that have one completion's tokens by inheritance, not because they were drawn twice.
        lines = [[index] for index in range(4)]
        for index, branch in enumerate(tree.branches, 4):
            lines.append([*lines[branch.parent], index])
        for index, branch in enumerate(tree.branches, 4):
            if branch.branch_position:
                family = [i for i, line in enumerate(lines) if line[0] == lines[index][0]]
                family = [i for i in family if i < 4 or tree.rollouts[i].branch_position]
                mean = statistics.fmean(own[i] for i in family)
                assert inputs["advantages"][first + index, 0].item() == pytest.approx(mean, abs=1e-5)
                shared += 1
        torch.testing.assert_close(
            inputs["advantages"][first : first + 8, -1], torch.tensor(own), atol=1e-5, rtol=1e-5
        )
    assert shared > 0


def test_truncated_rollouts_can_be_masked_where_prefixes_carry_loss(tmp_path, monkeypatch):
    options = {"method": "arpo", "mask_truncated_completions": True, "max_completion_length": 8, "max_steps": 1}
    inputs, trees, _ = trained(tmp_path, monkeypatch, **options)[0]
    rollouts = rollouts_of(trees)
    assert {rollout.finish_reason for rollout in rollouts} > {"length"}
    for row, rollout in enumerate(rollouts):
        assert inputs["tool_mask"][row].any() == (rollout.finish_reason != "length")


def test_tree_grpo_branches_at_the_starts_of_turns(tmp_path, monkeypatch):
    trainer = make_searching_trainer(tmp_path, method="tree_grpo", method_args=TWO_OF_EIGHT)
    calls = branches_written(trainer, monkeypatch)
    seen = watch(trainer, monkeypatch)
    trainer.train()
    assert [(step, len(points)) for step, points in calls] == [(0, 24)]  # 4 tasks of 2 rollouts with 3 branches each
    places = []
    for _, trees, _ in seen:
        for tree in trees:
            assert [branch.parent for branch in tree.branches] == [0, 0, 0, 1, 1, 1]
            for branch in tree.branches:
                starts = [0, *tree.rollouts[branch.parent].answered_turns()]
                assert branch.branch_position in starts
                places.append(branch.branch_position)
    assert min(places) == 0 < max(places)


def test_tree_grpo_adds_both_comparisons(tmp_path, monkeypatch):
    options = {"method": "tree_grpo", "method_args": TWO_OF_EIGHT, "max_steps": 1}
    inputs, trees, _ = trained(tmp_path, monkeypatch, **options)[0]
    for first, tree in zip((0, 8), trees, strict=True):
        rewards = [rollout.reward for rollout in tree.rollouts]
        families = [[0, 2, 3, 4], [1, 5, 6, 7]]
        expected = normalised(rewards)
        for family in families:
            for index, term in zip(family, normalised([rewards[i] for i in family]), strict=True):
                expected[index] += term
        for column in (0, -1):
            actual = inputs["advantages"][first : first + 8, column]
            torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_vineppo_trains_initial_rollouts_with_the_difference_of_values(tmp_path, monkeypatch):
    options = {"method": "vineppo", "method_args": TWO_OF_EIGHT}
    turns = 0
    for inputs, trees, _ in trained(tmp_path, monkeypatch, **options):
        assert completions(inputs) == [rollout.completion_ids for tree in trees for rollout in tree.initial]
        row = 0
        for tree in trees:
            assert len(tree.branches) == 6
            for index, rollout in enumerate(tree.initial):
                begun = [r.reward for r in tree.rollouts if not r.branch_position]  # from the prompt
                starts, values = [0], [statistics.fmean(begun)]
                for start in rollout.answered_turns():
                    begun = [b.reward for b in tree.branches if (b.parent, b.branch_position) == (index, start)]
                    if begun:
                        starts.append(start)
                        values.append(statistics.fmean(begun))
                        turns += 1
                values.append(rollout.reward)
                for k, start in enumerate(starts):
                    end = [*starts, len(rollout.completion_ids)][k + 1]
                    part = inputs["advantages"][row, start:end]
                    torch.testing.assert_close(part, torch.full_like(part, values[k + 1] - values[k]))
                assert mask_of(inputs, row, rollout) == rollout.policy_mask
                row += 1
    assert turns > 0


def test_gigpo_compares_turns_that_answer_the_same_result(tmp_path, monkeypatch):
    inputs, trees, _ = trained(tmp_path, monkeypatch, max_steps=1, method="gigpo")[0]
    row, grouped = 0, 0
    for tree in trees:
        starts = [[0, *rollout.answered_turns()] for rollout in tree.initial]
        anchors = [
            ["", *(result_at(rollout, start) for start in own[1:])]
            for rollout, own in zip(tree.initial, starts, strict=True)
        ]
        assert all(text for own in anchors for text in own[1:])
        expected = step_group_advantage(torch.tensor([r.reward for r in tree.initial]), anchors)
        for own, steps in zip(starts, expected, strict=True):
            length = inputs["advantages"].shape[1]
            for start, end, step in zip(own, [*own[1:], length], steps, strict=True):
                part = inputs["advantages"][row, start:end]
                torch.testing.assert_close(part, torch.full_like(part, step), atol=1e-5, rtol=1e-5)
            grouped += len(own) > 1
            row += 1
    assert row == 16
    assert grouped > 0


def test_reinforce_normalises_over_the_mini_batch(tmp_path, monkeypatch):
    def reward(completion_ids, answer, **kwargs):
        # The scale differs from task to task: normalising within a task would hide it.
        return [float(sum(ids) % 2) * (1 + len(a)) for ids, a in zip(completion_ids, answer, strict=True)]

    inputs, trees, _ = trained(tmp_path, monkeypatch, reward=reward, max_steps=1, method="reinforce_pp")[0]
    centred = []
    for tree in trees:
        rewards = [rollout.reward for rollout in tree.initial]
        centred += [r - statistics.fmean(rewards) for r in rewards]
    expected = torch.tensor(centred) / statistics.pstdev(centred)
    assert expected.abs().sum() > 0
    for column in (0, -1):
        torch.testing.assert_close(inputs["advantages"][:, column], expected, atol=1e-5, rtol=1e-5)


def test_gppo_hands_the_loss_clipped_coefficients_at_a_ratio_of_1(tmp_path, monkeypatch):
    plain = trained(tmp_path / "plain", monkeypatch, method="grpo", learning_rate=3e-2)[1]
    inputs, _, now = trained(tmp_path / "gppo", monkeypatch, method="gppo", learning_rate=3e-2)[1]
    mask = inputs["tool_mask"].bool()
    # The first update is GRPO's, so that both runs are in the same place before the second.
    assert torch.equal(plain[0]["completion_ids"], inputs["completion_ids"])
    log_ratio = now - plain[0]["old_per_token_logps"]
    expected = plain[0]["advantages"] * gppo_coefficient(log_ratio, plain[0]["advantages"], low=0.2, high=0.28)
    torch.testing.assert_close(inputs["advantages"][mask], expected[mask], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(inputs["old_per_token_logps"][mask], now[mask], atol=1e-5, rtol=0)
    high = (log_ratio.exp() > 1.28) & (plain[0]["advantages"] > 0) & mask
    torch.testing.assert_close(inputs["advantages"][high], 1.28 * plain[0]["advantages"][high])
    assert high.sum() > 0


@pytest.mark.parametrize(("method", "moved"), [("grpo", False), ("gppo", True)])
def test_a_clipped_token_has_a_gradient_in_gppo_only(tmp_path, method, moved):
    trainer = make_searching_trainer(tmp_path, method=method)
    trees = trainer.writer.write([trainer.train_dataset[0]] * 2, 8)
    batch, current = trainer.writer.score(rollouts_of(trees))
    # All tokens at twice their old probability, and an advantage above 0: outside the clip everywhere.
    old = TokenScores(current.logps_BT - 0.7, current.entropies_BT)
    trainer.method.base_advantages = lambda trees, scores: torch.ones(sum(scores.sizes), scores.length)
    scores = Scores(batch, old, current, [8, 8])
    inputs = trainer._micro_batches_of(scores, trainer.method.credit(trees, scores))[0]
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # what transformers sets in its loop
    trainer._compute_loss(trainer.model, inputs).backward()
    gradient = max(p.grad.abs().max().item() for p in trainer.model.parameters())
    assert (gradient > 1e-4) == moved


def test_dapo_replaces_tasks_whose_rewards_are_all_equal(tmp_path, monkeypatch):
    equal = set()

    def reward(completion_ids, seed, **kwargs):
        parities = zip(parity_reward(completion_ids), seed, strict=True)
        return [0.5 if episode in equal else parity for parity, episode in parities]

    rows = list(kinship.make_dataset(16, seed=3))
    trainer = make_searching_trainer(tmp_path, reward=reward, **DAPO)
    written = []
    original = trainer.writer.write

    def write(rows, *args, **kwargs):
        if not written:
            equal.update(row["seed"] for row in rows[:3])  # three of the first four tasks
        written.append([row["seed"] for row in rows])
        return original(rows, *args, **kwargs)

    monkeypatch.setattr(trainer.writer, "write", write)
    seen = watch(trainer, monkeypatch)
    trainer.train()
    trees = [tree for _, own, _ in seen for tree in own]
    assert [len(tree.rollouts) for tree in trees] == [8] * 4
    assert len({tree.id for tree in trees}) == 4
    assert written[0][3] in {tree.row["seed"] for tree in trees}
    assert not {tree.row["seed"] for tree in trees} & equal
    assert all(len({rollout.reward for rollout in tree.rollouts}) == 2 for tree in trees)
    assert len(written[1]) == 3
    assert {episode for own in written for episode in own} <= {row["seed"] for row in rows}
    # What was thrown away was generated all the same.
    assert trainer.counters.totals()["rollouts/generated"] == 8 * sum(map(len, written))


def test_dapo_gives_up_where_all_tasks_are_equal(tmp_path):
    trainer = make_searching_trainer(tmp_path, reward=lambda completions, **k: [1.0] * len(completions), **DAPO)
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.train()
    assert torch.equal(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), before)
    assert trainer.counters.totals()["rollouts/generated"] == 8 * 4 * (1 + 3)


@pytest.mark.parametrize("method", ["arpo", "dapo"])
def test_methods_whose_rounds_differ_in_number_run_on_one_process(tmp_path, method):
    trainer = make_trainer(tmp_path, method=method, loss_type="dapo")
    trainer.accelerator = SimpleNamespace(num_processes=2)
    with pytest.raises(ValueError, match=f"method = '{method}' runs on one process: its rounds differ in number"):
        trainer._check_method(None)
