"""Runs a program in the present process and shows its last expression or its error, inside a sandbox.

Imports nothing of the package, which cannot be seen there.
"""

import ast
import atexit
import contextlib
import io
import os
import sys
import threading
from os import _exit
from typing import Any


class Output(io.TextIOWrapper):
    """Standard output that knows whether anything was printed."""

    used = False

    def write(self, text: str) -> int:
        self.used = self.used or bool(text)
        return super().write(text)


def execute(code: str, space: dict[str, Any]) -> int:
    """Runs a program; its exit status. Errors are printed in one line."""
    # Line by line, so that a program that is stopped has shown what it printed.
    binary = open(1, "wb", closefd=False)  # noqa: SIM115
    sys.stdout = output = Output(binary, encoding="utf-8", errors="replace", line_buffering=True)
    status = 0
    try:
        tree: Any = compile(code, "<program>", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<program>", "exec", dont_inherit=True), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<program>", "eval", dont_inherit=True), space)
            if value is not None and not output.used:
                print(value)
    except SystemExit as error:
        status = error.code & 255 if isinstance(error.code, int) else 0 if error.code is None else 1
        if error.code is not None and not isinstance(error.code, int):
            print(error.code)
    except BaseException as error:
        status = 1
        describe(error)
    with contextlib.suppress(Exception):  # what a program left in place of it
        sys.stdout.flush()
    return status


def describe(error: BaseException) -> None:
    """Writes an error in one line, with the program's last line that took part."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    try:
        message = error.msg if isinstance(error, SyntaxError) else str(error)
    except BaseException:  # the program's own exception
        message = ""
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<program>" else line
        trace = trace.tb_next
    where = f" (line {line})" if line else ""
    with contextlib.suppress(OSError):
        os.write(1, f"{type(error).__name__}{': ' if message else ''}{message}{where}\n".encode("utf-8", "replace"))


def finish(status: int) -> None:
    """Ends the process as an interpreter would, but without taking apart the libraries, which takes long."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
        atexit._run_exitfuncs()
        sys.stdout.flush()
    _exit(status)
