"""Planning with known truth: blocks world, gripper and ferry, where search gives the value of every move."""

from appo.environments.planning.task import TASK

__all__ = ["TASK"]
