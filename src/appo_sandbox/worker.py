"""One sandbox as its caller sees it: a process that was started, and a socket on which it is given programs.

Used by one thread at a time (`pool` sees to that). The caller collects the output and watches the clock; the
sandbox (`zygote`) runs, ends and cleans up. A worker in which anything went otherwise than agreed is `broken`
and must not be used again.

Left out on purpose: trying again; a program that ends its sandbox would do so again.
"""

import contextlib
import json
import math
import os
import select
import socket
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from appo_sandbox.launch import SCRATCH, Launcher, interpreter, next_uid, packages
from appo_sandbox.seccomp import seccomp_filter

#: What a program may print before it is stopped.
MAX_COLLECTED_BYTES = 1_000_000
START_SECONDS = 60.0  # loading the libraries takes half a second, but much longer where all workers start at once
GRACE_SECONDS = 5.0  # for ending a program that was stopped, and for cleaning up
# What most programs use; loaded once per sandbox, where installed.
# fmt: off
PRELOAD = (
    "collections", "datetime", "decimal", "fractions", "functools", "heapq", "itertools", "json", "math", "operator",
    "re", "statistics", "string", "textwrap", "time", "traceback", "typing", "numpy", "sympy",
)
# fmt: on
# The interpreter cannot see the package: it gets these modules as text.
_MODULES = ("program", "rights", "zygote")
_BOOT = """
import json, sys, types
settings = json.loads(sys.argv[1])
for name, source in settings["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
module.main(settings)
"""
# One thread each: the maths libraries' pools would exceed the limits on processes and address space. Sets of strings
# keep their order from one sandbox to another, so that a session can be replayed.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}


@dataclass(frozen=True)
class Settings:
    """What holds for every program of a sandbox.

    Args:
        memory: Bytes of address space that each process may use besides what the libraries do.
        cpu_seconds: Per process and call.
        keep: Whether variables live on for the next call.
        processes: Processes and threads of a call, itself included; for plain ones, of the user in sum.
        file_bytes: Of one file.
    """

    memory: int
    cpu_seconds: int
    keep: bool = False
    processes: int = 16
    file_bytes: int = 16 << 20


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Args:
        output: What was printed, at most a little over MAX_COLLECTED_BYTES.
        error: None, "exception", "killed" (by a signal, for example a crash or the CPU limit), "timeout", "output".
        status: The exit status; negative for a signal.
        kept: Whether the sandbox holds the program's variables for the next call.
    """

    output: bytes
    error: str | None
    status: int
    kept: bool

    @property
    def text(self) -> str:
        """The output as text, without blank lines before and white space after it; what is no UTF-8 is replaced."""
        return self.output.decode("utf-8", "replace").strip("\n").rstrip()


class Worker:
    """Starts a sandbox, without waiting for it.

    Args:
        launcher: How.
        settings: For all its programs.
    """

    def __init__(self, launcher: Launcher, settings: Settings) -> None:
        self.broken = False
        self._ready = False
        self._directory = (
            None
            if launcher.isolated
            else tempfile.TemporaryDirectory(prefix="appo-sandbox-", ignore_cleanup_errors=True)
        )
        rules = seccomp_filter() if launcher.isolated else None
        given = {
            "isolated": launcher.isolated,
            "protects": launcher.protects,
            "filter": rules.hex() if rules else "",
            "uid": next_uid() if launcher.own_uid else 0,
            "scratch": self._directory.name if self._directory else SCRATCH,
            "modules": [(f"appo_sandbox.{name}", _source(name)) for name in _MODULES],
            "paths": packages(),
            "preload": PRELOAD,
            "processes": settings.processes if launcher.isolated else 1,
            **{name: getattr(settings, name) for name in ("memory", "cpu_seconds", "keep", "file_bytes")},
        }
        command = [interpreter(), "-S", "-s", "-B", "-X", "utf8", "-c", _BOOT, json.dumps(given)]
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [*launcher.prefix, *command],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                cwd=self._directory.name if self._directory else "/",
                env=_ENVIRONMENT,
                start_new_session=True,
            )
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """Of the process that was started (bubblewrap's, or the interpreter's)."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the sandbox still waits for a program."""
        poller = select.poll()
        poller.register(self._socket, 0)  # hang-ups are always reported
        return not self.broken and not poller.poll(0)

    def run(self, code: str, seconds: float) -> Outcome:
        """Runs a program; starts the clock when the sandbox is ready.

        Raises:
            RuntimeError: where the sandbox does not start.
        """
        self._wait_until_ready()
        self.broken = True  # unless all goes well
        program = _file_of(code.encode("utf-8", "replace"))
        output, theirs = os.pipe()
        try:
            try:
                socket.send_fds(self._socket, [b"run"], [program, theirs])
            except OSError:  # it died while it waited
                return Outcome(b"", "killed", 0, False)
            finally:
                os.close(program)
                os.close(theirs)
            os.set_blocking(output, False)
            return self._follow(output, seconds)
        finally:
            os.close(output)

    def stop(self) -> None:
        """Ends what is running or kept."""
        try:
            self._socket.send(b"stop")
        except OSError:
            self.broken = True

    def hang_up(self) -> None:
        """Makes the sandbox end by itself; a thread that waits for a program learns that it was killed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """Ends the sandbox. Not while another thread uses it."""
        self.hang_up()
        if self._directory:  # not isolated: only its first process can end the others
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS)
        self._process.kill()  # isolated: the first process dies with bubblewrap, and all others with the first
        self._process.wait()
        self._socket.close()
        self._errors.close()
        if self._directory:
            self._directory.cleanup()

    def forget(self) -> None:
        """In a fork of the process that started the sandbox: lets go of it, without ending it."""
        self._socket.close()
        self._process.returncode = 0  # not a child of this process, so not to be waited for
        if self._directory:  # which is the other process's to remove
            self._directory._finalizer.detach()  # type: ignore[attr-defined]

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        self._socket.settimeout(START_SECONDS)
        try:
            ready = self._socket.recv(16) == b"ready"
        except OSError:
            ready = False
        self._socket.settimeout(None)
        if not ready:
            self.broken = True
            self._errors.seek(0)
            lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            raise RuntimeError(f"The Python sandbox does not start: {lines[-1] if lines else 'no reason given'}.")
        self._ready = True

    def _follow(self, pipe: int, seconds: float) -> Outcome:
        """Collects output until the sandbox says how the call ended; stops a program that takes or prints too much.

        The end of the pipe proves nothing: a program may close it and live on, and a child may hold it.
        """
        deadline, output, error = time.monotonic() + seconds, bytearray(), None
        poller = select.poll()
        poller.register(pipe, select.POLLIN)
        poller.register(self._socket, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            events = dict(poller.poll(max(0, math.ceil(left * 1000))))
            if pipe in events and (_read(pipe, output) or len(output) > MAX_COLLECTED_BYTES):
                poller.unregister(pipe)
            if self._socket.fileno() in events:
                break
            late, flooded = time.monotonic() > deadline, len(output) > MAX_COLLECTED_BYTES
            if error and late:  # stopped, and still not over
                return Outcome(bytes(output), error, 0, False)
            if not error and (late or flooded):
                error = "output" if flooded else "timeout"
                deadline = time.monotonic() + GRACE_SECONDS
                self.stop()
        return self._finish(pipe, output, error)

    def _finish(self, pipe: int, output: bytearray, error: str | None) -> Outcome:
        try:
            reply = self._socket.recv(16)
        except OSError:
            reply = b""
        while len(output) <= MAX_COLLECTED_BYTES and not _read(pipe, output):
            pass
        if len(reply) != struct.calcsize("<i??"):  # the sandbox died
            return Outcome(bytes(output), error or "killed", 0, False)
        status, kept, clean = struct.unpack("<i??", reply)
        self.broken = not clean
        if error is None and len(output) > MAX_COLLECTED_BYTES:
            error = "output"
        if error is None and status:
            error = "killed" if status < 0 else "exception"
        if kept and error in ("timeout", "output"):
            self.stop()
            kept = False
        return Outcome(bytes(output), error, status, kept)


def _read(pipe: int, output: bytearray) -> bool:
    """Adds what is there; True if that is all there will be, or all there is for now."""
    try:
        chunk = os.read(pipe, 1 << 16)
    except BlockingIOError:
        return True
    output += chunk
    return not chunk


def _source(name: str) -> str:
    return Path(__file__).with_name(f"{name}.py").read_text()


def _file_of(content: bytes) -> int:
    """A file in memory, at its start: not a pipe, which could block whoever fills it."""
    fd = os.memfd_create("program")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
