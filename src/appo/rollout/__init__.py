"""Rollouts: what they hold, how they are written, how they are scored."""

from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout, ToolCall

__all__ = ["Rollout", "RolloutTree", "ToolCall"]
