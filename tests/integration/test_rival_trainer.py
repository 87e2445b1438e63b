"""`RivalTrainer` on the testbed's tiny model: what makes each rival a rival, and training on branches too."""

import statistics

import pytest
import torch
from appo.algorithm.rivals import gppo_coefficient, step_group_advantage
from appo.rival_credit import result_at
from appo.rivals import RivalConfig, RivalTrainer
from trl import GRPOTrainer

from appo.environments import kinship
from appo.rollout.records import read_records

ALL = {"train_on": "all", "advantage": "tree"}
PLAIN = {"num_initial_rollouts": 8, "num_branch_points": 0, "advantage": "group", "future_weight": 0.0}
RIVALS = {
    "arpo soft": {"rival": "arpo"},
    "arpo hard": {"rival": "arpo", "shared_prefix": "hard"},
    "tree_grpo": {"rival": "tree_grpo"},
    "gigpo": {"rival": "gigpo", **PLAIN},
    "vineppo": {"rival": "vineppo"},
    "reinforce++": {"rival": "reinforce++", **PLAIN},
    "gppo": {"rival": "gppo"},
    "dapo": {"dynamic_sampling": True, **PLAIN},
    "tree": ALL,
    "oracle": {"control": "oracle", "branching": "entropy"},
    "outcome_variance": {"control": "outcome_variance", "branching": "entropy"},
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Two threads that wait for each other are many times slower where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parity_reward(completion_ids, **kwargs):
    return [float(sum(ids) % 2) for ids in completion_ids]


def make_trainer(tmp_path, reward=parity_reward, searching=True, **options):
    """Two tasks of 8 rollouts per update, two updates per generation."""
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    if searching:
        # A random model closes calls rarely; with this bias it does all the time.
        with torch.no_grad():
            model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("</search>")] *= 3
    options = {
        "per_device_train_batch_size": 16,
        "num_generations": 8,
        "num_initial_rollouts": 4,
        "num_branch_points": 1,
        "steps_per_generation": 2,
        "max_steps": 2,
        "max_completion_length": 48,
        "deterministic": True,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "tool_protocol": "tags",
        "result_format": " <result> {} </result> ",
        **options,
    }
    args = RivalConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none", disable_tqdm=True, **options)
    return RivalTrainer(
        model,
        reward,
        args,
        kinship.make_dataset(16, seed=3),
        processing_class=tokenizer,
        environment_factory=kinship.KinshipEnvironment,
        decision_positions=kinship.decision_positions,
    )


def watch(trainer, monkeypatch):
    """Per update (inputs of the loss, its trees, log-probabilities of the policy at that moment)."""
    seen, trees = [], []
    prepare, compute = trainer._prepare_mini_batch, trainer._compute_loss

    def prepare_mini_batch(mini_batch):
        inputs = prepare(mini_batch)
        trees.append(list(mini_batch.trees))
        return inputs

    def compute_loss(model, inputs):
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        length = inputs["completion_ids"].shape[1]
        with torch.no_grad():
            logps, _, _ = trainer._get_per_token_logps_and_entropies(model, ids, mask, length, batch_size=len(ids))
        seen.append(({**inputs}, trees[-1], logps))
        return compute(model, inputs)

    monkeypatch.setattr(trainer, "_prepare_mini_batch", prepare_mini_batch)
    monkeypatch.setattr(trainer, "_compute_loss", compute_loss)
    return seen


def trained(tmp_path, monkeypatch, **options):
    trainer = make_trainer(tmp_path, **options)
    seen = watch(trainer, monkeypatch)
    trainer.train()
    assert len(seen) == trainer.args.max_steps
    return seen


def completions(inputs):
    return [ids[m.bool()].tolist() for ids, m in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)]


def rollouts_of(trees):
    return [rollout for tree in trees for rollout in tree.rollouts]


def normalised(rewards):
    mean, std = statistics.fmean(rewards), statistics.pstdev(rewards)
    return [(reward - mean) / std if std else 0.0 for reward in rewards]


def mask_of(inputs, row, rollout):
    return inputs["tool_mask"][row, : len(rollout.completion_ids)].tolist()


def written_at(trainer, monkeypatch):
    """`global_step` of each call that writes branches, and how many."""
    calls = []
    original = trainer._write_branches

    def write_branches(points, *args, **kwargs):
        calls.append((trainer.state.global_step, len(points)))
        return original(points, *args, **kwargs)

    monkeypatch.setattr(trainer, "_write_branches", write_branches)
    return calls


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_trains_on_finite_numbers(tmp_path, name):
    trainer = make_trainer(tmp_path, save_records=False, max_completion_length=24, **RIVALS[name])
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    assert trainer.state.global_step == 2
    assert any((p != b).any() for p, b in zip(trainer.model.parameters(), before, strict=True))
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_the_loss_is_trls_own():
    assert RivalTrainer._compute_loss is GRPOTrainer._compute_loss


# ---- ARPO ----


def test_arpo_branches_after_tool_results_before_the_first_update(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, rival="arpo")
    calls = written_at(trainer, monkeypatch)
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
    for inputs, trees, now in trained(tmp_path, monkeypatch, rival="arpo"):
        for row, rollout in enumerate(rollouts_of(trees)):
            own = [i for i, m in enumerate(rollout.policy_mask) if m]
            sampled = torch.tensor(rollout.logprobs)[own]
            torch.testing.assert_close(inputs["old_per_token_logps"][row, own], sampled, atol=1e-4, rtol=0)
        last = (inputs["old_per_token_logps"] - now)[inputs["tool_mask"].bool()].abs().max()
    assert last > 1e-3  # the second update has another policy


@pytest.mark.parametrize("rival", ["arpo", "tree_grpo"])
def test_every_rollout_is_in_the_loss_with_its_prefix(tmp_path, monkeypatch, rival):
    for inputs, trees, _ in trained(tmp_path, monkeypatch, rival=rival):
        rollouts = rollouts_of(trees)
        assert completions(inputs) == [rollout.completion_ids for rollout in rollouts]
        assert len(rollouts) == 16
        for row, rollout in enumerate(rollouts):
            assert mask_of(inputs, row, rollout) == rollout.policy_mask
        assert inputs["num_items_in_batch"] == 2 * inputs["tool_mask"].sum()


def test_arpo_soft_gives_each_rollout_its_own_advantage(tmp_path, monkeypatch):
    inputs, trees, _ = trained(tmp_path, monkeypatch, rival="arpo", max_steps=1)[0]
    expected = [a for tree in trees for a in normalised([r.reward for r in tree.rollouts])]
    for column in (0, -1):
        torch.testing.assert_close(inputs["advantages"][:, column], torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_arpo_hard_averages_shared_tokens(tmp_path, monkeypatch):
    inputs, trees, _ = trained(tmp_path, monkeypatch, rival="arpo", shared_prefix="hard", max_steps=1, seed=2)[0]
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
    options = {"rival": "arpo", "mask_truncated_completions": True, "max_completion_length": 8, "max_steps": 1}
    inputs, trees, _ = trained(tmp_path, monkeypatch, **options)[0]
    rollouts = rollouts_of(trees)
    assert {rollout.finish_reason for rollout in rollouts} > {"length"}
    for row, rollout in enumerate(rollouts):
        assert inputs["tool_mask"][row].any() == (rollout.finish_reason != "length")


# ---- Tree-GRPO, VinePPO, GiGPO, REINFORCE++ ----


def test_tree_grpo_branches_at_the_starts_of_turns(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, rival="tree_grpo", num_initial_rollouts=2, num_branch_points=3)
    calls = written_at(trainer, monkeypatch)
    seen = watch(trainer, monkeypatch)
    trainer.train()
    assert calls == [(0, 24)]  # 4 tasks of 2 rollouts with 3 branches each
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
    options = {"rival": "tree_grpo", "num_initial_rollouts": 2, "num_branch_points": 3, "max_steps": 1}
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
    options = {"rival": "vineppo", "num_initial_rollouts": 2, "num_branch_points": 3}
    turns = 0
    for inputs, trees, _ in trained(tmp_path, monkeypatch, **options):
        assert completions(inputs) == [rollout.completion_ids for tree in trees for rollout in tree.initial]
        row = 0
        for tree in trees:
            assert len(tree.branches) == 6
            for index, rollout in enumerate(tree.initial):
                starts, values = [0], [statistics.fmean(r.reward for r in tree.initial)]
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
    inputs, trees, _ = trained(tmp_path, monkeypatch, max_steps=1, **RIVALS["gigpo"])[0]
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

    inputs, trees, _ = trained(tmp_path, monkeypatch, reward=reward, max_steps=1, **RIVALS["reinforce++"])[0]
    centred = []
    for tree in trees:
        rewards = [rollout.reward for rollout in tree.initial]
        centred += [r - statistics.fmean(rewards) for r in rewards]
    expected = torch.tensor(centred) / statistics.pstdev(centred)
    assert expected.abs().sum() > 0
    for column in (0, -1):
        torch.testing.assert_close(inputs["advantages"][:, column], expected, atol=1e-5, rtol=1e-5)


# ---- GPPO ----


def test_gppo_hands_the_loss_clipped_coefficients_at_a_ratio_of_1(tmp_path, monkeypatch):
    plain = trained(tmp_path / "plain", monkeypatch, learning_rate=3e-2)[1]
    inputs, _, now = trained(tmp_path / "gppo", monkeypatch, rival="gppo", learning_rate=3e-2)[1]
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


@pytest.mark.parametrize(("rival", "moved"), [("none", False), ("gppo", True)])
def test_a_clipped_token_has_a_gradient_in_gppo_only(tmp_path, rival, moved):
    trainer = make_trainer(tmp_path, rival=rival, num_initial_rollouts=8, num_branch_points=0, advantage="group")
    trees = trainer.write_initial([trainer.train_dataset[0]] * 2, 8)
    batch, scores = trainer._score_rollouts(rollouts_of(trees))
    # All tokens at twice their old probability, and an advantage above 0: outside the clip everywhere.
    old = type(scores)(scores.logps_BT - 0.7, scores.entropies_BT)
    mask, advantages = batch.policy_mask_BT, torch.ones_like(scores.logps_BT)
    inputs = trainer._micro_batches_of(batch, mask, advantages, old, scores)[0]
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # what transformers sets in its loop
    trainer._compute_loss(trainer.model, inputs).backward()
    gradient = max(p.grad.abs().max().item() for p in trainer.model.parameters())
    assert (gradient > 1e-4) == moved


# ---- DAPO ----


def test_dapo_replaces_tasks_whose_rewards_are_all_equal(tmp_path, monkeypatch):
    equal = set()

    def reward(completion_ids, seed, **kwargs):
        parities = zip(parity_reward(completion_ids), seed, strict=True)
        return [0.5 if episode in equal else parity for parity, episode in parities]

    rows = list(kinship.make_dataset(16, seed=3))
    trainer = make_trainer(tmp_path, reward=reward, **RIVALS["dapo"])
    written = []
    original = trainer.write_initial

    def write_initial(rows, *args, **kwargs):
        if not written:
            equal.update(row["seed"] for row in rows[:3])  # three of the first four tasks
        written.append([row["seed"] for row in rows])
        return original(rows, *args, **kwargs)

    monkeypatch.setattr(trainer, "write_initial", write_initial)
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
    trainer = make_trainer(tmp_path, reward=lambda completions, **k: [1.0] * len(completions), **RIVALS["dapo"])
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.train()
    assert torch.equal(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), before)
    assert trainer.counters.totals()["rollouts/generated"] == 8 * 4 * (1 + 3)


# ---- training on branches of the present policy ----


@pytest.mark.parametrize("options", [{}, {"num_initial_rollouts": 2, "num_branch_points": 1, "num_branch_rounds": 2}])
def test_branches_carry_loss_on_their_own_tokens_once(tmp_path, monkeypatch, options):
    for inputs, trees, now in trained(tmp_path, monkeypatch, **ALL, **options):
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
    make_trainer(tmp_path, discount_over="policy", **ALL).train()
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
    trainer = make_trainer(tmp_path, max_steps=1, steps_per_generation=1, max_grad_norm=0.0, **ALL)
    reference = make_trainer(tmp_path / "reference").model
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
        trainer = make_trainer(
            tmp_path / name,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            steps_per_generation=2 * accumulation,
            lr_scheduler_type="constant",
            optim="sgd",
            **ALL,
        )
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=1e-3)


def test_a_second_pass_over_whole_trees_trains_on_new_branches(tmp_path, monkeypatch):
    first, second = trained(tmp_path, monkeypatch, num_iterations=2, steps_per_generation=1, **ALL)
    initial = [row for row in range(16) if row % 8 < 4]
    assert [completions(first[0])[row] for row in initial] == [completions(second[0])[row] for row in initial]
    assert completions(first[0]) != completions(second[0])
    assert len(second[0]["completion_ids"]) == 16


# ---- controls ----


def test_the_oracle_branches_at_decisions_where_there_are_any(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, control="oracle", branching="entropy", searching=False)
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
    trainer = make_trainer(tmp_path, control="outcome_variance", branching="entropy", max_steps=1)
    scores, points = [], []
    variances, write = trainer._variances, trainer._write_branches

    def watched_variances(*args):
        scores.append(variances(*args))
        return scores[-1]

    def watched_write(own, *args, **kwargs):
        points.append(own)
        return write(own, *args, **kwargs)

    monkeypatch.setattr(trainer, "_variances", watched_variances)
    monkeypatch.setattr(trainer, "_write_branches", watched_write)
    trainer.train()
    tried, chosen = points
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
    options = {"control": "outcome_variance", "branching": "entropy", "num_iterations": 2, "steps_per_generation": 1}
    trainer = make_trainer(tmp_path, save_records=False, max_completion_length=8, **options)
    trees = trainer.write_initial([trainer.train_dataset[0]], 4)
    _, current = trainer._score_rollouts(rollouts_of(trees))
    fresh = trainer._variances(trees, current)
    # Branches of an earlier pass are none of the samples.
    for index in range(4):
        stale = trees[0].rollouts[index].prefix(0)
        stale.reward = 100.0
        trees[0].add_branch(stale, index, 0)
    assert torch.equal(trainer._variances(trees, current), fresh)
    assert not trees[0].branches


# ---- settings ----


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rival": "ppo"}, "rival must be one of none, arpo, tree_grpo"),
        ({"control": "luck"}, "control must be one of none, oracle, outcome_variance, got 'luck'"),
        ({"shared_prefix": "both"}, "shared_prefix must be one of soft, hard, got 'both'"),
        ({"rival": "gigpo", **ALL}, "rival = 'gigpo' credits initial rollouts only"),
        ({"train_on": "all"}, "advantage = 'dual_group' and train_on = 'all' do not go together"),
        ({"advantage": "tree"}, "advantage = 'tree' and train_on = 'initial' do not go together"),
        ({"local_weight": -1.0}, "local_weight must be at least 0, got -1.0"),
    ],
)
def test_settings_that_contradict_each_other_are_named(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        RivalConfig(str(tmp_path), bf16=False, report_to="none", **options)


def test_the_oracle_needs_to_be_told_where_decisions_are(tmp_path):
    args = make_trainer(tmp_path, control="oracle", branching="entropy").args
    model, tokenizer = kinship.make_model()
    with pytest.raises(ValueError, match="control = 'oracle' needs a task with decision_positions"):
        RivalTrainer(model, parity_reward, args, kinship.make_dataset(16, seed=3), processing_class=tokenizer)


def test_loss_on_decisions_weighs_all_other_tokens_by_the_floor(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, loss_on="decisions", weight_floor=0.25, **PLAIN)
    trainer._decision_positions = lambda words: [1, 3] if len(words) > 3 else []
    seen = watch(trainer, monkeypatch)
    trainer.train()
    for inputs, *_ in seen:
        advantages_BT = inputs["advantages"]
        long_B = inputs["completion_mask"].sum(dim=1) > 3
        assert long_B.any() and advantages_BT.any()
        torch.testing.assert_close(advantages_BT[long_B][:, 0], 0.25 * advantages_BT[long_B][:, 1])
        torch.testing.assert_close(advantages_BT[long_B][:, 3], advantages_BT[long_B][:, 1])
        torch.testing.assert_close(advantages_BT[long_B][:, 2], advantages_BT[long_B][:, 0])


def test_arpo_with_token_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="leave token_weight at 'uniform'"):
        make_trainer(tmp_path, rival="arpo", num_initial_rollouts=4, num_branch_points=1, token_weight="fork")


def test_a_control_without_its_setting_is_refused(tmp_path):
    with pytest.raises(ValueError, match="set branching to 'entropy'"):
        RivalConfig(str(tmp_path), bf16=False, use_cpu=True, control="oracle")
