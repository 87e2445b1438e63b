"""Many threads, processes that fork, workers and callers that are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sandboxes import LAUNCHERS, children, gone, told

from appo_sandbox import Busy, Sandbox
from appo_sandbox.turns import Turns


@pytest.fixture(scope="module", params=LAUNCHERS, ids=lambda x: x.name)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(timeout_s=5, memory_mb=96, workers=2, launcher=request.param) as made:
        yield made


def first_process(sandbox: Sandbox) -> int:
    """The id, seen from here, of the first process in the sandbox that is used next."""
    worker = sandbox._pool._idle[-1]
    if not sandbox.isolated:
        return worker.pid
    return children(worker.pid)[0]


def test_calls_from_many_threads(sandbox: Sandbox) -> None:
    def call(i: int) -> str:
        return sandbox.run(f"open('x', 'w').write('{i}')\nprint(open('x').read())" if i % 4 else "1 / 0").text

    with ThreadPoolExecutor(16) as threads:
        texts = list(threads.map(call, range(64)))
    assert texts == [str(i) if i % 4 else "ZeroDivisionError: division by zero (line 1)" for i in range(64)]
    assert len(sandbox._pool._workers) == 2


def test_a_call_does_not_wait_for_ever_for_a_worker() -> None:
    with Sandbox(5, 96, workers=1, patience_s=0.3, launcher=LAUNCHERS[0]) as sandbox:
        worker, _ = sandbox._pool.acquire(time.monotonic() + 600)
        with pytest.raises(Busy):
            sandbox.run("1")
        sandbox._pool.release(worker)
        assert sandbox.run("6 * 7").text == "42"


def test_calls_are_served_in_the_order_of_coming() -> None:
    with Sandbox(memory_mb=96, workers=1, launcher=LAUNCHERS[0]) as sandbox:
        pool, served, far = sandbox._pool, [], time.monotonic() + 3600

        def call(name: str) -> None:
            worker, _ = pool.acquire(far)
            served.append(name)
            pool.release(worker)

        worker, _ = pool.acquire(far)
        threads = [threading.Thread(target=call, args=(name,)) for name in ("first", "second", "third")]
        for ahead, thread in enumerate(threads, 1):
            thread.start()
            while len(pool._turns._waiting) < ahead:
                time.sleep(0.001)
        pool.release(worker)
        call("newcomer")
        [thread.join() for thread in threads]
        assert served == ["first", "second", "third", "newcomer"]


def test_who_has_gone_holds_nobody_up() -> None:
    turns, far = Turns(1), time.monotonic() + 3600
    assert turns.take(far)
    assert not turns.take(0.0)
    turns.give()
    assert turns.take(far)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(KeyboardInterrupt):
        turns.take(far)
    signal.signal(signal.SIGALRM, before)
    turns.give()
    assert turns.take(0.0)
    turns.open()
    assert turns.take(0.0)


def test_a_worker_that_was_killed_while_it_waited_is_replaced(sandbox: Sandbox) -> None:
    sandbox.run("1")
    os.kill(first_process(sandbox), signal.SIGKILL)
    time.sleep(0.1)
    assert [sandbox.run("6 * 7").text for _ in range(3)] == ["42"] * 3
    assert len(sandbox._pool._workers) == 2


def test_a_worker_that_is_killed_during_a_call(sandbox: Sandbox) -> None:
    sandbox.run("1")
    pid = first_process(sandbox)
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    result = sandbox.run("import time\nprint('here')\ntime.sleep(4)")
    assert told(result) == ("here", "killed")
    assert sandbox.run("6 * 7").text == "42"


def test_a_worker_that_does_not_answer_is_replaced(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appo_sandbox.worker.GRACE_SECONDS", 0.2)
    sandbox.run("1")
    monkeypatch.setattr(sandbox, "timeout_s", 0.3)
    pid = first_process(sandbox)
    os.kill(pid, signal.SIGSTOP)
    assert sandbox.run("1").error == "timeout"
    assert gone([pid])
    monkeypatch.setattr(sandbox, "timeout_s", 5.0)
    assert sandbox.run("6 * 7").text == "42"


def test_threads_that_end_take_no_worker_with_them(sandbox: Sandbox) -> None:
    os.kill(first_process(sandbox), signal.SIGKILL)
    thread = threading.Thread(target=sandbox.run, args=("1",))  # starts the replacement
    thread.start()
    thread.join()
    workers = set(sandbox._pool._workers)
    assert [sandbox.run("2").text for _ in range(4)] == ["2"] * 4
    assert sandbox._pool._workers == workers


def test_a_forked_process_has_a_pool_of_its_own(sandbox: Sandbox) -> None:
    workers = {worker.pid for worker in sandbox._pool._workers}
    pid = os.fork()
    if pid == 0:
        own = sandbox.run("6 * 7").text == "42" and not workers & {worker.pid for worker in sandbox._pool._workers}
        sandbox.close()
        os._exit(0 if own else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sandbox.run("6 * 7").text == "42"
    assert {worker.pid for worker in sandbox._pool._workers} == workers


CALLER = """
import os, sys, threading, time
from appo_sandbox import PLAIN, Sandbox
sandbox = Sandbox(timeout_s=60, workers=2, launcher=PLAIN if sys.argv[1] == "plain" else None)
sandbox.run("1")
forks = "try:\\n    if os.fork() == 0: os.setsid()\\nexcept OSError: pass"  # a plain program of a user's may not
threading.Thread(target=sandbox.run, args=(f"import os\\n{forks}\\nwhile True: pass",)).start()
if os.fork() == 0:  # a process that knows the sandbox and lives on
    time.sleep(20)
    os._exit(0)
time.sleep(0.5)
print(*[worker.pid for worker in sandbox._pool._workers], flush=True)
time.sleep(60)
"""


def test_nothing_outlives_a_caller_that_is_killed(sandbox: Sandbox) -> None:
    name = "bwrap" if sandbox.isolated else "plain"
    caller = subprocess.Popen([sys.executable, "-c", CALLER, name], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    workers = [int(pid) for pid in caller.stdout.readline().split()]
    processes = workers + [pid for worker in workers for pid in children(worker)]
    assert len(processes) >= 3
    caller.kill()
    caller.wait()
    caller.stdout.close()
    assert gone(processes)


def test_close_ends_all_processes_and_calls(sandbox: Sandbox) -> None:
    closing = Sandbox(timeout_s=30, workers=1, launcher=sandbox._launcher)
    closing.run("1")
    processes = [closing._pool._idle[0].pid]
    processes += children(processes[0])
    threading.Timer(0.3, closing.close).start()
    assert closing.run("while True: pass").error == "killed"
    assert gone(processes)
