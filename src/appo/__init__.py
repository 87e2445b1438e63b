"""APPO: reinforcement learning that teaches language-model agents to use tools (arXiv 2606.12384).

`APPOTrainer` and `APPOConfig` extend TRL's `GRPOTrainer` and `GRPOConfig`; `appo.algorithm` holds the method itself as
pure functions of tensors. Names below are imported when first used, so that `import appo` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from appo.agent.agent import Agent
    from appo.agent.answer import AgentAnswer
    from appo.config import APPOConfig
    from appo.environments.agents import AgentProgram
    from appo.environments.base import Demonstration, Segment, Task
    from appo.environments.rows import rows_task
    from appo.rollout.tree import RolloutTree
    from appo.rollout.types import Rollout, ToolCall
    from appo.trainer import APPOTrainer

__version__ = "0.1.0"

_HOMES = {
    "APPOConfig": "appo.config",
    "APPOTrainer": "appo.trainer",
    "Agent": "appo.agent.agent",
    "AgentAnswer": "appo.agent.answer",
    "AgentProgram": "appo.environments.agents",
    "Demonstration": "appo.environments.base",
    "Rollout": "appo.rollout.types",
    "RolloutTree": "appo.rollout.tree",
    "Segment": "appo.environments.base",
    "Task": "appo.environments.base",
    "ToolCall": "appo.rollout.types",
    "rows_task": "appo.environments.rows",
}
__all__ = [
    "APPOConfig", "APPOTrainer", "Agent", "AgentAnswer", "AgentProgram", "Demonstration", "Rollout", "RolloutTree",
    "Segment", "Task", "ToolCall", "rows_task",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'appo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
