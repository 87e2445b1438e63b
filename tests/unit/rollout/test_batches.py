"""What a checkpoint holds of rollouts is what they were."""

import torch

from appo.rollout.batches import MiniBatch, load_mini_batches, save_mini_batches
from appo.rollout.scoring import TokenScores, collate
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout, ToolCall


def pack(rollouts):
    return collate(rollouts, pad_token_id=0, pad_to_multiple_of=None, device=torch.device("cpu"))


def test_a_rollout_is_read_back_to_the_digit(tmp_path):
    rollout = Rollout([5, 6], "mother boss e1")
    rollout.append([7, 8, 9], [-0.1, -1 / 3, -2.5])
    rollout.tool_calls = [ToolCall("search", {"query": "mother e1"}, 0, 2, "e3", None, 3, 3)]
    rollout.finish_reason, rollout.reward, rollout.rewards = "stop", 0.1 + 0.2, {"exact": 0.1 + 0.2}
    rollout.alternatives = [[7, -0.1], [11, -2 / 3]]
    tree = RolloutTree({"prompt": "mother boss e1"}, "0.0.0")
    tree.add_initial(rollout)
    batch = pack([rollout])
    part = MiniBatch([tree], batch, TokenScores(torch.zeros(1, 3), torch.ones(1, 3)), 4, [1])
    save_mini_batches(tmp_path, 0, [part], {"seed": 1})
    ((read,), rest) = load_mini_batches(tmp_path, 0, lambda tree: tree.initial, pack)
    assert rest == {"seed": 1}
    assert vars(read.trees[0].rollouts[0]) == vars(rollout)
    assert type(read.trees[0].rollouts[0].alternatives[0][0]) is int
