"""Warm worker processes for math-verify (pebble), safe to use from any thread and after a fork.

Workers are started by loky, which begins a new Python without importing the program that runs here: it may hold a
model, or train where it is imported. One that runs into its limit is gone and replaced (half a second). One that has
died otherwise, for example because the machine had no memory left, costs its question a second try. pebble gives up a
pool in which an idle worker dies: another pool takes its place, and what was asked is asked again. Workers end when
this process does, however it ends.

Limits of CPU time and of memory are our own (`_math_worker.py`): pebble's are of time by the clock, by which a busy
machine would change verdicts. Left out on purpose: systems without POSIX signals and resource limits.
"""

import functools
import importlib.util
import multiprocessing.process
import os
import signal
import threading
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.util import Finalize

from loky.backend import get_context
from pebble import ProcessExpired, ProcessFuture, ProcessPool

MAX_WORKERS = max(1, min(4, os.cpu_count() or 1))
_POOLS = 4  # that a question may see break


class WorkerUnavailable(RuntimeError):
    """No worker process could be started."""


class _NoVerdict(Exception):
    """What `lru_cache` does not remember."""


_lock = threading.Lock()
_pool: ProcessPool | None = None


def _open() -> ProcessPool:
    """The pool, which is started where there is none."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ProcessPool(MAX_WORKERS, initializer=_start, context=get_context("loky"))
            # A process of multiprocessing waits for its children before it ends.
            Finalize(None, _leave, (_pool,), exitpriority=1)
        return _pool


def _leave(pool: ProcessPool) -> None:
    """Ends a pool, once."""
    global _pool
    with _lock:
        if _pool is not pool:
            return
        _pool = None
    pool.stop()
    pool.join()


def _ask(prediction: str, truth: str, seconds: float) -> bool | None:
    """The verdict; None where the limit was reached or two workers died of the question."""
    died = broken = 0
    while died < 2:
        pool = _open()
        try:
            # The worker's own limit is CPU time; this one is for a machine that gives it none.
            return _result(pool, pool.schedule(_answer, (prediction, truth, seconds), timeout=10 * seconds + 10))
        except TimeoutError:
            return None
        except ProcessExpired as error:
            if error.exitcode == -signal.SIGPROF:
                return None
            died += 1
        except (BrokenProcessPool, RuntimeError) as error:  # the latter of a pool that was broken or left before
            _leave(pool)
            broken += 1
            if broken == _POOLS:
                raise WorkerUnavailable(
                    "The process that runs math-verify did not start; import math_verify to see why."
                ) from error
    return None


def _result(pool: ProcessPool, future: ProcessFuture) -> bool:
    # A pool that breaks forgets what it was given at that moment.
    while not wait([future], 1.0).done:
        if not pool.active:
            raise BrokenProcessPool
    return bool(future.result())


def _start() -> None:
    """In a new worker."""
    from appo.rewards import _math_worker  # there alone: it loads sympy

    _math_worker.start()


def _answer(prediction: str, truth: str, seconds: float) -> bool:
    """In a worker."""
    from appo.rewards import _math_worker

    return _math_worker.answer(prediction, truth, seconds)


def _after_fork() -> None:
    """A forked process has none of its parent's threads, perhaps a lock that nobody will release, and must neither ask
    its parent's workers nor end them when it ends: it starts anew."""
    global _pool, _lock
    _lock = threading.Lock()
    if _pool is not None:
        _pool = None
        multiprocessing.process._children.clear()  # type: ignore[attr-defined]


os.register_at_fork(after_in_child=_after_fork)


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
    verdict = _ask(prediction, truth, seconds)
    if verdict is None:
        raise _NoVerdict
    return verdict
