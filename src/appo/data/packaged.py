"""Benchmarks that packages bring: no file, no hub, and a prompt of their own.

    rows = load_packaged("humaneval", limit=20)

They measure transfer: what a model that was trained on something else does with functions and lists.

Left out on purpose: the benchmarks of the paper, which lie on the hub or in files (`benchmarks.py`).
"""

from appo.data.benchmarks import BenchmarkRow, DataError

#: Their names, with their metrics: `tests` runs the answer's program, `verifier` asks the package.
PACKAGED = {"humaneval": "tests", "list_functions": "verifier"}


def load_packaged(name: str, limit: int | None = None) -> list[BenchmarkRow]:
    """Loads a benchmark.

    Args:
        name: One of `PACKAGED`.
        limit: Only the first so many rows.

    Raises:
        DataError: for another name.
        MissingPackage: where the package is not installed.
    """
    if name == "humaneval":
        from appo.data.humaneval import humaneval_rows

        return humaneval_rows()[:limit]
    if name == "list_functions":
        from appo.data.list_functions import list_functions_rows

        return list_functions_rows()[:limit]
    raise DataError(f"no package brings a benchmark {name!r}; there are {', '.join(PACKAGED)}.")
