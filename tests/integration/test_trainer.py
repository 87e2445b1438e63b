"""APPOTrainer on the testbed's tiny model: Algorithm 1, step by step, and what TRL's users count on."""

import json
import math
import statistics

import pytest
import torch
from datasets import Dataset
from recorded import recorded
from transformers import TrainerCallback
from trl import GRPOTrainer

from appo import APPOConfig, APPOTrainer
from appo.algorithm import fork_weight
from appo.cli.main import main
from appo.config import PRESETS
from appo.environments import kinship
from appo.evaluation import evaluate
from appo.rollout.records import read_records

RESULT = " <result> {} </result> "
# Plain rollouts, of which those that succeed are trained on.
SUCCESS = {"advantage": "success", "num_initial_rollouts": 8, "num_branch_points": 0, "future_weight": 0.0}


def parity_reward(completion_ids, **kwargs):
    """Something that a random model's rollouts differ in."""
    return [float(sum(ids) % 2) for ids in completion_ids]


def make_trainer(tmp_path, model_and_tokenizer=None, reward=parity_reward, **options):
    torch.manual_seed(0)
    model, tokenizer = model_and_tokenizer or kinship.make_model()
    options = {
        "per_device_train_batch_size": 16,
        "num_generations": 8,
        "num_initial_rollouts": 4,
        "num_branch_points": 1,
        "steps_per_generation": 2,
        "max_steps": 2,
        "max_completion_length": 24,
        "deterministic": True,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "tool_protocol": "tags",
        "result_format": RESULT,
        **options,
    }
    args = APPOConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none", disable_tqdm=True, **options)
    kwargs = {} if args.tool_protocol != "tags" else {"environment_factory": kinship.KinshipEnvironment}
    rows = kinship.make_dataset(16, seed=3)
    return APPOTrainer(model, reward, args, rows, processing_class=tokenizer, **kwargs)


def captured(trainer, monkeypatch):
    """(inputs of the loss, policy weights at that time) of every micro-batch."""
    seen = []
    original = type(trainer)._compute_loss

    def compute_loss(self, model, inputs):
        weights = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        seen.append(({**inputs}, weights))
        return original(self, model, inputs)

    monkeypatch.setattr(type(trainer), "_compute_loss", compute_loss)
    return seen


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
    original = trainer._write_branches

    def write_branches(points, *args, **kwargs):
        original(points, *args, **kwargs)
        with torch.no_grad():
            for branch in points[0].tree.branches:
                ids = torch.tensor([branch.prompt_ids + branch.completion_ids])
                logps = torch.log_softmax(trainer.model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
                logps = logps[len(branch.prompt_ids) - 1 :]
                own = [i for i, m in enumerate(branch.policy_mask) if m and i >= branch.branch_position]
                sampled = torch.tensor([branch.logprobs[i] for i in own])
                branches.append((trainer.state.global_step, (sampled - logps[own]).abs().max().item()))

    monkeypatch.setattr(trainer, "_write_branches", write_branches)
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


def test_same_seed_same_records(tmp_path):
    for run in ("a", "b"):
        make_trainer(tmp_path / run, max_steps=3).train()
    a, b = (recorded(tmp_path / run) for run in ("a", "b"))
    assert a == b and len(a) == 3
    make_trainer(tmp_path / "c", max_steps=3, seed=43).train()
    assert recorded(tmp_path / "c") != a


def test_records_hold_whole_trees(tmp_path):
    make_trainer(tmp_path).train()
    records = list(read_records(tmp_path))
    assert {r["step"] for r in records} == {1, 2}
    tasks = {}
    for record in records:
        tasks.setdefault((record["step"], record["task"]), []).append(record)
    assert len(tasks) == 4  # two tasks in each of two mini-batches
    for group in tasks.values():
        assert len(group) == 8
        assert [r["parent"] is None for r in group] == [True] * 4 + [False] * 4
        for record in group[4:]:
            parent, at = group[record["parent"]], record["branch_position"]
            assert record["completion_ids"][:at] == parent["completion_ids"][:at]
            assert parent["policy_mask"][at] == 1


def test_accumulation_gives_the_same_step_as_one_large_batch(tmp_path):
    weights = []
    for name, micro, accumulation in (("one", 16, 1), ("four", 4, 4)):
        trainer = make_trainer(
            tmp_path / name,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            steps_per_generation=2 * accumulation,
            num_initial_rollouts=4,
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
        num_generations=8,
        num_initial_rollouts=2,
        num_branch_points=1,
        num_branch_rounds=2,
        resample=resample,
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
def test_rivals_train(tmp_path, branching, advantage):
    trainer = make_trainer(tmp_path, branching=branching, advantage=advantage)
    trainer.train()
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_without_branches_it_is_grpo(tmp_path, monkeypatch):
    trainer = make_trainer(
        tmp_path, num_initial_rollouts=8, num_branch_points=0, advantage="group", future_weight=0.0, max_steps=1
    )
    seen = captured(trainer, monkeypatch)
    trainer.train()
    records = list(read_records(tmp_path))
    for index in range(0, 16, 8):
        rewards = torch.tensor([r["reward"] for r in records[index : index + 8]])
        expected = (rewards - rewards.mean()) / rewards.std(correction=0) if rewards.std() > 0 else 0 * rewards
        torch.testing.assert_close(seen[0][0]["advantages"][index : index + 8, 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("train_on", ["initial", "all"])
def test_fork_weights_multiply_the_advantage(tmp_path, monkeypatch, train_on):
    """The same rollouts with and without weights: what differs is `fork_weight` of the scores that were kept."""
    options = {"max_steps": 1, "train_on": train_on, "advantage": "group", "future_weight": 0.0}
    inputs = {}
    for name, own in {"uniform": {}, "fork": {"token_weight": "fork", "weight_floor": 0.25}}.items():
        with monkeypatch.context() as patch:
            trainer = make_trainer(tmp_path / name, **options, **own)
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
    trainer = make_trainer(tmp_path, train_on="all", advantage="group", future_weight=0.0, token_weight="fork")
    pairs = []
    original, prepare = trainer._token_weights, trainer._prepare_mini_batch

    def token_weights(trees, behaviour):
        pairs[-1].append((trees, behaviour))
        return original(trees, behaviour)

    monkeypatch.setattr(trainer, "_token_weights", token_weights)
    monkeypatch.setattr(trainer, "_prepare_mini_batch", lambda batch: (pairs.append([batch]), prepare(batch))[1])
    trainer.train()
    batch, (trees, behaviour) = pairs[1]  # the second update of the generation
    rows = [i for i, r in enumerate(r for tree in trees for r in tree.rollouts) if r.parent is None]
    width = min(batch.behaviour.entropies_BT.shape[1], behaviour.entropies_BT.shape[1])
    for name in ("entropies_BT", "log_sum_sq_probs_BT"):
        assert torch.equal(getattr(behaviour, name)[rows, :width], getattr(batch.behaviour, name)[:, :width])


def test_where_no_rollout_succeeds_each_micro_batch_keeps_one(tmp_path, monkeypatch):
    options = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "max_steps": 1, **SUCCESS}
    trainer = make_trainer(tmp_path, reward=lambda completions, **_: [0.0] * len(completions), **options)
    seen = captured(trainer, monkeypatch)
    trainer.train()
    assert [len(inputs["advantages"]) for inputs, _ in seen] == [1, 1]
    assert trainer.state.log_history[0]["tokens/trained"] == 0


@pytest.mark.parametrize("own", [{"top_entropy_quantile": 0.5}, {"entropy_coef": 0.1}])
def test_idle_rows_stay_where_something_else_looks_at_them(tmp_path, monkeypatch, own):
    trainer = make_trainer(tmp_path, max_steps=1, **SUCCESS, **own)
    seen = captured(trainer, monkeypatch)
    trainer.train()
    assert len(seen[0][0]["advantages"]) == 16


@pytest.mark.parametrize("accumulation", [1, 2])
def test_leaving_idle_rows_out_changes_no_step(tmp_path, monkeypatch, accumulation):
    options = {
        **SUCCESS,
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


def test_the_preset_plus_trains_without_branches(tmp_path):
    trainer = make_trainer(tmp_path, **{**PRESETS["plus"], "num_generations": 16, "per_device_train_batch_size": 32})
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.train()
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    assert not torch.equal(before, after)
    assert all(record["parent"] is None for record in read_records(tmp_path))


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


def test_every_metric_of_the_readme_is_logged(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    last = trainer.state.log_history[1]
    for name in (
        "success", "reward/initial", "reward/branches", "branch/tokens", "branch/position", "branch/in_think",
        "branch/in_call", "branch/in_answer", "omega/mean", "omega/std", "omega/clipped", "groups_without_signal",
        "tools/calls_per_rollout", "tools/failures_per_rollout", "tokens/generated", "tokens/trained", "entropy",
        "time/generate", "time/score", "time/branch", "time/tools", "time/train",
        "tools/search/calls", "tools/search/failures", "tools/search/timeouts", "time/tools/search",
    ):  # fmt: skip
        assert name in last, name
        assert math.isfinite(last[name]), name


def test_evaluation_logs_success_and_leaves_training_alone(tmp_path):
    trainer = make_trainer(tmp_path, per_device_eval_batch_size=8, num_generations_eval=1, max_steps=2)
    trainer.eval_dataset = kinship.make_dataset(16, seed=4)
    metrics = trainer.evaluate()
    assert 0 <= metrics["eval_success"] <= 1
    trainer.train()
    alone = make_trainer(tmp_path / "alone", max_steps=2)
    alone.train()
    assert recorded(tmp_path) == recorded(tmp_path / "alone") != {}


class Measuring(TrainerCallback):
    """Evaluates after each step, in TRL's way and in ours."""

    trainer = None

    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate = True
        evaluate(self.trainer, kinship.make_dataset(5, seed=5), 4)


def test_totals_are_of_training_alone_whoever_evaluates(tmp_path):
    trainer = make_trainer(tmp_path / "measured", per_device_eval_batch_size=8, num_generations_eval=1)
    trainer.eval_dataset = kinship.make_dataset(8, seed=4)
    callback = Measuring()
    callback.trainer = trainer
    trainer.add_callback(callback)
    trainer.train()
    assert sum("eval_success" in entry for entry in trainer.state.log_history) == 2
    alone = make_trainer(tmp_path / "alone")
    alone.train()
    totals = trainer.counters.totals()
    assert totals == alone.counters.totals()
    # Two updates of two tasks: 4 initial rollouts and 4 branches each. Branches write what is behind their prefix.
    records = list(read_records(tmp_path / "measured"))
    assert totals["rollouts/generated"] == len(records) == 2 * 2 * 8
    written = sum(sum(record["policy_mask"][record["branch_position"] or 0 :]) for record in records)
    assert totals["tokens/generated"] == written
    assert [e["tokens/generated"] for e in trainer.state.log_history if "tokens/generated" in e][-1] == written


def test_a_reference_model_and_its_kl(tmp_path):
    model, tokenizer = kinship.make_model()
    model.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    trainer = make_trainer(tmp_path / "run", model_and_tokenizer=(str(tmp_path / "start"), tokenizer), beta=0.1)
    trainer.train()
    kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[1] > 1e-4


@pytest.mark.parametrize("token_weight", ["uniform", "fork"])
def test_peft_trains_the_adapter_only(tmp_path, token_weight):
    from peft import LoraConfig

    model, tokenizer = kinship.make_model()
    frozen = {n: p.detach().clone() for n, p in model.named_parameters()}
    args = make_trainer(tmp_path, token_weight=token_weight).args
    trainer = APPOTrainer(
        model,
        parity_reward,
        args,
        kinship.make_dataset(16, seed=3),
        processing_class=tokenizer,
        environment_factory=kinship.KinshipEnvironment,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1),
    )
    trainer.train()
    after = {
        n.replace("base_model.model.", "").replace(".base_layer", ""): p for n, p in trainer.model.named_parameters()
    }
    assert all((after[n] == p).all() for n, p in frozen.items())
    assert any((p != 0).any() for n, p in after.items() if "lora_B" in n)
    # Dropout must not make the policy look changed: Omega is 1 before the first update.
    assert trainer.state.log_history[0]["omega/std"] == 0


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


def test_gradient_checkpointing_and_completion_tables_work(tmp_path):
    trainer = make_trainer(tmp_path, gradient_checkpointing=True, log_completions=True)
    trainer.train()
    assert list((tmp_path / "completions").glob("*.parquet"))


def test_environment_reward_in_the_tag_protocol(tmp_path):
    class Own(kinship.KinshipEnvironment):
        def get_reward(self) -> float:
            return 0.25

    args = make_trainer(tmp_path).args
    args.reward_weights = [2.0]
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    trainer = APPOTrainer(
        model,
        parity_reward,
        args,
        kinship.make_dataset(16, seed=3),
        processing_class=tokenizer,
        environment_factory=Own,
    )
    assert args.reward_weights == [2.0]  # the caller's configuration is not changed
    trainer.train()
    record = next(read_records(tmp_path))
    assert record["rewards"]["Own"] == 0.25
    assert record["reward"] == 2 * record["rewards"]["parity_reward"] + 0.25


def test_iterable_data(tmp_path):
    args = make_trainer(tmp_path).args
    model, tokenizer = kinship.make_model()
    rows = Dataset.from_list(list(kinship.make_dataset(16, seed=3))).to_iterable_dataset()
    trainer = APPOTrainer(
        model, parity_reward, args, rows, processing_class=tokenizer, environment_factory=kinship.KinshipEnvironment
    )
    trainer.train()
    assert trainer.state.global_step == 2


def test_unsupported_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="use_vllm"):
        APPOConfig(str(tmp_path), use_vllm=True, bf16=False)
    model, tokenizer = kinship.make_model()
    with pytest.raises(ValueError, match="rollout_func"):
        APPOTrainer(model, parity_reward, make_trainer(tmp_path).args, processing_class=tokenizer, rollout_func=print)


def test_records_are_printed_as_json_without_nan(tmp_path, capsys):
    make_trainer(tmp_path).train()
    capsys.readouterr()  # the log
    assert main(["records", str(tmp_path), "--jsonl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 2 * 8
    for line in lines:
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in records"))


def test_prompts_that_fill_the_context_leave_empty_rollouts_without_signal(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model.config.max_position_embeddings = 1
    trainer.train()
    assert trainer.state.global_step == 2


def test_too_few_rows_for_a_generation_are_refused(tmp_path):
    args = make_trainer(tmp_path).args
    model, tokenizer = kinship.make_model()
    with pytest.raises(ValueError, match="train_dataset has 3 rows, but one generation takes 4 tasks"):
        APPOTrainer(model, parity_reward, args, kinship.make_dataset(3, seed=3), processing_class=tokenizer)
