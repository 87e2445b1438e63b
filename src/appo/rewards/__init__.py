"""Rewards for completions with a known truth: answers, equality, F1, format, and the paper's reward of them all.

`docs/rewards.md` has the decisions and the known misses.
"""

from appo.rewards.answers import extract_answer, format_errors
from appo.rewards.equality import math_equal
from appo.rewards.functions import (
    completion_text,
    exact_match_reward_func,
    f1_reward_func,
    format_reward_func,
    math_reward_func,
    paper_reward_func,
    weighted,
)
from appo.rewards.paper import paper_reward
from appo.rewards.words import exact_match, f1

__all__ = [
    "completion_text",
    "exact_match",
    "exact_match_reward_func",
    "extract_answer",
    "f1",
    "f1_reward_func",
    "format_errors",
    "format_reward_func",
    "math_equal",
    "math_reward_func",
    "paper_reward",
    "paper_reward_func",
    "weighted",
]
