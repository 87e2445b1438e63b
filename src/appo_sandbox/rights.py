"""What a sandbox's first process takes from itself before it runs anything: a mount's writability, a right, calls.

Runs inside the sandbox, so it imports nothing of the package. The C library is called by name: numbers of system
calls differ between processors.

Left out on purpose: what bubblewrap can do itself. It makes a device read-only only together with `nodev`, after which
nobody can open it, and its filter would be there before the mounts are.
"""

import ctypes
import os
import struct

DEVICES = ("/dev/null", "/dev/urandom")
_MS_RDONLY, _MS_REMOUNT, _MS_BIND = 1, 32, 4096
_MS_KEPT = 2 | 4 | 8 | 1024 | 2048  # nosuid, nodev, noexec, noatime, nodiratime: the same numbers in `statvfs`
_ST_RELATIME, _MS_RELATIME = 4096, 1 << 21
_CAPABILITIES_3, _SYS_ADMIN = 0x20080522, 1 << 21
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2


def protect_devices() -> None:
    """Makes the devices' mounts read-only: what they do stays, but nobody can change their times, owner or rights.

    Needs CAP_SYS_ADMIN in the user namespace of the mounts, and gives it up afterwards.

    Raises:
        OSError: where the kernel refuses either.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for path in DEVICES:
        now = os.statvfs(path).f_flag
        kept = now & _MS_KEPT | (_MS_RELATIME if now & _ST_RELATIME else 0)  # some may not be taken away
        flags = _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept
        _check(libc.mount(None, path.encode(), None, ctypes.c_ulong(flags), None))
    header = struct.pack("Ii", _CAPABILITIES_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the same of the higher capabilities
    _check(libc.capget(header, sets))
    for i in range(3):
        sets[i] &= ~_SYS_ADMIN
    _check(libc.capset(header, sets))


def install_filter(program: bytes) -> None:
    """Binds this process and all that it starts to a seccomp filter, an array of struct sock_filter.

    Raises:
        OSError: where the kernel refuses it, for example without PR_SET_NO_NEW_PRIVS, which bubblewrap sets.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    _check(libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), filter_, 0, 0))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
