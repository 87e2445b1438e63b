"""The key equations of APPO's rivals, each by its own paper: advantages, a clipping coefficient, a branching rule.

As in `advantages`, and unlike in most released code, standard deviations are the population's, and `eps` is a
threshold that is added to nothing. Left out: CISPO's and DAPO's losses, which are TRL's, and ARPO's soft estimation,
which is the plain advantage of a rollout on all of its tokens.

Shape suffixes: B: rollouts of the batch, any order, R: rollouts of one task (initial and branches), G: tasks,
N: rollouts of a task, T: tokens of the completion, S: steps (turns) of one rollout, 1: kept for broadcasting.
"""

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from appo.algorithm._checks import check_count, check_matrices


def batch_advantage(rewards_B: Tensor, group_B: Tensor | None = None, *, eps: float = 1e-6) -> Tensor:
    """REINFORCE++ (arXiv 2501.03262): rewards normalised over the whole batch ("global advantage normalization").

    With `group_B` it is "REINFORCE++ w/ baseline": the mean of its group is subtracted from each reward first, and the
    batch statistics are those of the differences. The KL term, which plain REINFORCE++ has in its reward, is the
    caller's.

    Args:
        rewards_B: finite, float32 or float64.
        group_B: integer, the task of each rollout.
        eps: a batch whose standard deviation is not above it gives 0.

    Returns:
        (B,) in the dtype of `rewards_B`, without gradient.

    Raises:
        ValueError: wrong shapes or dtypes, a reward that is NaN or infinite.
    """
    _check_vector("rewards_B", rewards_B)
    value_B = rewards_B
    if group_B is not None:
        _check_index("group_B", group_B, "rewards_B", rewards_B)
        value_B = _group_scores(rewards_B, group_B, None)
    return _group_scores(value_B, _one_group(value_B), eps).to(rewards_B.dtype)


def mixed_groups(rewards_GN: Tensor, *, eps: float = 1e-6) -> Tensor:
    """DAPO's dynamic sampling (arXiv 2503.14476, Section 3.2): which tasks are kept, as their rewards differ.

    Args:
        rewards_GN: float32 or float64; NaN: not scored, and left out. The paper's are right or wrong.
        eps: rewards are all equal if no two are further apart than this.

    Returns:
        bool (G,).

    Raises:
        ValueError: a wrong shape or dtype, an infinite reward.
    """
    check_matrices(rewards_GN=rewards_GN)
    _check_finite("rewards_GN", rewards_GN, missing=True)
    rewards_GN = rewards_GN.detach().double()
    distance_GNN = rewards_GN.unsqueeze(2) - rewards_GN.unsqueeze(1)
    return (distance_GNN > eps).flatten(1).any(dim=1)  # never true of NaN


def gppo_coefficient(log_ratio_BT: Tensor, advantages_BT: Tensor, *, low: float, high: float) -> Tensor:
    """GPPO (Klear-Reasoner, arXiv 2508.07629, its gradient expression): what multiplies `A * grad log pi`.

    The ratio, but at most `1 + high` where A >= 0 and at least `1 - low` where A < 0: a clipped token, which PPO gives
    no gradient, keeps one of bounded size. A ratio above 1 with A < 0 is not bounded; the released code adds a dual
    clip there, which the equation does not have.

    Args:
        log_ratio_BT: log of the new over the old probability, float32 or float64.
        advantages_BT: same shape.
        low: in [0, 1].
        high: at least 0.

    Returns:
        (B, T) in the dtype of `log_ratio_BT`, without gradient: a loss is `-(coefficient * A * log_pi)`.

    Raises:
        ValueError: wrong shapes or dtypes, `low` or `high` out of range.
    """
    check_matrices(log_ratio_BT=log_ratio_BT, advantages_BT=advantages_BT)
    if not 0 <= low <= 1:
        raise ValueError(f"low must be in [0, 1], got {low}.")
    if not high >= 0:
        raise ValueError(f"high must be at least 0, got {high}.")
    ratio_BT = log_ratio_BT.detach().double().exp()
    coefficient_BT = torch.where(advantages_BT < 0, ratio_BT.clamp(min=1 - low), ratio_BT.clamp(max=1 + high))
    return coefficient_BT.to(log_ratio_BT.dtype)


def turn_entropy(entropies_T: Tensor, start: int, end: int, *, window: int = 20) -> float:
    """ARPO (arXiv 2507.19849, Section 3.1): mean entropy of the first tokens of a turn, for `arpo_branch_probability`.

    The released code takes 20 tokens, and the entropy of the 10 likeliest tokens of each; here it is Eq. 3's.

    Args:
        entropies_T: token entropies in nats; those of the turn finite, float32 or float64.
        start: first token of the turn.
        end: one after its last token.
        window: most tokens to average.

    Raises:
        ValueError: a wrong shape or dtype, an empty turn or one beyond the tokens, NaN in it, `window` below 1.
    """
    _check_vector("entropies_T", entropies_T, finite=False)
    if not 0 <= start < end <= len(entropies_T):
        raise ValueError(f"start and end must have 0 <= start < end <= {len(entropies_T)}, got {start} and {end}.")
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}.")
    first_T = entropies_T[start : min(end, start + window)]
    _check_finite("entropies_T", first_T, offset=start)
    return first_T.detach().double().mean().item()


def arpo_branch_probability(
    entropy: float, first_entropy: float, vocab_size: int, *, base: float = 0.5, weight: float = 0.2
) -> float:
    """ARPO (arXiv 2507.19849, Section 3.1): with which probability a rollout branches after a tool result.

    `base + weight * dH`, clamped to [0, 1], with `dH = (entropy - first_entropy) / log(vocab_size)`; the defaults are
    the released ones. The paper compares this with a threshold; the released code draws a uniform number, as here.

    Args:
        entropy: `turn_entropy` of the turn after the tool result.
        first_entropy: `turn_entropy` of the rollout's first turn.
        vocab_size: tokens of the vocabulary.
        base: probability at an unchanged entropy.
        weight: what a whole `log(vocab_size)` of entropy adds.

    Raises:
        ValueError: an entropy that is NaN or infinite, `vocab_size` below 2.
    """
    for name, value in (("entropy", entropy), ("first_entropy", first_entropy)):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}.")
    if vocab_size < 2:
        raise ValueError(f"vocab_size must be at least 2, got {vocab_size}.")
    delta = (entropy - first_entropy) / math.log(vocab_size)
    return min(1.0, max(0.0, base + weight * delta))


def shared_prefix_advantage(advantages_R: Tensor, parent_R: Tensor, position_R: Tensor, *, length: int) -> Tensor:
    """ARPO's hard estimation (arXiv 2507.19849, Section 3.2): a shared token has the mean advantage of its rollouts.

    Args:
        advantages_R: normalised reward of each rollout, float32 or float64; NaN: not scored, and in no mean.
        parent_R: integer, the rollout that a branch left; -1: an initial rollout. A parent may be a branch.
        position_R: integer, first token of a rollout's own, in [0, length]; 0 for an initial rollout. The tokens
            before it are those of the parent, which may itself have them from its parent.
        length: T of the result.

    Returns:
        (R, T) in the dtype of `advantages_R`, without gradient. Where no other rollout has the token it is the
        rollout's own advantage, also behind its end; 0 where no scored rollout has it.

    Raises:
        ValueError: wrong shapes or dtypes, an infinite advantage, a parent, position or length out of
            range, parents in a circle.
    """
    _check_vector("advantages_R", advantages_R, finite=False)
    _check_finite("advantages_R", advantages_R, missing=True)
    _check_index("parent_R", parent_R, "advantages_R", advantages_R)
    _check_index("position_R", position_R, "advantages_R", advantages_R)
    check_count(length=length)
    parent_R, position_R = parent_R.long(), position_R.long()
    _check_forest(parent_R, position_R, length)
    rollouts = len(advantages_R)
    token_T = torch.arange(length, device=advantages_R.device)
    # Whose own token each one is. A step walks one generation up; there are no more generations than rollouts.
    owner_RT = torch.arange(rollouts, device=advantages_R.device).unsqueeze(1).repeat(1, length)
    for _ in range(rollouts):
        inherited_RT = token_T < position_R[owner_RT]
        if not inherited_RT.any():
            break
        owner_RT = torch.where(inherited_RT, parent_R[owner_RT], owner_RT)
    value_RT = advantages_R.detach().double().unsqueeze(1).expand(rollouts, length)
    total_RT = torch.zeros_like(value_RT).scatter_add(0, owner_RT, value_RT.nan_to_num(nan=0.0))
    count_RT = torch.zeros_like(value_RT).scatter_add(0, owner_RT, (~value_RT.isnan()).double())
    return (total_RT / count_RT.clamp(min=1.0)).gather(0, owner_RT).to(advantages_R.dtype)


def tree_group_advantage(rewards_R: Tensor, tree_R: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Tree-GRPO (arXiv 2509.21240, Section 3): intra-tree plus inter-tree advantage, a sum and not a mean.

    The reward normalised against the rollouts of its tree, plus the reward normalised against all of the task.

    Args:
        rewards_R: finite, float32 or float64.
        tree_R: integer, the tree of each rollout.
        eps: a group whose standard deviation is not above it has the term 0.

    Returns:
        (R,) in the dtype of `rewards_R`, without gradient.

    Raises:
        ValueError: wrong shapes or dtypes, a reward that is NaN or infinite.
    """
    _check_vector("rewards_R", rewards_R)
    _check_index("tree_R", tree_R, "rewards_R", rewards_R)
    intra_R = _group_scores(rewards_R, tree_R, eps)
    return (intra_R + _group_scores(rewards_R, _one_group(rewards_R), eps)).to(rewards_R.dtype)


def step_group_advantage(
    rewards_R: Tensor,
    anchors: Sequence[Sequence[Hashable]],
    *,
    gamma: float = 0.95,
    weight: float = 1.0,
    normalise: bool = True,
    eps: float = 1e-6,
) -> list[list[float]]:
    """GiGPO (arXiv 2505.10978, Section 4): `A_E(rollout) + weight * A_S(step)` for each step.

    A_E is the rollout's reward relative to the task's rollouts. A_S is the step's discounted return relative to all
    steps of the task that start in the same anchor state; a step alone in its state has 0. A rollout's reward comes
    with its last step, so that the return is `gamma ** steps_left * reward`, and the last step has none left.

    Args:
        rewards_R: finite, float32 or float64.
        anchors: for each rollout the state in which each of its steps starts.
        gamma: discount of one step, in [0, 1].
        weight: the paper's omega.
        normalise: divide both terms by their group's standard deviation (F_norm = std); False: by 1 (F_norm = 1).
        eps: a group whose standard deviation is not above it has the term 0, if `normalise`.

    Returns:
        For each rollout the advantage of each step.

    Raises:
        ValueError: a wrong shape or dtype, a reward that is NaN or infinite, another number of anchor lists than
            rewards, `gamma` out of range.
    """
    _check_vector("rewards_R", rewards_R)
    if len(anchors) != len(rewards_R):
        raise ValueError(f"anchors has {len(anchors)} rollouts, but rewards_R has {len(rewards_R)}.")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be in [0, 1], got {gamma}.")
    limit = eps if normalise else None
    episode = _group_scores(rewards_R, _one_group(rewards_R), limit).tolist()
    states: dict[Hashable, int] = {}
    group = [states.setdefault(state, len(states)) for row in anchors for state in row]
    rows = list(zip(rewards_R.tolist(), anchors, strict=True))
    returns = [gamma**left * reward for reward, row in rows for left in reversed(range(len(row)))]
    step_scores = iter(_group_scores(torch.tensor(returns).double(), torch.tensor(group).long(), limit).tolist())
    return [[a + weight * next(step_scores) for _ in row] for a, row in zip(episode, anchors, strict=True)]


def vine_advantage(values_S: Tensor, reward: float) -> Tensor:
    """VinePPO (arXiv 2410.01679, Section 4): `V(s_{t+1}) - V(s_t)`, undiscounted; after the last step, the reward.

    Args:
        values_S: value of the state in which each step starts, the mean reward of rollouts from there; float32 or
            float64. NaN: no value; the step is merged with the one before it, and all steps of a merged span have
            the span's advantage.
        reward: the rollout's own.

    Returns:
        (S,) in the dtype of `values_S`, without gradient.

    Raises:
        ValueError: a wrong shape or dtype, no steps, no value for the first step, an infinite value or reward.
    """
    _check_vector("values_S", values_S, finite=False)
    if len(values_S) == 0 or values_S[0].isnan():
        raise ValueError("values_S must begin with the value of the first state, which no earlier step can replace.")
    if values_S.isinf().any() or not math.isfinite(reward):
        raise ValueError("values_S and reward must not be infinite, nor reward NaN.")
    present_S = ~values_S.isnan()
    start_S = values_S.detach().double()[present_S]
    end_S = torch.cat([start_S[1:], start_S.new_tensor([reward])])
    return (end_S - start_S)[present_S.cumsum(0) - 1].to(values_S.dtype)


def _group_scores(value_R: Tensor, group_R: Tensor, eps: float | None) -> Tensor:
    """`(value - mean) / std` within each group, 0 where std <= eps; without `eps` only `value - mean`. float64."""
    value_R = value_R.detach().double()
    _, group_R, count_G = group_R.unique(return_inverse=True, return_counts=True)
    zero_G = value_R.new_zeros(len(count_G))
    centred_R = value_R - (zero_G.index_add(0, group_R, value_R) / count_G)[group_R]
    if eps is None:
        return centred_R
    std_G = (zero_G.index_add(0, group_R, centred_R.square()) / count_G).sqrt()
    return centred_R / std_G.masked_fill(std_G <= eps, float("inf"))[group_R]


def _one_group(value_R: Tensor) -> Tensor:
    return torch.zeros_like(value_R, dtype=torch.long)


def _check_vector(name: str, vector: Tensor, *, finite: bool = True) -> None:
    if vector.dim() != 1:
        raise ValueError(f"{name} must have one dimension, got shape {tuple(vector.shape)}.")
    if not vector.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor, got {vector.dtype}.")
    if finite:
        _check_finite(name, vector)


def _check_finite(name: str, tensor: Tensor, *, offset: int = 0, missing: bool = False) -> None:
    bad = (tensor.isinf() if missing else ~tensor.isfinite()).nonzero()
    if len(bad):
        place = bad[0].tolist()
        value = tensor[tuple(place)].item()
        raise ValueError(f"{name} holds {value} at {[i + offset for i in place]}, but must be finite there.")


def _check_index(name: str, index: Tensor, like_name: str, like: Tensor) -> None:
    if index.shape != like.shape or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(
            f"{name} must be an integer tensor of shape {tuple(like.shape)}, as {like_name}, got {index.dtype} "
            f"{tuple(index.shape)}."
        )


def _check_forest(parent_R: Tensor, position_R: Tensor, length: int) -> None:
    rollouts = len(parent_R)
    if ((parent_R < -1) | (parent_R >= rollouts)).any():
        raise ValueError(f"parent_R must be in [0, {rollouts}), or -1 for an initial rollout.")
    if ((position_R < 0) | (position_R > length)).any():
        raise ValueError(f"position_R must be in [0, {length}], where `length` is the number of tokens.")
    if ((parent_R < 0) & (position_R > 0)).any():
        raise ValueError("position_R must be 0 for an initial rollout, which has no parent to share tokens with.")
    ancestor_R = parent_R
    for _ in range(rollouts):
        ancestor_R = torch.where(ancestor_R < 0, -1, parent_R[ancestor_R.clamp(min=0)])
    if (ancestor_R >= 0).any():
        raise ValueError("parent_R must lead every branch back to an initial rollout, but has a circle.")
