"""What a checkpoint holds of rollouts is what they were."""

import torch

from appo.rollout.batches import MiniBatch, load_mini_batches, save_mini_batches
from appo.rollout.further import Segment
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


def test_further_segments_are_read_back_with_their_scores(tmp_path):
    def segment(tokens, logp):
        rollout = Rollout([5])
        rollout.append(tokens, [-0.5] * len(tokens))
        return Segment(rollout, TokenScores(torch.full((len(tokens),), logp), torch.full((len(tokens),), -logp)))

    tree = RolloutTree({"prompt": "?"})
    for _ in range(3):
        tree.add_initial(Rollout([1], "?", [2], [1], [-0.5]))
    further = [[segment([7, 8, 9], -1 / 3), segment([6], -0.2)], [], [segment([4, 3], -0.1)]]

    def part(*more):
        return MiniBatch([tree], pack(tree.rollouts), TokenScores(torch.zeros(3, 1), torch.ones(3, 1)), 4, [3], *more)

    save_mini_batches(tmp_path, 0, [part([[], [], []]), part(further), part()], {})
    parts, _ = load_mini_batches(tmp_path, 0, lambda tree: tree.initial, pack)
    assert [[len(own) for own in part.further] for part in parts] == [[0, 0, 0], [2, 0, 1], []]
    for before, after in zip(further, parts[1].further, strict=True):
        for one, other in zip(before, after, strict=True):
            assert vars(one.rollout) == vars(other.rollout)
            assert torch.equal(one.scores.logps_BT, other.scores.logps_BT)
            assert torch.equal(one.scores.entropies_BT, other.scores.entropies_BT)
            assert other.scores.log_sum_sq_probs_BT is None
    assert torch.equal(parts[1].behaviour.entropies_BT, torch.ones(3, 1))
