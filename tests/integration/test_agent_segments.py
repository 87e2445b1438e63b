"""Agents of several conversations, trained: each token that a run sampled is in the loss once, with its advantage."""

import copy
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import openai
import pytest
import torch
from test_agent_training import ROWS, TOKENS, TURNS, letters, make

from appo.rollout.agents.rollouts import further_segments
from appo.rollout.rewards import group_advantages

SMALL = {"per_device_train_batch_size": 8, "max_steps": 2}  # a task per process and update


def forgetful(row, base_url, api_key):
    """Asks another one before and after; rollouts differ in how often."""
    first = letters({"question": "Letters."}, base_url, api_key, turns=1)
    reward = letters(row, base_url, api_key)
    for _ in range(int(first)):
        letters({"question": "More letters."}, base_url, api_key, turns=1)
    return reward


def retelling(row, base_url, api_key):
    """Tells of what was written as text, so that no prompt holds an earlier turn."""
    client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)
    told = row["question"]
    for _ in range(TURNS):
        messages = [{"role": "user", "content": told}]
        answer = client.chat.completions.create(model="any", messages=messages, max_tokens=TOKENS)
        text = answer.choices[0].message.content
        told += f" you wrote {text}"
    return float(len(text) % 2)


def followed(trainer):
    """Trains, and returns each update's mini-batch, trees as they were, and the loss's inputs, row under row."""
    updates = []
    original = trainer._prepare_mini_batch

    def prepare(mini_batch):
        parts = original(mini_batch)
        names = [name for name in parts[0] if name != "num_items_in_batch"]
        inputs = {name: torch.cat([part[name] for part in parts]) for name in names}
        trees = [(list(tree.trained(trainer.method.needs.trains)), tree.num_initial) for tree in mini_batch.trees]
        updates.append((mini_batch, trees, parts, inputs))
        return parts

    trainer._prepare_mini_batch = prepare
    trainer.train()
    return updates


def own_logprobs(run):
    """The engine's, of what a run sampled itself, turn by turn."""
    return [logp for turn in run.book.turns.values() for logp in turn.logprobs[turn.forced :]]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("agent", [forgetful, retelling])
@pytest.mark.parametrize("method", ["grpo", "appo"])
def test_all_that_runs_sampled_is_in_the_loss_with_the_probabilities_that_it_was_sampled_with(
    tmp_path, method, agent, accumulation
):
    options = {"steps_per_generation": 2 * accumulation, "gradient_accumulation_steps": accumulation}
    trainer = make(tmp_path, agent, method=method, **{**SMALL, **options})
    updates = followed(trainer)
    assert len(updates) == 2
    for _, trees, parts, inputs in updates:
        runs = [rollout.environment for rollouts, _ in trees for rollout in rollouts]
        written = [logp for run in runs for logp in own_logprobs(run)]
        assert any(len(run.book.segments()) > 1 for run in runs)
        mask = inputs["tool_mask"].bool()
        assert int(mask.sum()) == len(written)
        old = inputs["old_per_token_logps"][mask]
        torch.testing.assert_close(old.sort()[0], torch.tensor(written).sort()[0], atol=2e-4, rtol=0)
        assert len(parts) == accumulation and len({len(part["tool_mask"]) for part in parts}) == 1
        busy = inputs["tool_mask"].any(dim=1)
        assert int(busy.sum()) == sum(len(run.book.segments()) for run in runs)
    totals = trainer.counters.totals()
    assert totals["tokens/trained"] == sum(int(inputs["tool_mask"].sum()) for *_, inputs in updates)
    assert totals["agent/rows"] == sum(
        len(rollout.environment.book.segments()) - 1 for _, trees, *_ in updates for own, _ in trees for rollout in own
    )
    assert totals["agent/tokens_left_out"] == 0


def test_micro_batches_are_filled_up_to_one_size(tmp_path):
    number = itertools.count()

    def once(row, base_url, api_key):
        if next(number) == 0:
            letters({"question": "Letters."}, base_url, api_key, turns=1)
        return letters(row, base_url, api_key, turns=1)

    options = {"steps_per_generation": 2, "gradient_accumulation_steps": 2, "max_steps": 1}
    ((_, trees, parts, inputs),) = followed(make(tmp_path, once, method="grpo", **{**SMALL, **options}))
    assert [len(own) for own, _ in trees] == [8, 8]
    assert [len(part["tool_mask"]) for part in parts] == [9, 9]  # of 17 rows
    assert [bool(row.any()) for row in inputs["tool_mask"]] == [True] * 17 + [False]
    # The mean over 18 rows is to be one over 16 runs.
    alone = torch.cat([group_advantages(own) for own, _ in trees])
    mask = inputs["tool_mask"][:17]
    weighted = (inputs["advantages"][:17] * mask).sum(dim=1) / mask.sum(dim=1)
    torch.testing.assert_close(weighted.abs().sum() / 18, alone.abs().sum() / 16, atol=1e-5, rtol=0)


def test_segments_follow_their_rollout_with_its_advantage(tmp_path):
    ((_, trees, parts, inputs), *_) = followed(make(tmp_path, forgetful, method="grpo", loss_type="dapo", **SMALL))
    row = 0
    for rollout in (rollout for rollouts, _ in trees for rollout in rollouts):
        run = rollout.environment
        assert inputs["completion_ids"][row, : len(rollout.completion_ids)].tolist() == rollout.completion_ids
        count = len(run.book.segments())
        own = inputs["advantages"][row : row + count][inputs["tool_mask"][row : row + count].bool()]
        assert own.unique().numel() == 1
        row += count
    assert row == len(inputs["tool_mask"]) and inputs["advantages"].unique().numel() > 1
    # Of one update out of two in a generation.
    assert int(parts[0]["num_items_in_batch"]) == 2 * int(inputs["tool_mask"].sum())


@pytest.mark.parametrize("method", ["whole_tree", "tree_grpo"])
def test_where_branches_carry_loss_their_segments_do_and_what_they_took_over_does_not(tmp_path, method):
    trainer = make(tmp_path, forgetful, method=method, num_generations=16, max_steps=2)  # 4 rollouts with 3 branches
    for mini_batch, trees, _, inputs in followed(trainer):
        expected = 0
        for rollouts, num_initial in trees:
            assert len(rollouts) == 16 and num_initial == 4
            for rollout in rollouts:
                further = trainer.writer.further([rollout])[0]
                expected += sum(sum(one.policy_mask) for one in further)
                shared = rollout.branch_position or 0 if method == "whole_tree" else 0
                expected += sum(rollout.policy_mask[shared:])
            branches = [rollout.environment for rollout in rollouts[4:]]
            assert any(run.book.turns[0].forced for run in branches)  # a first conversation that was taken over
        assert int(inputs["tool_mask"].sum()) == expected
        assert len(mini_batch.further) == (4 if method == "whole_tree" else 16)


def test_the_tokens_of_failed_runs_are_left_out_with_all_of_their_segments(tmp_path):
    options = {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "success_reward": 1.0}
    for _, trees, parts, inputs in followed(make(tmp_path, forgetful, method="raft", **{**SMALL, **options})):
        good = [rollout.environment for own, _ in trees for rollout in own if rollout.reward == 1.0]
        busy = (inputs["advantages"] * inputs["tool_mask"] != 0).any(dim=1)
        assert int(busy.sum()) == sum(len(run.book.segments()) for run in good)
        rows = max(2, -(-int(busy.sum()) // 2) * 2)
        assert [len(part["tool_mask"]) for part in parts] == [rows // 2] * 2


def test_an_agent_of_one_segment_a_run_gives_the_loss_what_it_gave_it(tmp_path, monkeypatch):
    def one(row, base_url, api_key):
        return letters(row, base_url, api_key, turns=1)

    trainer = make(tmp_path / "a", one, method="grpo", **SMALL)
    trainer.begin()
    with trainer.whole_weights():
        (mini_batch, _) = trainer._write_generation([ROWS[0]] * 8 + [ROWS[1]] * 8)
        assert mini_batch.further == [[] for _ in range(8)]
        (with_further,) = trainer._prepare_mini_batch(mini_batch)
        mini_batch.further = []
        (without,) = trainer._prepare_mini_batch(mini_batch)
    assert with_further.keys() == without.keys()
    assert all(torch.equal(with_further[name], without[name]) for name in without)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A trainer, a mini-batch, and its scores and credit with the further segments."""
    trainer = make(tmp_path_factory.mktemp("written"), forgetful, method="grpo", **SMALL)
    kept = []
    original = trainer._micro_batches_of
    trainer._micro_batches_of = lambda *given: kept.append(given) or original(*given)
    trainer.begin()
    with trainer.whole_weights():
        mini_batch = trainer._write_generation([ROWS[0]] * 8 + [ROWS[1]] * 8)[0]
        trainer._prepare_mini_batch(mini_batch)
    trainer._micro_batches_of = original
    return trainer, mini_batch, kept[0]


def test_the_ratio_to_an_engine_is_of_all_rows(written):
    trainer, _, (scores, credit, _) = written
    ratio = trainer._sampling_ratio(scores, credit)
    mask = credit.loss_mask_BT.bool()
    assert len(ratio) == len(mask) > 8
    torch.testing.assert_close(ratio[mask], torch.ones(int(mask.sum())), atol=5e-4, rtol=0)


def test_the_reference_policy_scores_all_rows(written, monkeypatch):
    trainer, _, given = written
    monkeypatch.setattr(trainer, "beta", 0.1)
    monkeypatch.setattr(trainer, "ref_model", copy.deepcopy(trainer.model))
    (inputs,) = trainer._micro_batches_of(*given)
    mask = inputs["tool_mask"].bool()
    # It is the policy that wrote them.
    torch.testing.assert_close(
        inputs["ref_per_token_logps"][mask], inputs["old_per_token_logps"][mask], atol=1e-4, rtol=0
    )


def test_the_gradient_is_that_of_a_mean_over_runs_of_means_over_all_tokens_that_they_sampled(written):
    trainer, mini_batch, given = written
    (inputs,) = trainer._micro_batches_of(*given)
    weight = trainer.model.lm_head.weight
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # what transformers sets in its loop
    (found,) = torch.autograd.grad(trainer._compute_loss(trainer.model, inputs), weight)

    (tree,) = mini_batch.trees
    loss = torch.tensor(0.0)
    for rollout, advantage in zip(tree.initial, group_advantages(tree.initial).tolist(), strict=True):
        turns = rollout.environment.book.turns.values()
        logps = []
        for turn in turns:
            ids = torch.tensor([turn.ids])
            start = len(turn.prompt_ids)
            scored = trainer.model(ids).logits.log_softmax(-1)[0, start - 1 : -1]
            logps.append(scored.gather(1, ids[0, start:, None]))
        loss = loss - advantage * torch.cat(logps).mean() / 8
    (expected,) = torch.autograd.grad(loss, weight)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_segments_that_were_cut_off_are_masked_where_rollouts_are_and_counted_as_left_out(tmp_path):
    trainer = make(tmp_path, forgetful, method="grpo", mask_truncated_completions=True)
    with trainer.counters.counted():
        (tree,) = trainer.writer.write([ROWS[0]], 4)
    cut = 0
    for rollout, further in zip(tree.initial, trainer.writer.further(tree.initial), strict=True):
        others = further_segments(rollout.environment)
        assert [one.completion_ids for one in further] == [
            one.completion_ids for one in others if one.finish_reason == "stop"
        ]
        cut += sum(sum(one.policy_mask) for one in others if one.finish_reason == "length")
    assert trainer.counters.totals()["agent/tokens_left_out"] == cut > 0


@pytest.mark.parametrize("method", ["grpo", "appo"])
def test_a_run_goes_on_inside_a_generation_to_the_same_weights(tmp_path, method):
    options = {**SMALL, "save_strategy": "steps", "save_steps": 1}
    whole = make(tmp_path / "whole", forgetful, method=method, **options)
    whole.train()
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    again = make(tmp_path / "again", forgetful, method=method, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "again" / "checkpoint-1"))
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert again.counters.totals()["agent/rows"] == whole.counters.totals()["agent/rows"] > 0


SCRIPT = """
import sys
from pathlib import Path
import torch
sys.path[:0] = {paths!r}
from test_agent_segments import SMALL, forgetful
from test_agent_training import letters, make

def lopsided(*given):
    return forgetful(*given) if trainer.accelerator.process_index == 0 else letters(*given, turns=1)


for method in ("grpo", "raft"):
    trainer = make(sys.argv[1] + "/" + method, lopsided, method=method, **SMALL)
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    both = trainer.accelerator.gather(weights[None])
    assert torch.equal(both[0], both[1]), "the processes have different weights"
    rows = trainer.counters.totals()["agent/rows"]
    if trainer.accelerator.is_main_process:
        Path(sys.argv[1], method + ".txt").write_text(f"{{len(both)}} processes, rows: {{rows > 0}}")
"""


def test_two_processes_of_which_one_has_no_further_segments_train_one_model(tmp_path):
    script, here = tmp_path / "script.py", Path(__file__).parent
    script.write_text(SCRIPT.format(paths=[str(here), str(here.parent)]))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(script), str(tmp_path / "run")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    for method in ("grpo", "raft"):
        told = tmp_path / "run" / f"{method}.txt"  # what two processes print may be mixed
        assert told.is_file() and told.read_text() == "2 processes, rows: True", run.stdout + run.stderr
