"""Processes that do the jobs of a study, one job at a time each, and end with the study however that ends.

A worker is a session of its own, so that an interrupt reaches the study alone, which then ends every process of the
worker's, those of tools among them; a worker whose study is gone ends itself. What a job prints, a traceback above
all, lies in a log of its own. Left out on purpose: other machines, and a second try of a job that failed.

    with Workers(2, Path("logs")) as workers:
        for job, share, line in workers.do(plan, jobs): ...
"""

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import Any, BinaryIO

from appo.cli.recipe import RecipeError
from appo.research.plan import Job, Study

# What a worker writes on its pipe: (name, value).
PROGRESS, DONE, FAILED = "progress", "done", "failed"
SHOWN = 400  # characters of a log's last line in a message
SECONDS_TO_END = 10  # of a process that has nothing left to do


def log_of(logs: Path, job: Job) -> Path:
    """The file that a job's output goes to."""
    return logs / (re.sub(r"[^\w.+-]+", "-", str(job)) + ".log")


class _Worker:
    """One process, and a thread that hands on what it answers."""

    def __init__(self, logs: Path, number: int, answers: Queue[tuple["_Worker", Any]]) -> None:
        self.logs = logs
        self.log = logs / f"worker-{number}.log"  # until its first job
        self.job: Job | None = None
        # As `multiprocessing` does: what can be imported here can be there.
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from appo.cli.current_folder import find_modules_here; find_modules_here(); "
            "from appo.research.workers import main; main()"
        )
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
                start_new_session=True,
            )
        threading.Thread(target=self._hand_on, args=(answers,), daemon=True).start()

    def _hand_on(self, answers: Queue[tuple["_Worker", Any]]) -> None:
        assert self.process.stdout is not None
        try:
            while True:
                answers.put((self, pickle.load(self.process.stdout)))
        except (EOFError, pickle.UnpicklingError):
            answers.put((self, None))

    def send(self, plan: Study | None, job: Job | None) -> None:
        """Begins a job; without one the process ends."""
        self.job = job
        if job:
            log_of(self.logs, job).unlink(missing_ok=True)  # that of an earlier try
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, which its answers say
            pickle.dump((plan, job, str(log_of(self.logs, job)) if job else ""), self.process.stdin)
            self.process.stdin.flush()

    def end_of(self) -> str:
        """How the process ended, in words, and where it says why."""
        assert self.job is not None
        code = self.process.wait()
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"was killed ({signal.Signals(-code).name})"
            how += ", perhaps for want of memory (then try --jobs 1)" if -code == signal.SIGKILL else ""
        log = log_of(self.logs, self.job)
        log = log if log.exists() else self.log
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{self.job}: its process {how}{': ' + last[-SHOWN:] if last else ''}; see {log}."

    def kill(self) -> None:
        """Ends the process and all that it started."""
        if os.name == "posix":
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


class Workers:
    """At most `count` processes, started when they are needed; logs of the jobs go to the directory `logs`.

    Args:
        fresh: Whether each job gets a process of its own, as vLLM in process needs, which never gives its memory back.
    """

    def __init__(self, count: int, logs: Path, fresh: bool = False) -> None:
        self.count, self.logs, self.fresh = count, logs, fresh
        self._workers: list[_Worker] = []
        self._answers: Queue[tuple[_Worker, Any]] = Queue()

    def __enter__(self) -> "Workers":
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        for worker in self._workers:
            self._end(worker, at_once=kind is not None)

    @staticmethod
    def _end(worker: _Worker, at_once: bool) -> None:
        if not at_once:
            worker.send(None, None)
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(SECONDS_TO_END)
        if at_once or worker.process.poll() is None:
            worker.kill()

    def do(self, plan: Study, jobs: Iterable[Job]) -> Iterator[tuple[Job, float | None, Any]]:
        """Yields (job, share done, None) along the way, and (job, None, what `one_run.do` returned) at its end.

        Raises:
            RecipeError: where a job failed or its process ended, with its reason and its log.
        """
        left = deque(jobs)
        while len(self._workers) < min(self.count, len(left)):
            self._workers.append(_Worker(self.logs, len(self._workers) + 1, self._answers))
        busy = set()
        for worker in self._workers:
            if left:
                worker.send(plan, left.popleft())
                busy.add(worker)
        while busy:
            worker, answer = self._answers.get()
            if worker.job is None:  # it ended while it had nothing to do
                if worker in self._workers:
                    self._workers.remove(worker)
                continue
            if answer is None:
                raise RecipeError(worker.end_of())
            name, value = answer
            if name == FAILED:
                raise RecipeError(f"{worker.job} failed ({value}); see {log_of(self.logs, worker.job)}.")
            yield worker.job, value if name == PROGRESS else None, value if name == DONE else None
            if name == DONE and self.fresh:
                self._workers.remove(worker)
                busy.remove(worker)
                self._end(worker, at_once=False)
                if left:
                    self._workers.append(another := _Worker(self.logs, len(self._workers) + 1, self._answers))
                    another.send(plan, left.popleft())
                    busy.add(another)
            elif name == DONE and left:
                worker.send(plan, left.popleft())
            elif name == DONE:
                worker.job = None
                busy.remove(worker)


# ---- in the worker ----


def main() -> None:
    """Does the jobs that come in on the standard input, and answers on the standard output."""
    # What libraries and tools print or read must not be taken for an answer or a job.
    jobs, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch

    from appo.research.one_run import do

    torch.set_num_threads(1)
    queue: Queue[tuple[Study, Job | None, str]] = Queue()
    threading.Thread(target=_read, args=(jobs, queue), daemon=True).start()

    def answer(name: str, value: Any) -> None:
        pickle.dump((name, value), answers)
        answers.flush()

    while True:
        plan, job, path = queue.get()
        if job is None:
            return
        with open(path, "w", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        try:
            answer(DONE, do(plan, job, lambda share: answer(PROGRESS, share)))
        except BaseException as error:
            traceback.print_exc()
            answer(FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _read(jobs: BinaryIO, queue: Queue[Any]) -> None:
    """Hands jobs on; where no more can come, the study is gone, and nobody is there to hear of a job's end."""
    try:
        while True:
            item = pickle.load(jobs)
            queue.put(item)
            if item[1] is None:
                return
    except EOFError:
        if os.name == "posix":
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)
