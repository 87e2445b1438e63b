"""Throughput of the sandbox's pool against one cold process per call, in one run on one machine.

Three ways of running the same program, all under bubblewrap with the same view of the file system:

- pool: `PythonSandbox`, workers started before the clock.
- cold, libraries: a new sandbox per call, whose interpreter imports numpy and sympy, as a pool's worker has done. The
  peer for programs that use them.
- cold, bare: a new sandbox per call and an interpreter that imports only what the program does. The peer for programs
  that use no library, and the cheapest way to run a program in isolation without a pool.

Each is called from as many threads as the pool has workers. Rounds alternate, so that other load on the machine hits
all ways alike; the ratio is that of the medians.

    python benchmarks/sandbox_throughput.py [--workers 2] [--seconds 3] [--rounds 5] [--check]

`--check` exits with 1 where the pool has less than 20 times the throughput of cold processes with the same libraries.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from appo.tools import PythonSandbox
from appo_sandbox.launch import bubblewrap, interpreter, packages

LEAST = 20
PROGRAMS = {
    "print(1 + 1)": "print(1 + 1)",
    "numpy and sympy": (
        "import numpy as np\nimport sympy as sp\nx = sp.symbols('x')\n"
        "print(sp.factor(x**3 - x), np.linalg.det(np.diag([1.0, 2.0, 3.0])))"
    ),
}


def cold(head: str) -> Callable[[str], str]:
    """A way of running a program in a process of its own, after `head`."""
    path = f"import sys\nsys.path += {packages()!r}\n"
    options = {"stdin": subprocess.DEVNULL, "env": {"OPENBLAS_NUM_THREADS": "1"}, "text": True}

    def run(code: str) -> str:
        command = [*bubblewrap().prefix, interpreter(), "-S", "-s", "-B", "-c", path + head + code]
        return subprocess.run(command, capture_output=True, check=True, **options).stdout.rstrip()

    return run


def throughput(way: Callable[[str], str], code: str, expected: str, threads: int, seconds: float) -> float:
    """Calls per second of `threads` threads that call for `seconds`."""
    begin = time.perf_counter()

    def work(_: int) -> int:
        for calls in itertools.count(1):
            if (text := way(code)) != expected:
                raise RuntimeError(f"{text!r} instead of {expected!r}")
            if time.perf_counter() - begin > seconds:
                return calls

    with ThreadPoolExecutor(threads) as pool:
        calls = sum(pool.map(work, range(threads)))
    return calls / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--seconds", type=float, default=3.0, help="per way and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    with PythonSandbox(workers=arguments.workers) as sandbox:
        ways: dict[str, Callable[[str], str]] = {
            "pool": lambda code: sandbox(code).text,
            "cold, libraries": cold("import numpy, sympy\n"),
            "cold, bare": cold(""),
        }
        begin = time.perf_counter()
        for _ in range(sandbox.workers):
            sandbox("1")
        print(f"{sandbox.workers} workers, ready after {time.perf_counter() - begin:.2f} s")
        print(f"{'program':<18}{'way':<18}{'calls/s':>9}{'rounds':>18}{'pool is':>12}")
        times = []
        for name, code in PROGRAMS.items():
            expected = sandbox(code).text
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(arguments.rounds):
                for way, run in ways.items():
                    rates[way].append(throughput(run, code, expected, sandbox.workers, arguments.seconds))
            pool = statistics.median(rates["pool"])
            for way, values in rates.items():
                middle = statistics.median(values)
                spread = f"{min(values):.1f} to {max(values):.1f}"
                print(f"{name:<18}{way:<18}{middle:>9.1f}{spread:>18}{pool / middle:>10.1f} x")
            times.append(pool / statistics.median(rates["cold, libraries"]))
    each = ", ".join(f"{ratio:.1f} ({name})" for ratio, name in zip(times, PROGRAMS, strict=True))
    print(f"the pool to cold processes with the same libraries: {each}; at least {LEAST}")
    if arguments.check and min(times) < LEAST:
        sys.exit(1)


if __name__ == "__main__":
    main()
