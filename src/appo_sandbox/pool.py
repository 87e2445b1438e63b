"""Sandboxes that are started once and used again and again, by many threads.

A worker is idle, in use by one thread, or kept: it holds the variables of a session between two of its calls. When
all are kept, the least recently used one loses its session. A broken worker is replaced at once. Calls are served in
the order of coming.

Left out on purpose: processes. A pool belongs to the process that made it (`Sandbox` makes another after a fork).
"""

import threading
from collections import OrderedDict, deque

from appo_sandbox.launch import Launcher
from appo_sandbox.turns import Turns
from appo_sandbox.worker import Settings, Worker


class Busy(Exception):
    """No worker was free in time."""


class Pool:
    """
    Args:
        launcher: How workers are started.
        settings: Of each.
        size: Workers at most.
        warm: Workers to start now, without waiting for them; the others are started when needed.
        parallel: Workers in use at once, at most.
    """

    def __init__(self, launcher: Launcher, settings: Settings, size: int, warm: int, parallel: int) -> None:
        self._launcher, self._settings, self._size = launcher, settings, size
        self._turns = Turns(min(parallel, size))  # who has one finds a worker that is not in use
        self._lock = threading.Lock()
        self._workers: set[Worker] = set()
        self._idle: deque[Worker] = deque()
        self._kept: OrderedDict[object, Worker] = OrderedDict()
        self._closed = False
        self._idle.extend(self._start() for _ in range(warm))

    def acquire(self, deadline: float, owner: object = None) -> tuple[Worker, bool]:
        """A worker that nobody else uses until it is released, and whether it holds the owner's variables.

        Args:
            deadline: On the clock `time.monotonic`.
            owner: A session.

        Raises:
            Busy: where all are in use until then.
            RuntimeError: where the pool is closed.
        """
        if not self._turns.take(deadline):
            raise Busy
        try:
            with self._lock:
                while True:
                    if self._closed:
                        raise RuntimeError("The sandbox is closed.")
                    worker, held = self._kept.pop(owner, None), True
                    if worker is None:
                        worker, held = self._other(), False
                    if worker.alive():
                        return worker, held
                    self._replace(worker)  # killed from outside while it waited
        except BaseException:
            self._turns.give()
            raise

    def release(self, worker: Worker, owner: object = None) -> None:
        """Takes a worker back. With an owner it keeps what it holds until it is wanted by the owner, or by others."""
        try:
            with self._lock:
                if self._closed:
                    self._discard(worker)
                elif worker.broken:
                    self._replace(worker)
                elif owner is not None:
                    self._kept[owner] = worker
                else:
                    self._idle.append(worker)
        finally:
            self._turns.give()

    def drop(self, owner: object) -> None:
        """Forgets the variables of an owner."""
        with self._lock:
            if worker := self._kept.pop(owner, None):
                worker.stop()
                self._idle.append(worker)

    def close(self) -> None:
        """Ends all workers; calls under way end as killed."""
        with self._lock:
            self._closed = True
            for worker in [*self._idle, *self._kept.values()]:
                self._discard(worker)
            self._idle.clear()
            self._kept.clear()
            for worker in self._workers:  # in use: whoever uses it gives it back, as it ends
                worker.hang_up()
        self._turns.open()

    def forget(self) -> None:
        """In a fork of the process that made the pool: lets go of the workers. Without the lock, which another thread
        may have held when the process forked."""
        for worker in self._workers:
            worker.forget()

    def _other(self) -> Worker:
        if self._idle:
            return self._idle.pop()
        if len(self._workers) < self._size:
            return self._start()
        _, worker = self._kept.popitem(last=False)
        worker.stop()
        return worker

    def _start(self) -> Worker:
        worker = Worker(self._launcher, self._settings)
        self._workers.add(worker)
        return worker

    def _replace(self, worker: Worker) -> None:
        self._discard(worker)
        self._idle.appendleft(self._start())  # used last, as it takes a while to be ready

    def _discard(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.kill()
