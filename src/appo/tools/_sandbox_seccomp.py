"""The system calls that programs in the sandbox are denied, as a seccomp filter for `bwrap --seccomp`.

Namespaces and missing rights stop most of what a program should not do. The filter covers what they do not: sockets
that no network namespace confines (a virtual machine's host answers on AF_VSOCK), memory outside the address space
that is limited (SysV, memfd), state that would outlive the call (SysV and POSIX queues, kernel keys), changing limits
and priority of process 1, locks on files that others see too, new user namespaces, and calls known for bugs in the
kernel (BPF, io_uring, userfaultfd).

Left out on purpose: processors other than x86-64 and ARM64, where programs run without the filter; a list of what is
allowed, which every new version of the C library would break.
"""

import errno
import platform
import struct

# name: number on x86-64, number on ARM64; from 424 on they are the same.
_DENIED = {
    "socket": (41, 198),  # socketpair is another call, and stays
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "inotify_init1": (294, 26),
    "flock": (73, 32),
    "personality": (135, 92),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
}
# Allowed for the calling process alone, that is, with 0 as their first argument.
_ON_ITSELF = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET
_INOTIFY_INIT = 253  # on x86-64 only
_X32 = 0x40000000  # x86-64's second set of numbers for the same calls

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, little-endian
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def seccomp_filter(machine: str | None = None) -> bytes | None:
    """The filter as an array of struct sock_filter; None for a processor whose numbers are not known here.

    Args:
        machine: As `platform.machine()` names it; this machine's by default.
    """
    known = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
    column, architecture = known.get(machine or platform.machine(), (None, 0))
    if column is None:
        return None
    # (operation, operand, where to go if it holds, and if not); a missing place is the next instruction.
    program: list[tuple[int, int, str, str]] = [
        (_LOAD, _ARCHITECTURE, "", ""),
        (_EQUAL, architecture, "", "denied"),
        (_LOAD, _NUMBER, "", ""),
    ]
    if column == 0:
        program += [(_AT_LEAST, _X32, "denied", ""), (_EQUAL, _INOTIFY_INIT, "denied", "")]
    program += [(_EQUAL, numbers[column], "denied", "") for numbers in _DENIED.values()]
    program += [(_EQUAL, numbers[column], "itself", "") for numbers in _ON_ITSELF.values()]
    program += [(_EQUAL, _CLONE3[column], "unknown", ""), (_EQUAL, _CLONE[column], "", "allowed")]
    program += [(_LOAD, _FIRST_ARGUMENT, "", ""), (_ANY_BIT, _NEW_NAMESPACES, "denied", "allowed")]
    places = {"itself": len(program)}
    program += [(_LOAD, _FIRST_ARGUMENT, "", ""), (_EQUAL, 0, "allowed", "denied")]
    # Flags of clone3 lie in memory, out of a filter's sight; the C library falls back on clone where it is unknown.
    ends = {"allowed": _ALLOW, "denied": _ERRNO | errno.EPERM, "unknown": _ERRNO | errno.ENOSYS}
    for name, value in ends.items():
        places[name] = len(program)
        program.append((_RETURN, value, "", ""))
    return b"".join(
        struct.pack("<HBBI", operation, *(places[to] - at - 1 if to else 0 for to in (yes, no)), operand)
        for at, (operation, operand, yes, no) in enumerate(program)
    )
