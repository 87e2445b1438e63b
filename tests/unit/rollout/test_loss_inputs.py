"""From scores and credit to what TRL's loss takes: rows, micro-batches, and rollouts that may be left out."""

import torch
from method_parts import make_scores, make_tree

from appo.methods import Credit
from appo.rollout.loss_inputs import busy_rows, loss_inputs, split, with_idle_rows, without_idle_rows


def made(old_logps=None):
    scores = make_scores([make_tree([1.0, 0.0])], log_ratio=0.5)
    mask_BT = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    factors = {"factor": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
    credit = Credit(torch.tensor([[2.0], [-1.0]]).expand(2, 4), factors, mask_BT, old_logps_BT=old_logps)
    return scores, credit, loss_inputs(scores, credit)


def test_the_loss_takes_the_product_of_the_credit_and_its_mask():
    scores, credit, inputs = made()
    assert inputs["advantages"].tolist() == [[2.0, 4.0, 6.0, 8.0], [-1.0, -2.0, -3.0, -4.0]]
    assert inputs["tool_mask"] is credit.loss_mask_BT
    assert inputs["prompt_ids"] is scores.batch.prompt_ids_BP
    assert inputs["prompt_mask"] is scores.batch.prompt_mask_BP
    assert inputs["completion_ids"] is scores.batch.completion_ids_BT
    assert inputs["completion_mask"] is scores.batch.completion_mask_BT


def test_the_old_policy_is_the_writing_one_unless_the_method_names_another():
    scores, _, inputs = made()
    assert inputs["old_per_token_logps"] is scores.behaviour.logps_BT
    assert not torch.equal(scores.behaviour.logps_BT, scores.current.logps_BT)
    other = torch.full((2, 4), -3.0)
    assert made(other)[2]["old_per_token_logps"] is other


def test_micro_batches_are_equal_parts_in_order_with_the_tokens_of_the_generation():
    inputs, items = {"row": torch.arange(6), "twice": 2 * torch.arange(6)[:, None]}, torch.tensor(77)
    parts = split(inputs, 3, items)
    assert [part["row"].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert [part["twice"].tolist() for part in parts] == [[[0], [2]], [[4], [6]], [[8], [10]]]
    assert all(part["num_items_in_batch"] is items for part in parts)


def test_where_rows_do_not_divide_the_first_parts_have_one_more():
    parts = split({"row": torch.arange(5)}, 2, torch.tensor(1))
    assert [part["row"].tolist() for part in parts] == [[0, 1, 2], [3, 4]]


def test_idle_rows_are_left_out_and_the_mean_stays_that_of_all():
    advantages = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0], [1.0, 1.0], [0.5, 0.5]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1], [1, 1]])  # row 2 has its only credit outside the mask
    found = without_idle_rows({"advantages": advantages, "tool_mask": mask, "row": torch.arange(5)}, size=4)
    # Three rows carry loss, and the first idle one fills up. A mean over 4 of 4/5 is the sum over 5.
    assert found["row"].tolist() == [0, 1, 3, 4]
    torch.testing.assert_close(found["advantages"], advantages[[0, 1, 3, 4]] * 0.8)


def test_a_row_is_busy_where_a_token_of_the_loss_has_an_advantage():
    advantages, mask = torch.tensor([[0.0, -1.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1, 1], [0, 1], [1, 1]])
    assert busy_rows({"advantages": advantages, "tool_mask": mask}).tolist() == [True, False, False]


def test_rows_that_fill_up_carry_no_loss_and_the_mean_over_rollouts_stays():
    inputs = {
        "advantages": torch.tensor([[3.0, 6.0], [1.0, 0.0]]),
        "tool_mask": torch.ones(2, 2),
        "row": torch.arange(2),
    }
    found = with_idle_rows(inputs, 3, "grpo")
    assert found["row"].tolist() == [0, 1, 0]
    assert found["tool_mask"].tolist() == [[1, 1], [1, 1], [0, 0]]
    # A mean over 3 of 3/2 is the mean over 2.
    assert found["advantages"].tolist() == [[4.5, 9.0], [1.5, 0.0], [0.0, 0.0]]
    assert inputs["tool_mask"].tolist() == [[1, 1], [1, 1]]


def test_a_loss_that_is_a_mean_over_tokens_is_not_scaled_when_rows_are_filled_up():
    inputs = {"advantages": torch.tensor([[3.0]]), "tool_mask": torch.ones(1, 1)}
    assert with_idle_rows(inputs, 2, "dapo")["advantages"].tolist() == [[3.0], [0.0]]
