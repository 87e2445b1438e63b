"""Further segments of agents' runs: which tokens they train, whose advantage they have, and what a run counts."""

import math

import pytest
import torch

from appo.methods import Credit
from appo.rollout.agents.rollouts import as_rollout, branched_segment, further_segments, main_segment
from appo.rollout.agents.run import AgentRun
from appo.rollout.further import Segment, in_order, row_weights, run_advantages, segments_of, with_segments
from appo.rollout.loss_inputs import loss_inputs, with_idle_rows, without_idle_rows
from appo.rollout.scoring import Scores, TokenScores, collate
from appo.rollout.types import Rollout
from appo.serve.book import WrittenTurn
from appo.serve.replay import Branch


def turn(prompt, written, reason="eos", forced=0):
    return WrittenTurn(list(prompt), list(written), [-0.5] * len(written), reason, forced=forced)


def run_of(*turns, branch=None):
    run = AgentRun({}, 0, branch)
    for one in turns:
        run.book.add(one)
    run.chain = main_segment(run.book) if branch is None else branched_segment(run)
    return run


def rollout_of(prompt, *parts):
    """Parts in turns of the policy and of others."""
    rollout = Rollout(list(prompt))
    for place, part in enumerate(parts):
        rollout.append(list(part), None if place % 2 else [-1.0] * len(part))
    return rollout


def trained(rollout):
    return [token for token, own in zip(rollout.completion_ids, rollout.policy_mask, strict=True) if own]


# ---- of a book ----


def test_a_further_segment_has_its_first_prompt_its_turns_and_what_stood_between_them():
    run = run_of(turn([1], [2, 3, 4]), turn([7, 8], [9]), turn([7, 8, 9, 5, 5], [6], "length"))
    (further,) = further_segments(run)
    assert run.chain == [0]
    assert (further.prompt_ids, further.completion_ids) == ([7, 8], [9, 5, 5, 6])
    assert further.policy_mask == [1, 0, 0, 1] and further.finish_reason == "length"
    assert further.logprobs[::3] == [-0.5, -0.5] and all(map(math.isnan, further.logprobs[1:3]))


def test_an_agent_that_writes_its_history_anew_for_every_turn_has_a_segment_for_each_in_their_order():
    run = run_of(turn([1], [2]), turn([1, 8, 2], [3]), turn([1, 8, 2, 8, 3], [4, 4]), turn([1, 8, 8, 8, 4], [5]))
    assert run.chain == [2]  # the one with the most tokens
    assert [one.completion_ids for one in further_segments(run)] == [[2], [3], [5]]
    assert [one.prompt_ids for one in further_segments(run)] == [[1], [1, 8, 2], [1, 8, 8, 8, 4]]


def test_a_run_of_one_segment_and_a_run_that_wrote_nothing_have_no_further_ones():
    assert further_segments(run_of(turn([1], [2, 3]), turn([1, 2, 3, 4], [5]))) == []
    assert further_segments(run_of()) == []


@pytest.mark.parametrize(
    "turns",
    [
        [([1], [2, 3]), ([1, 2, 3, 4], [5]), ([1, 2, 3, 6], [7, 8])],  # two go on from the same turn
        [([1], [2, 3]), ([1], [2, 3]), ([1, 2, 3, 4], [5])],  # repeated, and sampled alike
        [([1], [2, 3]), ([1], [9]), ([1, 2, 3, 4], [5]), ([1, 9, 4], [6])],  # repeated, and both went on
        [([1], [2]), ([7, 2, 7], [8]), ([7, 2, 7, 8, 2], [9])],  # quoted in another one's prompt, and between turns
    ],
    ids=["forked", "repeated", "both went on", "quoted"],
)
def test_each_sampled_token_is_trained_once(turns):
    run = run_of(*(turn(*one) for one in turns))
    chains = run.book.segments()
    assert sorted(number for chain in chains for number in chain) == list(range(len(turns)))  # each in one
    rows = [as_rollout(run, [0]), *further_segments(run)]
    assert len(rows) == len(chains)
    assert sorted(t for row in rows for t in trained(row)) == sorted(t for _, written in turns for t in written)


def test_what_a_branch_takes_over_is_trained_in_its_parent():
    parent = run_of(turn([7], [8]), turn([1], [2, 3, 4]))
    branch = Branch(parent.book, 1, 1)
    branch.written = 1
    # The first conversation is replayed and then goes on; the second one is branched; a third is the branch's own.
    run = run_of(
        turn([7], [8], forced=1), turn([1], [2, 5, 5], forced=1), turn([7, 8, 9], [6]), turn([3], [4]), branch=branch
    )
    assert run.chain == [1]
    first, third = further_segments(run)
    assert (first.completion_ids, first.policy_mask) == ([8, 9, 6], [0, 0, 1])
    assert math.isnan(first.logprobs[0]) and first.logprobs[2] == -0.5
    assert (third.completion_ids, third.policy_mask) == ([4], [1])


def test_a_replayed_segment_without_tokens_of_its_own_is_no_row():
    parent = run_of(turn([7], [8]), turn([1], [2, 3]))
    branch = Branch(parent.book, 1, 1)
    branch.written = 1
    assert further_segments(run_of(turn([7], [8], forced=1), turn([1], [2, 5], forced=1), branch=branch)) == []


# ---- advantages and weights ----


def test_the_advantage_of_a_run_is_the_mean_over_its_rollouts_loss():
    advantages = torch.tensor([[1.0, 9.0, 4.0], [-2.0, -2.0, -2.0], [5.0, math.nan, 5.0]])
    mask = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 0]])
    assert run_advantages(advantages, mask).tolist() == [2.5, -2.0, 0.0]


def test_the_mean_of_equal_advantages_is_their_value_to_the_bit():
    value = torch.tensor(1 / 3)
    assert torch.equal(run_advantages(value.expand(1, 777), torch.ones(1, 777)), value[None])


def test_a_run_counts_once_in_a_mean_over_rollouts_and_its_rows_by_their_tokens():
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])  # the first two are one run
    owner = torch.tensor([0, 0, 1])
    # 3 rows of 2 runs: 3/2; of the first run's four tokens three are in one row.
    torch.testing.assert_close(row_weights(mask, owner, "grpo"), torch.tensor([1.125, 0.375, 1.5]))
    assert row_weights(mask, owner, "dr_grpo").tolist() == [1.5, 1.5, 1.5]
    assert row_weights(mask, owner, "dapo").tolist() == [1.0, 1.0, 1.0]


def test_a_run_without_loss_has_rows_without_weight():
    mask = torch.tensor([[0, 0], [0, 0], [1, 1]])
    assert row_weights(mask, torch.tensor([0, 0, 1]), "grpo").tolist() == [0.0, 0.0, 1.5]


def test_each_rollout_is_followed_by_its_segments():
    one = Segment(rollout_of([1], [2]), TokenScores(torch.zeros(1), torch.zeros(1)))
    flags, owner = in_order([[one, one], [], [one]])
    assert flags == [False, True, True, False, False, True]
    assert owner.tolist() == [0, 0, 0, 1, 2, 2]


# ---- as rows of the loss ----


def joined(loss_type="dapo", mask=None, old=None):
    """Two rollouts, of which the second has two segments; the policy that wrote them gave all tokens -1, or -2 and -3
    in the segments."""
    rollouts = [rollout_of([1], [2, 3]), rollout_of([1, 1, 1], [4], [5], [6])]
    batch = collate(rollouts, pad_token_id=0, device="cpu")
    scores = TokenScores(torch.full((2, 3), -1.0), torch.full((2, 3), 0.25))
    given = [rollout_of([8], [9], [9], [9, 9]), rollout_of([8, 8, 8, 8], [7])]
    written = TokenScores(torch.tensor([[-2.0] * 4, [-3.0] * 4]), torch.full((2, 4), 0.5))
    further = segments_of([[], given], written)
    mask = batch.policy_mask_BT if mask is None else torch.tensor(mask)
    base = torch.tensor([[1.0, 1.0, 0.0], [2.0, 50.0, 4.0]])
    credit = Credit(base, {"half": torch.full((1, 1), 0.5)}, mask, old_logps_BT=old)
    both = collate([*rollouts, *given], pad_token_id=0, device="cpu")
    return with_segments(Scores(batch, scores, scores, [1, 1]), credit, further, both, loss_type)


def test_rows_are_padded_together_prompts_on_the_left():
    scores, credit = joined()
    inputs = loss_inputs(scores, credit)
    assert inputs["prompt_ids"].tolist() == [[0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 8], [8, 8, 8, 8]]
    assert inputs["prompt_mask"].sum(dim=1).tolist() == [1, 3, 1, 4]
    assert inputs["completion_ids"].tolist() == [[2, 3, 0, 0], [4, 5, 6, 0], [9, 9, 9, 9], [7, 0, 0, 0]]
    assert inputs["completion_mask"].sum(dim=1).tolist() == [2, 3, 4, 1]
    assert inputs["tool_mask"].tolist() == [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1], [1, 0, 0, 0]]
    assert scores.sizes == [1, 3]


def test_segments_have_the_mean_of_their_rollouts_advantages_and_rollouts_their_own():
    scores, credit = joined()
    inputs = loss_inputs(scores, credit)
    # Of the second rollout, 2 and 4 carry loss, and the factor halves them.
    assert (inputs["advantages"] * inputs["tool_mask"]).tolist() == [
        [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 2.0, 0.0], [1.5, 0.0, 1.5, 1.5], [1.5, 0.0, 0.0, 0.0],
    ]  # fmt: skip


def test_the_old_policy_of_a_segment_is_the_one_that_wrote_it():
    scores, credit = joined()
    expected = [[-1.0] * 3 + [0.0]] * 2 + [[-2.0] * 4, [-3.0, 0.0, 0.0, 0.0]]
    assert loss_inputs(scores, credit)["old_per_token_logps"].tolist() == expected
    assert scores.behaviour.entropies_BT[2].tolist() == [0.5] * 4
    old = loss_inputs(*joined(old=torch.full((2, 3), -7.0)))["old_per_token_logps"]
    assert old[:2, 0].tolist() == [-7.0, -7.0] and old[2:, 0].tolist() == [-2.0, -3.0]


def test_a_rollout_without_loss_has_segments_without():
    _, credit = joined(mask=[[1, 1, 0], [0, 0, 0]])
    assert credit.loss_mask_BT.tolist() == [[1, 1, 0, 0], [0] * 4, [0] * 4, [0] * 4]
    assert not (credit.advantages_BT * credit.loss_mask_BT)[1:].any()


def test_the_engines_log_probabilities_come_along():
    batch = joined()[0].batch
    assert batch.engine_logps_BT[2].isnan().tolist() == [False, True, False, False]
    assert batch.engine_logps_BT[3].isnan().tolist() == [False, True, True, True]


def test_without_further_segments_nothing_is_touched():
    scores, credit = joined()
    same = with_segments(scores, credit, [[], [], [], []], scores.batch, "grpo")
    assert same[0] is scores and same[1] is credit


def mean_over_rows(inputs):
    """What TRL's loss of type grpo makes of numbers 1, 2, 3, .. per token, and of the advantages."""
    mask, advantages = inputs["tool_mask"], inputs["advantages"]
    values = torch.arange(1.0, 1.0 + mask.shape[1]) * advantages * mask
    return (values.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean().item()


def test_the_loss_is_a_mean_over_runs_of_means_over_all_of_their_tokens():
    inputs = loss_inputs(*joined("grpo"))
    first = (0.5 * 1 + 0.5 * 2) / 2
    second = ((1.0 * 1 + 2.0 * 3) + (1.5 * 1 + 1.5 * 3 + 1.5 * 4) + 1.5 * 1) / 6
    assert mean_over_rows(inputs) == pytest.approx((first + second) / 2)
    filled = with_idle_rows(inputs, 6, "grpo")
    assert mean_over_rows(filled) == pytest.approx((first + second) / 2)  # rows that fill up change nothing
    assert mean_over_rows(without_idle_rows(filled, 5)) == pytest.approx((first + second) / 2)  # nor those left out
