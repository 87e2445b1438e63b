"""Runs a policy's Python programs, each in a fresh interpreter that can do little harm.

Always: `python -I` without the caller's environment variables, in an empty directory of its own, with no input, with
limits on CPU time, address space, file size, open files and output; stopped with its process group after `timeout`
seconds of wall time or 1 MB of output, and nothing of the group outlives the call. Beyond that `isolation()` tells
which of these is in use, the first that works on the machine:

- `bwrap` (bubblewrap): no network, own process tree that dies with the call and with the caller, at most 8 processes,
  and a read-only view of the interpreter and the system's libraries: none of the caller's files can be seen.
- `unshare` (util-linux): no network, own process tree. Files: the caller's rights.
- `plain`: no processes or threads besides the program's own. Network and files: the caller's rights.

For root, whom the process limit does not bind, programs run under an unused uid. Without bubblewrap this needs an
interpreter that every user can read; if it lies below, say, a private /root, programs keep root's rights to files and
may start any number of processes, and under `plain` a process that leaves its group then outlives the call. Memory is
limited per process, disk per file (with bubblewrap 0.7 or newer also in sum).

Try it: `python -c "from appo.tools.python_sandbox import *; print(isolation(), run_python('print(6 * 7)'))"`.
Left out on purpose: systems other than Linux, installing packages, state between calls, protection from kernel bugs.
"""

import functools
import inspect
import itertools
import logging
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appo.tools import ToolError

logger = logging.getLogger(__name__)

MAX_COLLECTED_BYTES = 1_000_000
# One thread each: the maths libraries' pools would exceed the limits on processes and address space.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# The range that systemd reserves for transient users. A uid per call, so that calls do not share the process limit.
_UIDS = itertools.cycle(range(61184, 65520))


@dataclass(frozen=True)
class SandboxResult:
    """What a program printed and how it ended.

    `error` is None, "exception", "killed" (by a signal, for example a crash or the CPU limit), "timeout" or "output".
    """

    text: str
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass(frozen=True)
class _Launcher:
    """One way of starting the interpreter: a command prefix and what the child has to do itself."""

    name: str
    prefix: tuple[str, ...] = ()
    new_uid: bool = False  # the child gives up root for a uid of its own
    supervise: bool = False  # the child is process 1 of its tree: it stays behind and the program gets a fork
    processes: int = 8


def _child() -> None:  # pragma: no cover
    """Runs in the new interpreter, which gets this source: limits itself, then runs the program that is on stdin."""
    import _ast  # not `ast`, which takes longer to import than the interpreter to start
    import builtins
    import io
    import os
    import resource
    import sys

    uid, memory, seconds, processes, supervise = map(int, sys.argv[1:])
    if supervise and (pid := os.fork()):
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255)
    code = sys.stdin.buffer.read().decode()
    if uid:
        os.chown(".", uid, uid)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    limits = {"CPU": seconds, "AS": memory, "NPROC": processes, "FSIZE": 1 << 24, "NOFILE": 64, "CORE": 0}
    for name, value in limits.items():
        kind = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))

    class Output(io.TextIOWrapper):
        used = False

        def write(self, text: str) -> int:
            Output.used = Output.used or bool(text)
            return super().write(text)

    # Line by line, so that a program that is stopped has shown what it printed.
    sys.stdout = Output(sys.stdout.detach(), encoding="utf-8", errors="replace", line_buffering=True)  # type: ignore
    sys.argv, status = ["program"], 0
    space = {"__name__": "__main__", "__builtins__": builtins}
    try:
        tree: Any = compile(code, "<program>", "exec", _ast.PyCF_ONLY_AST, dont_inherit=True)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], _ast.Expr) else None
        exec(compile(tree, "<program>", "exec", dont_inherit=True), space)
        if last is not None:
            value = eval(compile(_ast.Expression(last.value), "<program>", "eval", dont_inherit=True), space)
            if value is not None and not Output.used:
                print(value)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if status == 1 and error.code != 1:
            print(error.code)
    except BaseException as error:
        status, line, trace = 1, getattr(error, "lineno", None), error.__traceback__
        message = getattr(error, "msg", None) if isinstance(error, SyntaxError) else str(error)
        while trace:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<program>" else line
            trace = trace.tb_next
        where = f" (line {line})" if line else ""
        os.write(1, f"{type(error).__name__}{': ' if message else ''}{message}{where}\n".encode("utf-8", "replace"))
    sys.exit(status)


_CHILD = f"from __future__ import annotations\n{inspect.getsource(_child)}\n_child()"


def run_python(
    code: str, *, timeout: float = 5.0, memory_mb: int = 512, max_output_chars: int = 2000
) -> SandboxResult:
    """Runs a program in a fresh, isolated interpreter. Safe to call from many threads at once.

    Args:
        code: The program. The value of a last expression is printed if nothing else was.
        timeout: Seconds of wall time (starting the interpreter included); CPU time is limited to one more.
        memory_mb: Address space per process. The interpreter itself needs some 30.
        max_output_chars: Longer output is cut in the middle.

    Raises:
        ValueError: for a limit that is not positive.
    """
    for name, value in (("timeout", timeout), ("memory_mb", memory_mb), ("max_output_chars", max_output_chars)):
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}.")
    return _run(_launcher(), code, timeout, memory_mb, max_output_chars)


def python(code: str) -> str:
    """Runs a Python program and returns what it prints. Programs do not share variables, files or a network.

    Args:
        code: The program, for example "print(3 + 4 * 5)".

    Returns:
        What was printed, or the value of the last expression if nothing was.
    """
    result = run_python(code)
    if not result.ok:
        raise ToolError(result.text)
    return result.text or "(nothing was printed)"


def isolation() -> str:
    """What programs run in on this machine: "bwrap", "unshare" or "plain", as the module's docstring explains."""
    return _launcher().name


def _run(launcher: _Launcher, code: str, timeout: float, memory_mb: int, max_output_chars: int) -> SandboxResult:
    deadline = time.monotonic() + timeout
    limits = (next(_UIDS) if launcher.new_uid else 0, memory_mb << 20, math.ceil(timeout) + 1, launcher.processes)
    arguments = [str(value) for value in (*limits, int(launcher.supervise))]
    # utf8: the environment that would say so is empty.
    command = [*launcher.prefix, sys.executable, "-I", "-X", "utf8", "-c", _CHILD, *arguments]
    # The program comes as a file, not through a pipe, which could block the caller.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory, tempfile.TemporaryFile() as source:
        source.write(code.encode("utf-8", "replace"))
        source.seek(0)
        process = subprocess.Popen(
            command,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=_ENVIRONMENT,
            start_new_session=True,
        )
        try:
            output, error = _collect(process, deadline)
        finally:
            # Before the leader is reaped, while its id cannot be anyone else's.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    text = output.decode("utf-8", "replace").rstrip()
    status = process.returncode
    if error is None and status != 0:
        # Through a launcher a signal shows as 128 + number, or as 256 - number.
        error = "killed" if status < 0 or status > 128 else "exception"
    notice = {
        "timeout": f"TimeoutError: stopped after {timeout:g} seconds",
        "output": f"OutputError: stopped after printing {MAX_COLLECTED_BYTES} bytes",
        "killed": "SystemError: the program crashed or exceeded its CPU time",
        "exception": "" if text else f"SystemExit: {status}",
    }.get(error or "", "")
    text = _shorten(text, max(1, max_output_chars - len(notice) - 1)) + ("\n" + notice if notice else "")
    return SandboxResult(text.lstrip("\n"), error)


def _collect(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, str | None]:
    """What the program writes until it ends, or why it has to be stopped. The end of the pipe proves nothing: a
    program may close it and live on, and a child may hold it after the program has ended."""
    assert process.stdout is not None
    pipe, output = process.stdout.fileno(), bytearray()
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    while True:
        # Looked up before reading: all that an ended program wrote is then in the pipe.
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        ready = poller.poll(0 if ended else 20)
        chunk = os.read(pipe, 1 << 16) if ready else b""
        output += chunk
        if len(output) > MAX_COLLECTED_BYTES:
            return bytes(output), "output"
        if ended and not chunk:
            return bytes(output), None
        if time.monotonic() > deadline:
            return bytes(output), "timeout"
        if ready and not chunk:
            time.sleep(0.001)  # the pipe is closed, so that polling no longer waits


def _shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    note = f"\n... {len(text) - limit} characters cut ...\n"
    half = max(0, limit - len(note)) // 2
    return text[:half] + note + text[len(text) - half :]


@functools.cache
def _launcher() -> _Launcher:
    """The first launcher that works here, tried once per process; says what it does not isolate."""
    launcher = next(candidate for candidate in _candidates() if _works(candidate))
    missing = {"bwrap": "", "unshare": "the caller's files", "plain": "the network and the caller's files"}
    if missing[launcher.name]:
        user = "root" if os.geteuid() == 0 and not launcher.new_uid else "an unprivileged user"
        logger.warning(
            "Python programs run as %s and are not kept from %s: install bubblewrap, or allow it to make namespaces.",
            user,
            missing[launcher.name],
        )
    return launcher


def _works(launcher: _Launcher) -> bool:
    if launcher.name == "plain":
        return True
    # The import shows whether the program's user can read the library.
    return _run(launcher, "import threading\nprint(6 * 7)", 10, 512, 100) == SandboxResult("42")


def _candidates() -> Iterator[_Launcher]:
    root = os.geteuid() == 0
    new_uid = root and _readable_by_all()
    if bwrap := shutil.which("bwrap"):
        # Root needs no user namespace, and a real uid is what the process limit binds; bwrap shows the interpreter
        # to every user.
        if root:
            capabilities = (x for name in ("SETUID", "SETGID", "CHOWN") for x in ("--cap-add", f"CAP_{name}"))
            yield _Launcher("bwrap", (bwrap, *_bwrap_options(bwrap, True), "--cap-drop", "ALL", *capabilities), True)
        yield _Launcher("bwrap", (bwrap, "--unshare-user", *_bwrap_options(bwrap, False)))
    if unshare := shutil.which("unshare"):
        options = ("--net", "--ipc", "--pid", "--fork", "--kill-child")
        if new_uid:
            yield _Launcher("unshare", (unshare, *options), True, True)
        yield _Launcher("unshare", (unshare, "--user", *options), False, True)
    yield _Launcher("plain", (), new_uid, False, 1)


def _bwrap_options(bwrap: str, new_uid: bool) -> list[str]:
    options = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    options += ["--die-with-parent", "--new-session"]
    # The last two: libraries outside the standard places.
    paths = {"/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/nix/store"}
    real = Path(sys.executable).resolve()
    paths |= {sys.prefix, sys.base_prefix, sys.exec_prefix, str(real.parent.parent)}
    if new_uid:  # directories on the way are made for their owner alone unless told otherwise
        for parent in sorted({str(parent) for path in paths for parent in Path(path).parents} - {"/"}):
            options += ["--perms", "0755", "--dir", parent]
    for path in sorted(paths):  # parents first
        options += ["--ro-bind-try", path, path]
    for device in ("/dev/null", "/dev/urandom"):
        options += ["--dev-bind-try", device, device]
    # Bubblewrap before 0.7 cannot bound it.
    sized = b"--size" in subprocess.run([bwrap, "--help"], capture_output=True, timeout=10).stdout
    options += [*(("--size", str(64 << 20)) if sized else ()), "--tmpfs", "/scratch", "--chdir", "/scratch"]
    return [*options, "--remount-ro", "/"]


def _readable_by_all() -> bool:
    """Whether another user could load the interpreter and its library."""
    paths = [Path(p).resolve() for p in (sys.prefix, sys.base_prefix, sys.executable)]
    return all(place.stat().st_mode & 0o001 for path in paths for place in (path, *path.parents))
