"""Algorithm 1 in verl on two gloo ranks: two steps of two mini-batches with real tags, tools and environment.

One run, whose method writes down what it was given (`watched.py`); then `APPOTrainer` is handed the same rollouts.
"""

import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import kinship_run
import pytest
import torch

from appo.environments import kinship
from appo.rollout.records import read_records
from appo.rollout.scoring import collate

REPOSITORY = Path(__file__).parents[2]
TRL_PYTHON = REPOSITORY / ".venv" / "bin" / "python"  # `make test-verl` makes it


@pytest.fixture(scope="module")
def directory(tmp_path_factory, policy):
    directory = tmp_path_factory.mktemp("verl")
    shutil.copytree(policy, directory / "policy")
    finished = kinship_run.run(directory)
    assert finished.returncode == 0, (directory / "log").read_text()[-5000:]
    return directory


@pytest.fixture(scope="module")
def updates(directory):
    files = sorted((directory / "watched").glob("update-*.pt"))
    found = [torch.load(file, weights_only=False) for file in files]
    assert len(found) == 4
    return found


def rollouts_of(update):
    return [rollout for tree in update["trees"] for rollout in tree.rollouts]


def branches_of(update):
    return [branch for tree in update["trees"] for branch in tree.branches]


def own_differences(update):
    """Of each branch's own tokens, the server's log-probability against the trainer's."""
    for branch, logps_T in zip(branches_of(update), update["branch_logps_BT"], strict=True):
        for place in range(branch.branch_position, len(branch.completion_ids)):
            if branch.policy_mask[place]:
                yield abs(branch.logprobs[place] - float(logps_T[place]))


def test_omega_is_one_until_the_first_update_of_a_generation(updates):
    for number, update in enumerate(updates):
        mask_BT = update["scores"].batch.policy_mask_BT.bool()
        omega = update["credit"].measured["omega"][mask_BT]
        if number % 2 == 0:
            assert (omega == 1).all()
        else:
            assert (omega - 1).abs().max() > 0.1


def test_branches_are_written_by_the_weights_that_score_them(updates):
    for update in updates:
        assert max(own_differences(update)) < 1e-4


def test_weights_have_moved_between_the_writing_of_a_prefix_and_that_of_its_branch(updates):
    for update in updates[1::2]:
        differences = [
            abs(branch.logprobs[place] - float(logps_T[place]))
            for branch, logps_T in zip(branches_of(update), update["branch_logps_BT"], strict=True)
            for place in range(branch.branch_position)
            if branch.policy_mask[place]
        ]
        assert max(differences) > 1e-2


def test_every_rollout_has_its_branch_and_a_branch_repeats_its_parent(updates):
    for update in updates:
        for tree in update["trees"]:
            assert (tree.num_initial, len(tree.branches)) == (kinship_run.INITIAL, kinship_run.INITIAL)
            for branch in tree.branches:
                parent, end = tree.rollouts[branch.parent], branch.branch_position
                assert branch.prompt_ids == parent.prompt_ids
                assert branch.completion_ids[:end] == parent.completion_ids[:end]
                assert branch.policy_mask[:end] == parent.policy_mask[:end]


def test_every_result_is_what_the_environment_says_after_the_calls_before_it(updates):
    """Of branches too, which start from the state that their prefix left: only a first answer may be weak."""
    told = 0
    for update in updates:
        for tree in update["trees"]:
            for rollout in tree.rollouts:
                environment = kinship.KinshipEnvironment()
                environment.reset(tree.row["seed"])
                for call in rollout.tool_calls:
                    if call.name == "search" and call.error is None:
                        assert call.result == environment.search(call.arguments)
                        told += 1
    assert told > 50


def test_results_are_in_the_completion_and_carry_no_loss(updates):
    for update in updates:
        tokenizer = kinship.make_tokenizer()
        for rollout in rollouts_of(update):
            for call in rollout.tool_calls:
                if call.answered:
                    ids = rollout.completion_ids[call.result_start : call.result_end]
                    assert tokenizer.decode(ids).split()[0] == "<result>"
                    assert not any(rollout.policy_mask[call.result_start : call.result_end])


def test_rewards_are_those_of_the_testbed(updates):
    rewards = [rollout.reward for update in updates for rollout in rollouts_of(update)]
    assert set(rewards) == {0.0, 1.0}
    for update in updates:
        for tree in update["trees"]:
            for rollout in tree.rollouts:
                text = kinship.make_tokenizer().decode(rollout.completion_ids)
                assert rollout.reward == float(kinship.final_answer(text) == tree.row["answer"])


def eq_8(update):
    """The loss by hand: the clipped surrogate, a mean over a rollout's tokens, then over rollouts."""
    scores, credit = update["scores"], update["credit"]
    rows = []
    for mask_T, new_T, old_T, advantages_T in zip(
        credit.loss_mask_BT, scores.current.logps_BT, scores.behaviour.logps_BT, credit.advantages_BT, strict=True
    ):
        tokens = []
        for place in mask_T.nonzero()[:, 0].tolist():
            ratio, advantage = math.exp(new_T[place] - old_T[place]), float(advantages_T[place])
            tokens.append(-min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage))
        rows.append(sum(tokens) / len(tokens))
    return sum(rows) / len(rows)


def test_verls_loss_is_eq_8(directory, updates):
    logged = [json.loads(line)["data"] for line in (directory / "metrics.jsonl").read_text().splitlines()]
    losses = [metrics["actor/pg_loss"] for metrics in logged]  # means over a step's two updates
    expected = [(eq_8(updates[0]) + eq_8(updates[1])) / 2, (eq_8(updates[2]) + eq_8(updates[3])) / 2]
    assert losses == pytest.approx(expected, abs=1e-5)
    assert max(map(abs, losses)) > 1e-2


def test_the_records_tell_what_was_decided(directory, updates):
    records = list(read_records(directory / "checkpoints" / "records"))
    assert [record["step"] for record in records] == [step for step in range(1, 5) for _ in range(16)]
    for number, update in enumerate(updates, 1):
        own = [record for record in records if record["step"] == number]
        assert [record["completion_ids"] for record in own] == [r.completion_ids for r in rollouts_of(update)]
        assert [record["branch_position"] for record in own] == [r.branch_position for r in rollouts_of(update)]


def test_credit_is_that_of_appo_trainer_on_the_same_rollouts(directory, updates):
    """`APPOTrainer` does all but the writing itself, its own optimizer steps too: it stays beside verl's weights."""
    command = [str(TRL_PYTHON), str(Path(__file__).with_name("with_trl.py")), str(directory)]
    paths = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(Path(__file__).parent)])}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **paths})
    assert done.returncode == 0, done.stderr[-5000:]
    found = torch.load(directory / "with_trl.pt", weights_only=False)
    assert len(found) == len(updates)
    for update, other in zip(updates, found, strict=True):
        points = [
            (number, branch.parent, branch.branch_position)
            for number, tree in enumerate(update["trees"])
            for branch in tree.branches
        ]
        assert other["points"] == points
        credit, mask_BT = update["credit"], update["credit"].loss_mask_BT
        advantages_BT = credit.advantages_BT * mask_BT
        assert (other["advantages_BT"] - advantages_BT).abs().max() < 1e-5
        assert ((other["omega_BT"] - credit.measured["omega"]) * mask_BT).abs().max() < 1e-4
        assert ((other["logps_BT"] - update["scores"].current.logps_BT) * mask_BT).abs().max() < 1e-4
    assert max(float(other["advantages_BT"].abs().max()) for other in found) > 0.5


def test_scores_belong_to_the_rollouts_in_their_rows(updates):
    for update in updates:
        initial = [rollout for tree in update["trees"] for rollout in tree.initial]
        batch = collate(initial, pad_token_id=0, device="cpu")
        assert torch.equal(batch.policy_mask_BT, update["scores"].batch.policy_mask_BT)
        for rollout, logps_T in zip(initial, update["scores"].behaviour.logps_BT, strict=True):
            for place, written in enumerate(rollout.logprobs):
                if rollout.policy_mask[place]:
                    assert abs(written - float(logps_T[place])) < 1e-4
