"""What runs inside a sandbox: process 1, which has the libraries loaded, forks a child for every call and cleans up.

A bare interpreter gets this module's source and those of `program` and `rights` (`worker`
sees to that), so they import nothing else of the package. Standard input is a socket to the caller: `run`, with the
program and a pipe for what it prints as file descriptors, is answered by how the program ended; `stop` ends what is
running or kept; the end of the socket, so also the caller's death, ends the sandbox.

Process 1 never reads a program or what it prints, since the next child inherits its memory. It can be neither traced
nor signalled from inside. When a call is over it kills every other process (atomically, as process 1 of their
namespace), waits for them, and empties the scratch directory; where that fails the sandbox ends.

With `keep` the child stays and serves the next calls too, so that variables live on. It is stopped in between, and
trusted no more than its programs: it has only a socket to process 1.
"""

import builtins
import contextlib
import ctypes
import gc
import importlib
import mmap
import os
import random
import resource
import select
import shutil
import signal
import site
import socket
import struct
import sys
import time
import types
from os import _exit  # a program may put something else into `os`
from typing import Any

from appo_sandbox.program import execute, finish
from appo_sandbox.rights import install_filter, protect_devices

MAX_FDS = 64
MAX_FILES = 1000  # that process 1 removes after a call; with more it is quicker to start another sandbox
STATUS_BROKEN = 255  # of a child that failed outside of its program
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36


class Zygote:
    """Process 1.

    Args:
        settings: As `worker.Settings` documents them, and `isolated`, `uid`, `scratch`.
        control: The socket to the caller.
    """

    def __init__(self, settings: dict[str, Any], control: socket.socket) -> None:
        self.settings, self.control = settings, control
        self.isolated = settings["isolated"]
        if settings["protects"]:
            protect_devices()
        if settings["filter"]:
            install_filter(bytes.fromhex(settings["filter"]))
        self.mapped = 0
        self.child = 0  # 0: none
        self.channel: socket.socket | None = None
        self.pidfd = -1

    def prepare(self) -> None:
        """Protects itself and loads the libraries."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 1 only gets signals from inside that it handles
        prctl(PR_SET_DUMPABLE, 0)
        if self.isolated:
            if os.getpid() != 1:
                raise RuntimeError("bubblewrap did not make a process namespace")
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        else:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
        os.chdir(self.settings["scratch"])
        if self.settings["uid"]:
            os.chown(".", self.settings["uid"], self.settings["uid"])
        self.clean()
        sys.path[:] = [path for path in sys.path if path] + self.settings["paths"]
        site.setquit()
        for name in self.settings["preload"]:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        if "sympy" in sys.modules:
            warm_up(sys.modules["sympy"])
        # The same for every program, so that a session can be replayed; `random` is seeded again in the child.
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(0)
        os.environ.clear()
        gc.collect()
        gc.freeze()
        self.mapped = mapped_bytes()
        devnull = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(devnull, fd)
        os.close(devnull)

    def serve(self) -> None:
        """Calls, one after another, until the caller is gone."""
        self.control.send(b"ready")
        while True:
            message, fds, _, _ = socket.recv_fds(self.control, 16, 2)
            if not message:
                self.leave()
            if message == b"run":
                status, kept, fine = self.run(fds)
                self.control.send(struct.pack("<i??", status, kept, fine))
                if not fine:
                    self.leave()
            elif self.child:
                _, fine = self.end()
                if not fine:
                    self.leave()
            # else a `stop` for a call that has ended by itself

    def run(self, fds: list[int]) -> tuple[int, bool, bool]:
        """One call: the child's status, whether it is kept, and whether the sandbox can be used again."""
        if self.child:
            self.signal_all(signal.SIGCONT)
        else:
            self.fork()
        assert self.channel is not None
        with contextlib.suppress(OSError):  # a child that is gone
            socket.send_fds(self.channel, [b"run"], fds)
        for fd in fds:
            os.close(fd)
        poller = select.poll()
        poller.register(self.control, select.POLLIN)
        poller.register(self.pidfd, select.POLLIN)
        if self.settings["keep"]:
            poller.register(self.channel, select.POLLIN)
        ready = {fd for fd, _ in poller.poll()}
        if self.control.fileno() in ready:
            if not self.control.recv(16):
                self.leave()
        elif self.pidfd not in ready:
            message = b""
            with contextlib.suppress(OSError):
                message = self.channel.recv(16)
            if len(message) == 1:
                self.signal_all(signal.SIGSTOP)
                return message[0], True, True
        status, fine = self.end()
        return status, False, fine

    def fork(self) -> None:
        """Starts the child."""
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)
        self.child = os.fork()
        if not self.child:
            try:
                for fd in set(range(3, MAX_FDS)) - {theirs.fileno()}:  # the control socket among them
                    with contextlib.suppress(OSError):
                        os.close(fd)
                Child(self.settings, theirs, self.mapped).serve()
            finally:  # whatever a program did: never back into process 1's code
                _exit(STATUS_BROKEN)
        theirs.close()
        self.pidfd = os.pidfd_open(self.child)

    def end(self) -> tuple[int, bool]:
        """Ends all other processes: the child's status (negative: the signal that ended it), whether all is clean."""
        status = STATUS_BROKEN
        for pid, code in self.kill_all():
            if pid == self.child:
                status = os.waitstatus_to_exitcode(code)
        assert self.channel is not None
        self.channel.close()
        os.close(self.pidfd)
        self.child, self.channel = 0, None
        try:
            self.clean()
        except (OSError, RecursionError):
            return status, False
        return status, True

    def kill_all(self) -> list[tuple[int, int]]:
        """Kills and reaps all there is; ids and statuses."""
        ended: list[tuple[int, int]] = []
        while True:
            self.signal_all(signal.SIGKILL)
            try:
                # Not isolated, an orphan may become a child after its parent was killed: look again.
                pid, code = os.waitpid(-1, 0 if self.isolated else os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid:
                ended.append((pid, code))
            else:
                time.sleep(0.001)

    def signal_all(self, number: int) -> None:
        if self.isolated:
            targets = [-1]  # all of the namespace but process 1
        else:
            with open("/proc/thread-self/children") as file:  # orphans too, as they are adopted
                targets = [int(pid) for pid in file.read().split()]
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def clean(self) -> None:
        """Empties the scratch directory; raises OSError where that fails or would take long."""
        if self.isolated:
            room = os.statvfs(".")
            if room.f_files - room.f_ffree > MAX_FILES:
                raise OSError("too many files")
        os.chmod(".", 0o700)
        attributes: list[str] = []
        with contextlib.suppress(OSError):  # a file system that has none
            attributes = os.listxattr(".")
        for name in attributes:
            os.removexattr(".", name)
        for entry in list(os.scandir(".")):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        os.utime(".", (0, 0))

    def leave(self) -> None:
        """Ends the sandbox."""
        if not self.isolated:  # else the kernel does both
            self.kill_all()
            shutil.rmtree(self.settings["scratch"], ignore_errors=True)
        _exit(0)


class Child:
    """What runs programs: one, or with `keep` one after another with the same variables."""

    def __init__(self, settings: dict[str, Any], channel: socket.socket, mapped: int) -> None:
        self.settings, self.channel = settings, channel
        self.mapped = mapped
        self.pid = os.getpid()
        # Opened anew: flags that a program sets of an open file are those of all who inherited it.
        self.devnull = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(self.devnull, fd)

    def serve(self) -> None:
        """Gives up rights, then runs what the channel brings."""
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # for what is not isolated
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if uid := self.settings["uid"]:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        limits = {
            "AS": self.mapped + self.settings["memory"],
            "NPROC": self.settings["processes"],
            "FSIZE": self.settings["file_bytes"],
            "NOFILE": MAX_FDS,
            "CORE": 0,
        }
        for name, value in limits.items():
            limit(getattr(resource, "RLIMIT_" + name), value)
        random.seed(0)
        main = types.ModuleType("__main__")
        main.__builtins__ = builtins  # type: ignore[attr-defined]
        sys.modules["__main__"], sys.argv = main, ["program"]
        while True:
            self.call(main.__dict__)

    def call(self, space: dict[str, Any]) -> None:
        message, fds, _, _ = socket.recv_fds(self.channel, 16, 2)
        if not message:
            _exit(0)
        keep = self.settings["keep"]
        if not keep:
            self.channel.close()
            os.close(self.devnull)
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + self.settings["cpu_seconds"]
        limit(resource.RLIMIT_CPU, seconds, for_good=not keep)
        with open(fds[0], "rb") as file:
            code = file.read().decode()
        os.dup2(fds[1], 1)
        os.dup2(fds[1], 2)
        os.close(fds[1])
        status = execute(code, space)
        if not keep or os.getpid() != self.pid:  # the latter: a process that the program forked
            finish(status)
        os.dup2(self.devnull, 1)
        os.dup2(self.devnull, 2)
        self.channel.send(bytes([status]))


def limit(kind: int, value: int, for_good: bool = True) -> None:
    """Sets a limit, which the program may raise again unless it is for good."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value if for_good else hard))


def mapped_bytes() -> int:
    """The address space that this process uses. Without /proc: the least limit under which one more page is mapped."""
    kind, page = resource.RLIMIT_AS, mmap.PAGESIZE
    before = resource.getrlimit(kind)
    low, high = 0, 1 << 47
    while high - low > page:
        middle = (low + high) // 2
        resource.setrlimit(kind, (middle, before[1]))
        try:
            mmap.mmap(-1, page).close()
            high = middle
        except (OSError, MemoryError):
            low = middle
    resource.setrlimit(kind, before)
    return high


def warm_up(sympy: Any) -> None:
    """Makes sympy load what it loads when first used; a program would wait for it 0.3 s in every call."""
    x = sympy.Symbol("x")
    sympy.integrate(x**2, x)
    sympy.solve(x**2 - 1, x)
    sympy.nsolve(x**2 - 2, x, 1)
    sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2)


def prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main(settings: dict[str, Any]) -> None:
    """Runs the sandbox; does not return."""
    zygote = Zygote(settings, socket.socket(fileno=os.dup(0)))
    zygote.prepare()
    try:
        zygote.serve()
    finally:  # the caller was gone before the sandbox was ready, or something failed here
        try:
            zygote.leave()
        finally:
            _exit(1)
