"""The filter, run here as the kernel would run it."""

import struct

import pytest

from appo.tools._sandbox_seccomp import seccomp_filter

ALLOWED, DENIED, UNKNOWN = 0x7FFF0000, 0x00050001, 0x00050026
X86, ARM = 0xC000003E, 0xC00000B7


def verdict(machine: str, architecture: int, number: int, first_argument: int = 0) -> int:
    program = list(struct.iter_unpack("<HBBI", seccomp_filter(machine)))
    data = struct.pack("<IIQQ", number, architecture, 0, first_argument)
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
    ("machine", "architecture", "number", "first_argument", "expected"),
    [
        ("x86_64", X86, 0, 0, ALLOWED),  # read
        ("x86_64", X86, 53, 1, ALLOWED),  # socketpair
        ("x86_64", X86, 41, 2, DENIED),  # socket
        ("x86_64", X86, 253, 0, DENIED),  # inotify_init
        ("x86_64", X86, 251, 0, DENIED),  # ioprio_set, the last of the list
        ("x86_64", X86, 56, 0x1200011, ALLOWED),  # clone, as fork calls it
        ("x86_64", X86, 56, 0x10000011, DENIED),  # clone into a user namespace
        ("x86_64", X86, 435, 0, UNKNOWN),  # clone3
        ("x86_64", X86, 302, 0, ALLOWED),  # prlimit64 on itself
        ("x86_64", X86, 302, 1, DENIED),
        ("x86_64", X86, 0x40000000, 0, DENIED),  # read by its other number
        ("x86_64", 0x40000003, 0, 0, DENIED),  # of 32 bits
        ("aarch64", ARM, 198, 2, DENIED),  # socket
        ("aarch64", ARM, 63, 0, ALLOWED),  # read
        ("aarch64", ARM, 220, 0x10000011, DENIED),  # clone into a user namespace
        ("aarch64", X86, 63, 0, DENIED),
    ],
)
def test_verdicts(machine: str, architecture: int, number: int, first_argument: int, expected: int) -> None:
    assert verdict(machine, architecture, number, first_argument) == expected


def test_other_processors_have_no_filter() -> None:
    assert seccomp_filter("riscv64") is None
