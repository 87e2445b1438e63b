"""Measuring a policy: success on the task that is trained on (success), and the benchmarks (benchmarks, command)."""

from appo.data.benchmarks import BENCHMARKS, BenchmarkRow, load_benchmark
from appo.evaluation.success import Evaluation, evaluate, wilson_interval

__all__ = ["BENCHMARKS", "BenchmarkRow", "Evaluation", "evaluate", "load_benchmark", "wilson_interval"]
