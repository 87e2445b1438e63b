"""Warm worker processes for math-verify, safe to use from any thread and after a fork.

A call takes an idle worker for itself, or starts one if fewer than `MAX_WORKERS` are busy; otherwise it waits. A
worker that runs into its limit is gone, and the next call starts another (half a second). One that has died otherwise,
for example because the machine had no memory left, is replaced and the question asked once more. Workers end when
this process does, however it ends: their standard input does.

Left out on purpose: systems without POSIX signals and resource limits.
"""

import atexit
import functools
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time

MAX_WORKERS = max(1, min(4, os.cpu_count() or 1))
STARTUP_SECONDS = 120.0
_COMMAND = "import sys; sys.path[:] = sys.argv[1:]; from appo.rewards._math_worker import main; main()"


class WorkerUnavailable(RuntimeError):
    """No worker process could be started."""


class _WorkerDied(Exception):
    """A worker has died, and not of its limit: another may answer."""


class _NoVerdict(Exception):
    """What `lru_cache` does not remember."""


class _Worker:
    def __init__(self) -> None:
        path = [entry or os.getcwd() for entry in sys.path]
        # -I, then this process's own path: nothing in the working directory or the environment gets in between.
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", "-c", _COMMAND, *path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        if self._read_line(STARTUP_SECONDS) != b"ready":
            self.close()
            raise WorkerUnavailable("The process that runs math-verify did not start; import math_verify to see why.")

    def ask(self, prediction: str, truth: str, seconds: float) -> bool | None:
        """The verdict; None if the limit was reached. Raises `_WorkerDied`."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps([prediction, truth, seconds]).encode() + b"\n")
        except OSError as error:
            raise _WorkerDied from error
        # The worker's own limit is CPU time; this one is for a machine that gives it none.
        deadline = time.monotonic() + 10 * seconds + 10
        answer = self._read_line(deadline - time.monotonic())
        if not answer and time.monotonic() < deadline and self.process.wait() != -signal.SIGPROF:
            raise _WorkerDied
        return {b"1": True, b"0": False}.get(answer)

    def _read_line(self, seconds: float) -> bytes:
        assert self.process.stdout is not None
        pipe, line, deadline = self.process.stdout.fileno(), b"", time.monotonic() + seconds
        poller = select.poll()
        poller.register(pipe, select.POLLIN)
        while not line.endswith(b"\n"):
            remaining = deadline - time.monotonic()
            chunk = os.read(pipe, 4096) if remaining > 0 and poller.poll(1000 * remaining) else b""
            if not chunk:
                return b""
            line += chunk
        return line.strip()

    def close(self, forked: bool = False) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        if forked:  # another process's child: nothing to end, nothing to wait for
            self.process.returncode = 0
            return
        self.process.kill()
        self.process.wait()


class _Pool:
    def __init__(self) -> None:
        self.slots = threading.BoundedSemaphore(MAX_WORKERS)
        self.lock = threading.Lock()
        self.idle: list[_Worker] = []
        self.all: set[_Worker] = set()

    def ask(self, prediction: str, truth: str, seconds: float) -> bool | None:
        with self.slots:
            try:
                return self._ask(self._take(), prediction, truth, seconds)
            except _WorkerDied:
                pass
            try:  # another idle one may be as dead
                return self._ask(self._start(), prediction, truth, seconds)
            except _WorkerDied:
                return None

    def _ask(self, worker: _Worker, prediction: str, truth: str, seconds: float) -> bool | None:
        verdict = None
        try:
            verdict = worker.ask(prediction, truth, seconds)
        finally:  # also on Ctrl-C, after which an answer could be taken for the next question's
            with self.lock:
                if verdict is not None:
                    self.idle.append(worker)
                else:
                    self.all.discard(worker)
            if verdict is None:
                worker.close()
        return verdict

    def _take(self) -> _Worker:
        with self.lock:
            if self.idle:
                return self.idle.pop()
        return self._start()

    def _start(self) -> _Worker:
        worker = _Worker()
        with self.lock:
            self.all.add(worker)
        return worker

    def close(self, forked: bool = False) -> None:
        for worker in self.all:
            worker.close(forked)
        self.all, self.idle = set(), []


_pool = _Pool()


def _after_fork() -> None:
    """A forked process shares its parent's pipes, and perhaps a lock that nobody will release: it starts anew."""
    global _pool
    _pool.close(forked=True)
    _pool = _Pool()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: _pool.close())


def verify(prediction: str, truth: str, seconds: float) -> bool | None:
    """math-verify's verdict on two LaTeX expressions (without `$`), remembered: a task's rollouts often agree.

    Args:
        prediction: What is judged.
        truth: The reference. math-verify is not symmetric.
        seconds: CPU seconds, positive; the worker's start is not counted.

    Returns:
        None if the limit was reached or two workers died, for example for want of memory. That is not remembered.

    Raises:
        ModuleNotFoundError: math-verify is not installed.
        WorkerUnavailable: no worker could be started.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise ModuleNotFoundError("The package math-verify is missing: run `pip install math-verify`.")
    try:
        return _remembered(prediction, truth, seconds)
    except _NoVerdict:
        return None


@functools.lru_cache(maxsize=8192)
def _remembered(prediction: str, truth: str, seconds: float) -> bool:
    verdict = _pool.ask(prediction, truth, seconds)
    if verdict is None:
        raise _NoVerdict
    return verdict
