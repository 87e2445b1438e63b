"""Runs tool calls in threads, each with its own time-out; failures become text that the policy can read.

This is the one place where exceptions of users' code are caught; each is counted by its kind. A call that exceeds its
time is given up: a coroutine is cancelled; a thread cannot be stopped, so it is a daemon, and another takes its place.
As threads must not pile up, a tool of which `max_hanging` such calls still run is not called until one of them ends.
Exceptions may be tried again (`retries`), within the same time; a `ToolError` is not, as it is the tool's answer.

Left out on purpose: isolation. A tool that runs foreign code brings its own (`python.py`, `appo_sandbox`).
"""

import inspect
import logging
import queue
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from appo.tools._arguments import bind_arguments
from appo.tools._event_loops import AsyncCall, EventLoops
from appo.tools.results import ToolError, ToolResult, cut_in_the_middle

logger = logging.getLogger(__name__)

MAX_WORKERS = 32
FIRST_PAUSE = 0.5  # seconds before a call is tried again; each further pause is twice as long
QUICK = 0.002  # seconds after which a call gets a thread of its own; for quick tools one is best
SETTLING = 1.0  # seconds that a coroutine may take to be cancelled
LONGEST_PATIENCE = 5.0  # seconds until an event loop that begins no call counts as blocked


@dataclass
class ToolOutcome:
    """What came of a call: the text for the policy, why it failed (None if it did not), its wall time, and whether the
    tool ran to its end (not where it was given up or never called)."""

    text: str
    error: str | None = None
    seconds: float = 0.0
    ran: bool = True


@dataclass(eq=False)
class _Job:
    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]
    on_end: Callable[[], None]
    submit_time: float = field(default_factory=time.monotonic)
    started: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)  # set when its thread is done with it
    start_time: float = 0.0
    outcome: ToolOutcome | None = None
    given_up: bool = False
    coroutine: AsyncCall | None = None  # what of it runs in an event loop

    @property
    def owner(self) -> Any:
        """The object whose method the tool is; None for a function."""
        return getattr(self.function, "__self__", None)

    def still_runs(self) -> bool:
        """Whether anything of it runs."""
        return not self.left.is_set() or (self.coroutine is not None and not self.coroutine.ended.is_set())


class PendingCall:
    """A call under way, or one that failed before it began."""

    def __init__(self, runner: "ToolRunner", job: _Job | None, outcome: ToolOutcome | None = None) -> None:
        self._runner, self._job, self._outcome = runner, job, outcome

    def result(self) -> ToolOutcome:
        """Waits for the call, at most its time-out from the moment it began to run."""
        if self._outcome is None:
            assert self._job is not None
            self._outcome = self._runner.wait(self._job)
        return self._outcome


class ToolRunner:
    """A growing pool of daemon threads, and an event loop for coroutines.

    Args:
        timeout: Seconds that one call may run.
        max_workers: Calls that run at once.
        max_result_chars: Characters of a result that the policy reads.
        retries: How often a call is tried again that raised an exception other than `ToolError`.
        max_hanging: Calls of one tool that were given up and still run, from which on it is not called.
    """

    def __init__(
        self,
        timeout: float = 30.0,
        max_workers: int = MAX_WORKERS,
        max_result_chars: int = 8192,
        retries: int = 0,
        max_hanging: int = 32,
    ) -> None:
        self.timeout, self.max_workers, self.max_result_chars = timeout, max_workers, max_result_chars
        self.retries, self.max_hanging = retries, max_hanging
        self._queued: dict[_Job, None] = {}  # in the order of coming
        self._running: list[_Job] = []
        self._late: list[_Job] = []  # given up, and perhaps still running
        self._marked: MutableMapping[int, Any] = weakref.WeakValueDictionary()  # what `gave_up` tells of, by id
        self._held: list[Any] = []  # and what of it takes no weak reference
        self._reported: set[str] = set()  # tools that are known to hang
        self._raised: set[tuple[str, type[BaseException]]] = set()  # and what of whose exceptions was told
        self._loops = EventLoops(min(timeout / 4, LONGEST_PATIENCE))
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished = 0  # calls submitted and neither done nor given up
        self._workers = 0  # threads that are not stuck

    def submit(
        self,
        tools: Mapping[str, Callable[..., Any]],
        name: str,
        arguments: Any,
        error: str | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> PendingCall:
        """Starts a call. One that could not be read (`error` says why), and a name or arguments that make no sense,
        give an error outcome at once.

        Args:
            on_end: Called once `result` would no longer wait, in any thread: it should do no more than tell.
        """
        if error is not None:
            return self.refuse(f"error: malformed call: {error}", "malformed call", on_end)
        if name not in tools:
            known = ", ".join(sorted(tools)) or "none"
            return self.refuse(f"error: no tool named {name}; tools: {known}", "unknown tool", on_end)
        try:
            job = _Job(name, tools[name], bind_arguments(tools[name], arguments), on_end)
        except Exception as raised:  # text of the policy, of any depth and kind
            return self.refuse(f"error: bad arguments for {name}: {_message(raised)}", "bad arguments", on_end)
        with self._lock:
            self._unfinished += 1
            self._queued[job] = None
            if not self._workers:
                self._grow()
        self._jobs.put(job)
        return PendingCall(self, job)

    def refuse(self, text: str, error: str, on_end: Callable[[], None] = lambda: None) -> PendingCall:
        """A call that is not run, and has ended with this error."""
        on_end()
        return PendingCall(self, None, ToolOutcome(self._readable(text), error, ran=False))

    def tend(self) -> float | None:
        """Gives up calls whose time is over, and threads to those that have waited for one; for whoever does not wait
        in `result`.

        Returns:
            Seconds until it has to be asked again; None while no call is under way.
        """
        now = time.monotonic()
        with self._lock:
            overdue = [job for job in self._running if job.start_time + self.timeout <= now]
        for job in overdue:
            self._give_up(job)
        with self._lock:
            times = [job.start_time + self.timeout for job in self._running]
            oldest = next(iter(self._queued), None)
            if oldest is not None and oldest.submit_time + QUICK <= now:
                self._grow()
            if oldest is not None and self._workers < min(self._unfinished, self.max_workers):
                times.append(oldest.submit_time + QUICK)
            if not self._unfinished:
                return None
            return max(0.0, min(times, default=now + QUICK) - now)

    def wait(self, job: _Job) -> ToolOutcome:
        """Waits for a job, at most its time-out from its start; overdue ones before it in the queue are given up."""
        if job.outcome is not None:
            return job.outcome
        if not job.done.wait(QUICK):
            with self._lock:
                self._grow()
        while not job.started.wait(0.02):
            with self._lock:
                overdue = [other for other in self._running if other.start_time + self.timeout < time.monotonic()]
            for other in overdue:
                self._give_up(other)
        job.done.wait(max(0.0, job.start_time + self.timeout - time.monotonic()))
        self._give_up(job)
        assert job.outcome is not None
        return job.outcome

    def _give_up(self, job: _Job) -> None:
        """Gives up a job that has no outcome yet, and replaces its thread."""
        with self._lock:
            if job.outcome is not None:
                return
            text = f"error: timeout after {self.timeout:g} s"
            job.outcome = ToolOutcome(text, "timeout", self.timeout, ran=False)
            job.given_up = True
            if job.owner is not None:
                self._mark(job.owner)
            self._running.remove(job)
            self._late.append(job)
            self._unfinished -= 1
            self._workers -= 1
            self._grow()
        if job.coroutine is not None:
            job.coroutine.give_up()
        job.on_end()

    def _mark(self, owner: Any) -> None:
        try:
            self._marked[id(owner)] = owner
        except TypeError:
            # Nobody can ask for what is held here alone: by the list, the variable and the argument.
            self._held = [held for held in self._held if sys.getrefcount(held) > 3]
            self._held.append(owner)

    def gave_up(self, owner: Any) -> bool:
        """Whether a call of a method of `owner` was ever given up: what it left of the object is not known."""
        with self._lock:
            return self._marked.get(id(owner)) is owner or any(held is owner for held in self._held)

    def busy(self, owner: Any) -> bool:
        """Whether a call of a method of `owner` that was given up still runs."""
        with self._lock:
            late = [job for job in self._late if job.owner is owner]
        for job in late:
            if job.coroutine is not None:  # it was cancelled, which takes a moment
                job.coroutine.ended.wait(SETTLING)
                job.left.wait(SETTLING)
        return any(job.still_runs() for job in late)

    def _grow(self) -> None:
        """Adds threads until every unfinished call has one; called with the lock held."""
        for _ in range(min(self._unfinished, self.max_workers) - self._workers):
            self._workers += 1
            threading.Thread(target=self._work, daemon=True, name="appo-tool").start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._lock:
                job.start_time = time.monotonic()
                del self._queued[job]
                self._running.append(job)
                self._late = [late for late in self._late if late.still_runs()]
                hanging = sum(late.name == job.name for late in self._late)
            job.started.set()
            outcome = self._refuse_hanging(job.name, hanging) if hanging >= self.max_hanging else self._try(job)
            outcome.seconds = time.monotonic() - job.start_time
            job.left.set()
            with self._lock:
                if job.given_up:
                    return
                job.outcome = outcome
                self._running.remove(job)
                self._unfinished -= 1
            job.done.set()
            job.on_end()

    def _refuse_hanging(self, name: str, hanging: int) -> ToolOutcome:
        if name not in self._reported:
            self._reported.add(name)
            logger.warning(
                "%d calls of the tool %s still run after their time-out of %g s, and cannot be stopped: it is not "
                "called until one of them ends. Give the tool a time-out of its own, below tool_timeout.",
                *(hanging, name, self.timeout),
            )
        return ToolOutcome(f"error: {name} does not answer: {hanging} earlier calls still run", "timeout", ran=False)

    def _try(self, job: _Job) -> ToolOutcome:
        """Calls the tool, and once more after each failure as long as retries and time last."""
        outcome, final = self._call(job)
        for retry in range(self.retries):
            pause = FIRST_PAUSE * 2**retry
            if final or time.monotonic() + pause > job.start_time + self.timeout:
                break
            time.sleep(pause)
            if job.given_up:
                break
            outcome, final = self._call(job)
        return outcome

    def _call(self, job: _Job) -> tuple[ToolOutcome, bool]:
        """The outcome, and whether it is the tool's own word, so that another try would give the same."""
        try:
            result = job.function(**job.arguments)
            if inspect.isawaitable(result):
                result = self._await(job, result)
            error = result.error if isinstance(result, ToolResult) else None
            return ToolOutcome(self._readable(str(result)), None if error is None else str(error)), True
        except BaseException as raised:  # the tool edge: whatever a tool raises, SystemExit too, the policy reads it
            kind = type(raised).__name__
            if isinstance(raised, ToolError):
                return ToolOutcome(self._readable(f"error: {_message(raised)}"), kind), True
            self._report(job.name, raised)
            text = self._readable(f"error: {kind}: {_message(raised)}")
            return ToolOutcome(text, kind), not isinstance(raised, Exception)

    def _report(self, name: str, raised: BaseException) -> None:
        """Says where a tool's code raised, once for each tool and kind: else only the policy would read of it."""
        if (name, type(raised)) in self._raised:
            return
        self._raised.add((name, type(raised)))
        try:
            trace = "".join(traceback.format_exception(raised))
        except BaseException:  # a class of the tool's own whose text cannot be had
            trace = "".join(traceback.format_tb(raised.__traceback__)) + type(raised).__name__
        logger.warning(
            "The tool %s raised, which the policy reads as an error; raise appo.tools.ToolError where that is the "
            "tool's answer. This is said once for each kind of exception.\n%s",
            name,
            trace.rstrip(),
        )

    def _await(self, job: _Job, awaitable: Awaitable[Any]) -> Any:
        call = AsyncCall(awaitable)
        job.coroutine = call
        if job.given_up:  # since it was asked for
            call.give_up()
        self._loops.run(call)
        if call.error is not None:
            raise call.error
        return call.value

    def _readable(self, text: str) -> str:
        """Text that can be encoded, cut in the middle where it is too long."""
        text = str.encode(text, "utf-8", "replace").decode("utf-8")  # `__str__` may give a subclass of str
        if len(text) <= self.max_result_chars:
            return text
        return cut_in_the_middle(text, self.max_result_chars)

    def close(self) -> None:
        """Ends idle threads and the event loop."""
        for _ in range(self._workers):
            self._jobs.put(None)
        self._loops.close()


def _message(error: BaseException) -> str:
    try:
        return str(error) or "no message"
    except BaseException:  # a tool's own class of errors
        return "no message"
