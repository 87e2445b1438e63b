"""What tests of methods share: trees, scores and a writer that are built by hand, without any model."""

import math
from dataclasses import dataclass, field

import torch

from appo.methods import open_method
from appo.rollout.scoring import Scores, TokenScores, collate
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout, ToolCall


@dataclass
class Settings:
    """What a method may know of a run (`appo.methods.Setting`)."""

    num_generations: int | None = 4
    success_reward: float = 1.0
    epsilon: float = 0.2
    epsilon_high: float | None = 0.28
    loss_type: str = "grpo"
    mask_truncated_completions: bool = False


def make_method(name, options=None, **settings):
    return open_method(name, options, Settings(**settings))


def rollout_of(length=4, reward=None):
    rollout = Rollout([1], reward=reward)
    rollout.append(list(range(5, 5 + length)), [-1.0] * length)
    return rollout


def add_branch(tree, parent, position, reward=None, length=1):
    """A branch of `rollouts[parent]` that writes `length` tokens from `position` on."""
    branch = tree.rollouts[parent].prefix(position)
    branch.append([90] * length, [-1.0] * length)
    branch.reward = reward
    tree.add_branch(branch, parent, position)
    return branch


def make_tree(rewards, branches=(), *, length=4):
    """Initial rollouts of `length` policy tokens, and branches as (parent, position, reward)."""
    tree = RolloutTree({})
    for reward in rewards:
        tree.add_initial(rollout_of(length, reward))
    for parent, position, reward in branches:
        add_branch(tree, parent, position, reward)
    return tree


def rollout_with_turns(results, reward=None, last=2):
    """Two policy tokens that call and a result of two tokens, as often as there are results; then `last` more."""
    rollout = Rollout([1], reward=reward)
    for result in results:
        start = len(rollout.completion_ids)
        rollout.append([5, 6], [-1.0] * 2)
        rollout.append([7, 7], None)
        rollout.tool_calls.append(ToolCall("search", "x", start + 1, start + 2, result, None, start + 2, start + 4))
    rollout.append([8] * last, [-1.0] * last)
    return rollout


def tree_with_turns(*rollouts):
    tree = RolloutTree({})
    for rollout in rollouts:
        tree.add_initial(rollout)
    return tree


def log_ratios(omega, half_life=32.0):
    """The log-ratios (B, T) that Eq. 4 makes these Omega of, all tokens being the policy's."""
    log_omega_BT = torch.tensor(omega).double().log()
    following_BT = torch.nn.functional.pad(log_omega_BT[:, 1:], (0, 1))
    return (log_omega_BT - 2 ** (-1 / half_life) * following_BT).float()


def make_scores(trees, trains="initial", *, log_ratio=0.0, entropies=0.0, collisions=None):
    """Scores of the rollouts that carry loss: the writing policy's log-probabilities are -1.

    Args:
        log_ratio, entropies, collisions: (B, T) of the present policy, or one number for all.
    """
    rollouts = [rollout for tree in trees for rollout in tree.trained(trains)]
    batch = collate(rollouts, pad_token_id=0, device="cpu")
    shape = batch.completion_ids_BT.shape

    def full(values):
        return None if values is None else torch.as_tensor(values, dtype=torch.float32).expand(shape).clone()

    old = TokenScores(full(-1.0), full(entropies), full(collisions))
    new = TokenScores(old.logps_BT + full(log_ratio), old.entropies_BT, old.log_sum_sq_probs_BT)
    return Scores(batch, old, new, [len(tree.trained(trains)) for tree in trees])


def end_with_one_token(rollout):
    rollout.append([90], [-1.0])
    rollout.reward = 1.0


@dataclass
class ScriptedWriter:
    """A writer (`appo.methods.Writer`) whose rollouts are scripted, and that notes what it is asked for.

    Args:
        end: Writes a rollout or a branch to its end, in place, with its reward.
        entropy: The entropy of every token of a rollout, or one per token.
    """

    end: object = end_with_one_token
    entropy: object = lambda rollout: 0.0
    vocab_size: int = 100
    asked: list = field(default_factory=list)

    def write(self, rows, size, stream=0):
        self.asked.append(("write", rows, size, stream))
        trees = []
        for row in rows:
            tree = RolloutTree(row, f"task {len(self.asked)}")
            for _ in range(size):
                rollout = Rollout([1])
                self.end(rollout)
                tree.add_initial(rollout)
            trees.append(tree)
        return trees

    def branch(self, trees, points, stream, *, branches_branch=False, counted=True):
        assert all(any(point.tree is tree for tree in trees) for point in points)
        self.asked.append(("branch", [(p.rollout, p.position) for p in points], stream, branches_branch, counted))
        for point in points:
            branch = point.tree.rollouts[point.rollout].prefix(point.position)
            self.end(branch)
            branch.branch_score, branch.branch_rank = point.score, point.rank
            point.tree.add_branch(branch, point.rollout, point.position)

    def score(self, rollouts, *, remember=False):
        self.asked.append(("score", len(rollouts), remember))
        batch = collate(rollouts, pad_token_id=0, device="cpu")
        entropies_BT = torch.full(batch.completion_ids_BT.shape, math.nan)
        for row, rollout in enumerate(rollouts):
            entropies_BT[row, : len(rollout.completion_ids)] = torch.as_tensor(self.entropy(rollout))
        return batch, TokenScores(torch.full(entropies_BT.shape, -1.0), entropies_BT)

    def generator(self, stream):
        self.asked.append(("generator", stream))
        return torch.Generator().manual_seed(stream)

    def draw_rows(self, count, generator):
        self.asked.append(("draw_rows", count))
        return [{"number": n} for n in torch.randint(1000, (count,), generator=generator).tolist()]

    def calls(self, verb):
        """What one verb was asked for."""
        return [call[1:] for call in self.asked if call[0] == verb]

    @property
    def points(self):
        """(rollout, position) of every branch, in order."""
        return [point for points, *_ in self.calls("branch") for point in points]
