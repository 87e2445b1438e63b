"""Measuring a policy: success on the task that is trained on (success), and the benchmarks (benchmarks)."""

from appo.evaluation.success import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
