"""The mathematics of APPO: pure functions on tensors, no model, no trainer.

`future_value` (Eq. 4) and token entropies (Eq. 3, measured elsewhere) give `branching_score` (Eq. 5), from which
`branching_priority` and `allocate_budget` choose where to branch; the rewards that come back give
`dual_group_advantage` (Eq. 6) and `future_factor` (Eq. 7). Every step has its rivals from the paper's
ablations beside it. Nothing is here twice: what is exported is what training runs.
"""

from appo.algorithm.advantages import (
    dual_group_advantage,
    future_factor,
    group_advantage,
    pooled_advantage,
    prefix_advantage,
)
from appo.algorithm.branch_selection import allocate_budget, branching_priority
from appo.algorithm.branching_score import (
    branching_score,
    entropy_score,
    future_value_score,
    random_score,
    tool_boundary_score,
    weighted_sum_score,
)
from appo.algorithm.fork_weight import fork_weight
from appo.algorithm.future_value import FUTURE_CLIP, clip_future_value, future_value, half_life_to_gamma
from appo.algorithm.tree_advantage import tree_advantage

__all__ = [
    "FUTURE_CLIP",
    "allocate_budget",
    "branching_priority",
    "branching_score",
    "clip_future_value",
    "dual_group_advantage",
    "entropy_score",
    "fork_weight",
    "future_factor",
    "future_value",
    "future_value_score",
    "group_advantage",
    "half_life_to_gamma",
    "pooled_advantage",
    "prefix_advantage",
    "random_score",
    "tool_boundary_score",
    "tree_advantage",
    "weighted_sum_score",
]
