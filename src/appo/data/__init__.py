"""Data: the paper's RL sets, the benchmarks, and rows of files and of the hub.

Importing it loads neither torch nor `datasets`.
"""

from appo.data.benchmarks import BENCHMARKS, BenchmarkRow, load_benchmark
from appo.data.content import without_shared
from appo.data.rl_sets import load_rl_data, overlap
from appo.data.rows import DataError, read_rows

__all__ = [
    "BENCHMARKS",
    "BenchmarkRow",
    "DataError",
    "load_benchmark",
    "load_rl_data",
    "overlap",
    "read_rows",
    "without_shared",
]
