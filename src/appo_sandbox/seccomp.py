"""What becomes of a program's system calls in the sandbox, as a seccomp filter.

Namespaces and missing rights stop most of what a program should not do. The filter covers what they do not, by naming
what is allowed: calls as a whole (`calls`) or with some arguments. The others fail with EPERM; those that
came with Linux 5.1 or later fail with ENOSYS, as on a kernel that has not got them, so that a new C library falls back
on what it used before.

Locks on files (`flock`, `lockf`) are pretended: the call succeeds and does nothing. A file of the host may not be
locked, and a filter cannot tell it from one of the program's own, which only its own processes see (sqlite3 needs
locks).

Hints about files (`posix_fadvise`) are pretended too.

Left out on purpose: processors other than x86-64 and ARM64, where programs run without the filter.
"""

import errno
import platform
import struct
from typing import NamedTuple

from appo_sandbox.calls import UNCONDITIONAL

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data, little-endian
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PRETEND, _DENY, _UNKNOWN, _NO_DEVICE = (_ERRNO | number for number in (0, errno.EPERM, errno.ENOSYS, errno.ENOTTY))

_NEWER = 424  # the first number of Linux 5.1
_X32 = 0x40000000  # from here on, x86-64's second set of numbers for the same calls
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET

Instruction = tuple[int, int, int, int]  # operation, operand, instructions to skip if it holds, and if not


class Rule(NamedTuple):
    """A verdict that depends on an argument, of which a filter sees the number but not what it points to.

    Args:
        argument: Its place, from 0. Its lower 32 bits count, as for the kernel.
        tests: (operation, operand, verdict); the first that holds decides.
        otherwise: The verdict where none holds.
    """

    argument: int
    tests: tuple[tuple[int, int, int], ...]
    otherwise: int


def _one_of(argument: int, *values: int, pretended: tuple[int, ...] = (), otherwise: int = _DENY) -> Rule:
    verdicts = [(value, _ALLOW) for value in values] + [(value, _PRETEND) for value in pretended]
    return Rule(argument, tuple((_EQUAL, value, verdict) for value, verdict in verdicts), otherwise)


_ON_ITSELF = _one_of(0, 0)
# Numbers as in `calls`.
_CONDITIONAL: dict[str, tuple[tuple[int, int], Rule | int]] = {
    # Flags of clone3 lie in memory, out of a filter's sight, so it is unknown, and the C library uses clone.
    "clone": ((56, 220), Rule(0, ((_ANY_BIT, _NEW_NAMESPACES, _DENY),), _ALLOW)),
    "socketpair": ((53, 199), _one_of(0, 1)),  # AF_UNIX
    "prlimit64": ((302, 261), _ON_ITSELF),
    "sched_setaffinity": ((203, 122), _ON_ITSELF),
    "sched_setscheduler": ((144, 119), _ON_ITSELF),
    "sched_setparam": ((142, 118), _ON_ITSELF),
    "sched_setattr": ((314, 274), _ON_ITSELF),
    "flock": ((73, 32), _PRETEND),
    "fadvise64": ((221, 223), _PRETEND),  # it could take a file of the host out of memory
    # With RWF_NOWAIT they say what of a file of the host is in memory; without flags the C library has others.
    "preadv2": ((327, 286), _UNKNOWN),
    "pwritev2": ((328, 287), _UNKNOWN),
    # MADV_: NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED, FREE, DONTFORK, DOFORK, (NO)HUGEPAGE, (DONT, DO)DUMP,
    # WIPEONFORK, KEEPONFORK. So none that takes files of the host out of memory or merges pages with others.
    "madvise": ((28, 233), _one_of(2, 0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 17, 18, 19)),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_OFD_GETLK, F_DUPFD_CLOEXEC, F_GETPIPE_SZ; pretended
    # F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW. So no leases, no notices, no signals, no hints for the disk.
    "fcntl": ((72, 25), _one_of(1, 0, 1, 2, 3, 4, 5, 36, 1030, 1032, pretended=(6, 7, 37, 38))),
    # FIOCLEX, FIONCLEX, FIONBIO, FIONREAD, FICLONE. So no flags of files; there are no devices.
    "ioctl": ((16, 29), _one_of(1, 0x5451, 0x5450, 0x5421, 0x541B, 0x40049409, otherwise=_NO_DEVICE)),
    # PR_SET_ and PR_GET_: PDEATHSIG, DUMPABLE, NAME, NO_NEW_PRIVS.
    "prctl": ((157, 167), _one_of(0, 1, 2, 3, 4, 15, 16, 38, 39)),
}


def seccomp_filter(machine: str | None = None) -> bytes | None:
    """The filter as an array of struct sock_filter; None for a processor whose numbers are not known here.

    Args:
        machine: As `platform.machine()` names it; this machine's by default.
    """
    known = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
    column, architecture = known.get(machine or platform.machine(), (None, 0))
    if column is None:
        return None
    verdicts: dict[int | None, Rule | int] = {numbers[column]: _ALLOW for numbers in UNCONDITIONAL.values()}
    verdicts |= {numbers[column]: verdict for numbers, verdict in _CONDITIONAL.values()}
    program = [
        (_LOAD, _ARCHITECTURE, 0, 0),
        (_EQUAL, architecture, 1, 0),
        (_RETURN, _DENY, 0, 0),
        (_LOAD, _NUMBER, 0, 0),
        *_search(_ranges(verdicts)),
    ]
    return b"".join(struct.pack("<HBBI", operation, yes, no, operand) for operation, operand, yes, no in program)


def _ranges(verdicts: dict[int | None, Rule | int]) -> list[tuple[int, Rule | int]]:
    """First numbers of ranges with the same verdict, which cover all there are."""
    ranges: list[tuple[int, Rule | int]] = []
    for first in sorted(
        {0, _NEWER, _X32, *(n for number in verdicts if number is not None for n in (number, number + 1))}
    ):
        verdict = verdicts.get(first, _UNKNOWN if _NEWER <= first < _X32 else _DENY)
        if not ranges or ranges[-1][1] != verdict:
            ranges.append((first, verdict))
    return ranges


def _search(ranges: list[tuple[int, Rule | int]]) -> list[Instruction]:
    """Finds the range of the loaded number by halving, which is quicker than one by one, and jumps less far."""
    if len(ranges) == 1:
        return _decide(ranges[0][1])
    middle = len(ranges) // 2
    below, rest = _search(ranges[:middle]), _search(ranges[middle:])
    return [(_AT_LEAST, ranges[middle][0], len(below), 0), *below, *rest]


def _decide(verdict: Rule | int) -> list[Instruction]:
    if isinstance(verdict, int):
        return [(_RETURN, verdict, 0, 0)]
    program: list[Instruction] = [(_LOAD, _ARGUMENTS + 8 * verdict.argument, 0, 0)]
    for operation, operand, result in verdict.tests:
        program += [(operation, operand, 0, 1), (_RETURN, result, 0, 0)]
    return [*program, (_RETURN, verdict.otherwise, 0, 0)]
