"""The filter, run here as the kernel would run it."""

import struct

import pytest

from appo_sandbox.calls import UNCONDITIONAL
from appo_sandbox.seccomp import _CONDITIONAL, seccomp_filter

ALLOWED, PRETENDED, DENIED, UNKNOWN, NO_DEVICE = 0x7FFF0000, 0x00050000, 0x00050001, 0x00050026, 0x00050019
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
BITS_32 = 0x40000003  # x86's


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    program = list(struct.iter_unpack("<HBBI", seccomp_filter(machine) or b""))
    arguments = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *arguments)
    at = accumulator = 0
    while True:
        operation, yes, no, operand = program[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif operation == 0x06:
            return operand
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}
            at += yes if holds[operation] else no


@pytest.mark.parametrize(
    ("machine", "number", "arguments", "expected"),
    [
        ("x86_64", 0, (), ALLOWED),  # read
        ("x86_64", 53, (1,), ALLOWED),  # socketpair of AF_UNIX
        ("x86_64", 53, (2,), DENIED),  # of AF_INET
        ("x86_64", 41, (2,), DENIED),  # socket
        ("x86_64", 253, (), DENIED),  # inotify_init
        ("x86_64", 154, (1,), DENIED),  # modify_ldt
        ("x86_64", 165, (), DENIED),  # mount
        ("x86_64", 334, (), ALLOWED),  # rseq, the last that is older than Linux 5.1
        ("x86_64", 335, (), DENIED),
        ("x86_64", 423, (), DENIED),
        ("x86_64", 424, (), ALLOWED),  # pidfd_send_signal, the first of Linux 5.1
        ("x86_64", 425, (), UNKNOWN),  # io_uring_setup
        ("x86_64", 457, (), UNKNOWN),  # statmount
        ("x86_64", 458, (), UNKNOWN),  # listmount
        ("x86_64", 469, (), UNKNOWN),  # file_setattr
        ("x86_64", 0x3FFFFFFF, (), UNKNOWN),
        ("x86_64", 0x40000000, (), DENIED),  # read by its other number
        ("x86_64", 0xFFFFFFFF, (), DENIED),
        ("x86_64", 56, (0x1200011,), ALLOWED),  # clone, as fork calls it
        ("x86_64", 56, (0x3D0F00,), ALLOWED),  # as a thread is made
        ("x86_64", 56, (0x10000011,), DENIED),  # into a user namespace
        ("x86_64", 435, (), UNKNOWN),  # clone3
        ("x86_64", 302, (0,), ALLOWED),  # prlimit64 on itself
        ("x86_64", 302, (1,), DENIED),
        ("x86_64", 302, (1 << 32,), ALLOWED),  # the kernel too takes the lower half
        ("x86_64", 72, (3, 1), ALLOWED),  # fcntl F_GETFD
        ("x86_64", 72, (3, 6), PRETENDED),  # F_SETLK
        ("x86_64", 72, (3, 38), PRETENDED),  # F_OFD_SETLKW
        ("x86_64", 72, (3, 8), DENIED),  # F_SETOWN
        ("x86_64", 72, (3, 1024), DENIED),  # F_SETLEASE
        ("x86_64", 72, (3, 1026), DENIED),  # F_NOTIFY
        ("x86_64", 72, (3, 1026 | 1 << 32), DENIED),
        ("x86_64", 73, (3, 2), PRETENDED),  # flock
        ("x86_64", 16, (3, 0x5451), ALLOWED),  # ioctl FIOCLEX
        ("x86_64", 16, (3, 0x40086602), NO_DEVICE),  # FS_IOC_SETFLAGS
        ("x86_64", 16, (3, 0x5412), NO_DEVICE),  # TIOCSTI
        ("x86_64", 157, (1, 9), ALLOWED),  # prctl PR_SET_PDEATHSIG
        ("x86_64", 157, (22, 2), DENIED),  # PR_SET_SECCOMP
        ("x86_64", 188, (), DENIED),  # setxattr
        ("x86_64", 221, (3, 0, 0, 4), PRETENDED),  # fadvise64
        ("x86_64", 327, (), UNKNOWN),  # preadv2
        ("x86_64", 328, (), UNKNOWN),  # pwritev2
        ("x86_64", 28, (0, 4096, 4), ALLOWED),  # madvise MADV_DONTNEED
        ("x86_64", 28, (0, 4096, 21), DENIED),  # MADV_PAGEOUT
        ("x86_64", 314, (0,), ALLOWED),  # sched_setattr on itself
        ("x86_64", 314, (1,), DENIED),
        ("aarch64", 63, (), ALLOWED),  # read
        ("aarch64", 5, (), DENIED),  # setxattr
        ("aarch64", 286, (), UNKNOWN),  # preadv2
        ("aarch64", 274, (1,), DENIED),  # sched_setattr
        ("aarch64", 198, (2,), DENIED),  # socket
        ("aarch64", 25, (3, 1026), DENIED),  # fcntl F_NOTIFY
        ("aarch64", 29, (3, 0x40086602), NO_DEVICE),
        ("aarch64", 220, (0x10000011,), DENIED),  # clone into a user namespace
        ("aarch64", 435, (), UNKNOWN),
        ("aarch64", 458, (), UNKNOWN),
    ],
)
def test_verdicts(machine: str, number: int, arguments: tuple[int, ...], expected: int) -> None:
    assert verdict(machine, number, *arguments) == expected


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_nothing_is_allowed_that_is_not_listed(machine: str) -> None:
    column = list(ARCHITECTURES).index(machine)
    listed = {numbers[column] for numbers in UNCONDITIONAL.values()} - {None}
    with_arguments = {numbers[column] for numbers, _ in _CONDITIONAL.values()}
    assert not listed & with_arguments
    for number in range(1000):
        if number in listed:
            assert verdict(machine, number) == ALLOWED
        elif number not in with_arguments:
            assert verdict(machine, number) == (UNKNOWN if number >= 424 else DENIED), number


def test_calls_of_another_processor_are_denied() -> None:
    assert verdict("x86_64", 0, architecture=BITS_32) == DENIED
    assert verdict("x86_64", 0, architecture=ARCHITECTURES["aarch64"]) == DENIED
    assert verdict("aarch64", 63, architecture=ARCHITECTURES["x86_64"]) == DENIED


def test_numbers_are_named_once() -> None:
    for column in (0, 1):
        numbers = [row[column] for row in UNCONDITIONAL.values() if row[column] is not None]
        assert len(numbers) == len(set(numbers))


def test_other_processors_have_no_filter() -> None:
    assert seccomp_filter("riscv64") is None
