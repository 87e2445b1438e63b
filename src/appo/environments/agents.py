"""`AgentProgram`: an agent that is a program of its own, and asks the policy through OpenAI's API.

    async def run(row, base_url, api_key):            # or def; the reward, or None where reward functions give it
        client = AsyncOpenAI(base_url=base_url, api_key=api_key)
        ...

    AgentProgram(run)
    AgentProgram(["python", "agent.py", "{question}"])

A command gets `OPENAI_BASE_URL` and `OPENAI_API_KEY`, which OpenAI's client reads by itself, and its row as JSON in
`APPO_ROW`; a column's name in braces becomes that column's text. The last line that it prints is its reward, if that
is a number; `python` is the one that runs this. The key is the rollout's: whoever asks with it writes that rollout. An
agent may run in several threads
and processes, and is stopped after `timeout` seconds, or, where it is a thread, no longer answered.

Left out on purpose: who is asked (`appo.serve`), and what becomes of what is written (`appo.rollout.agents`).
"""

import asyncio
import errno
import inspect
import json
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

from appo.errors import UserError, did_you_mean

Row = Mapping[str, Any]
Run = Callable[[dict[str, Any], str, str], Any]
COLUMN = re.compile(r"\{(\w+)\}")
TAKES = "row, base_url, api_key"
SHOWN = 2000  # last characters of what a failed command said
KEPT = 64 * 1024  # last bytes of what a command prints
LET_PIPES = 1.0  # seconds in which what has been printed arrives, once a command has ended


class AgentFailed(RuntimeError):
    """A command ended with an error, or a function ended the program."""


class AgentProgram:
    """
    Args:
        run: A function, sync or async, that takes a row, the API's address (which ends in /v1) and a key, and returns
            a reward or None; or a command, as a list of words.
        timeout: Seconds of a rollout.
        at_once: Rollouts that run at once.

    Raises:
        UserError: for what is neither, and for bounds that are none.
    """

    def __init__(self, run: Run | Sequence[str], *, timeout: float = 600.0, at_once: int = 32) -> None:
        self.command = _words(run)
        self.function: Run | None = None if self.command else _checked(run)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            raise UserError(f"timeout of the agent must be a positive number of seconds, got {timeout!r}.")
        if isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1:
            raise UserError(f"at_once of the agent must be a whole number, at least 1, got {at_once!r}.")
        self.timeout, self.at_once = timeout, at_once

    @property
    def name(self) -> str:
        """For messages."""
        if self.command:
            return " ".join(self.command)
        return getattr(self.function, "__name__", type(self.function).__name__)

    async def run(self, row: Row, base_url: str, api_key: str) -> float | None:
        """One rollout of the agent; its reward, where it gives one.

        Raises:
            UserError: for a reward that is none.
            AgentFailed: for a command that ends with an error.
            Exception: whatever the function raises.
        """
        if self.command:
            return _last_number(await _run_command(_filled(self.command, row), row, base_url, api_key))
        assert self.function is not None
        function, given = self.function, (deepcopy(dict(row)), base_url, api_key)
        try:
            found = function(*given) if _is_async(function) else await _in_thread(function, *given)
            while inspect.isawaitable(found):  # once more where the agent forgot to
                found = await found
        except (SystemExit, KeyboardInterrupt) as error:
            raise AgentFailed(f"the agent ended the program: {error!r}") from error
        return self._reward(found)

    def _reward(self, found: Any) -> float | None:
        if found is None:
            return None
        try:
            number = float(found.item() if hasattr(found, "item") else found)
        except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: a tensor of several
            number = math.nan
        if isinstance(found, str) or not math.isfinite(number):
            raise UserError(f"agent = {self.name} returned {found!r}; return its reward, a finite number, or None.")
        return number


def agent_of(given: Any, tools: Any = None, environment_factory: Any = None) -> AgentProgram | None:
    """An agent from what a task or a trainer is given: a function, a command, or an agent already; None for None.

    Raises:
        UserError: for one beside tools or an environment, which are its own.
    """
    if given is None:
        return None
    agent = given if isinstance(given, AgentProgram) else AgentProgram(given)
    if tools or environment_factory is not None:
        raise UserError(f"agent = {agent.name} brings its own tools; leave out tools and environment_factory.")
    return agent


def _words(run: Any) -> list[str]:
    if callable(run):
        return []
    if isinstance(run, str):
        raise UserError(f"the agent is the text {run!r}; give a command as a list of words: {run.split()}.")
    if not isinstance(run, Sequence) or not run or not all(isinstance(word, str) for word in run):
        raise UserError(f"the agent must be a function or a command (a list of words), got {run!r}.")
    return [sys.executable if run[0] == "python" else run[0], *run[1:]]


def _checked(run: Any) -> Run:
    name = getattr(run, "__name__", type(run).__name__)
    if inspect.isclass(run):
        raise UserError(f"the agent is the class {name}; give a function, `def run({TAKES})`.")
    try:
        inspect.signature(run).bind(None, None, None)
    except (TypeError, ValueError) as error:
        raise UserError(f"the agent, {name}, must take {TAKES}: {error}; write `def run({TAKES})`.") from None
    return run


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


async def _in_thread(function: Callable[..., Any], *given: Any) -> Any:
    """What a function returns, in a thread that nobody has to wait for where it never returns."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if done.done():
            return  # nobody waits any longer
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(AgentFailed("StopIteration") if isinstance(error, StopIteration) else error)

    def work() -> None:
        result, failure = None, None
        try:
            result = function(*given)
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=work, name="appo-agent", daemon=True).start()
    return await done


def command_problems(command: list[str], columns: Iterable[str]) -> Iterator[str]:
    """What is wrong with a command, as far as it shows before it runs: columns in braces, a Python file."""
    known = list(columns)
    for name in dict.fromkeys(found for word in command for found in COLUMN.findall(word)):
        if name not in known:
            hint = did_you_mean(name, known, f"the rows have {', '.join(known)}.", "{{{}}}")
            yield f"command: {{{name}}} names no column; {hint}"
    own = command[:1] == [sys.executable] and len(command) > 1 and command[1].endswith(".py")
    if own and not Path(command[1]).is_file():
        yield f"command: there is no file {command[1]}; give its path."


def _filled(command: list[str], row: Row) -> list[str]:
    def text(found: re.Match[str]) -> str:
        if found[1] not in row:
            raise UserError(
                f"command: {found[0]} names no column; the rows have {', '.join(map(str, row))}. Name one of them."
            )
        value = row[found[1]]
        return value if isinstance(value, str) else json.dumps(value, default=str)

    return [COLUMN.sub(text, word) for word in command]


async def _run_command(command: list[str], row: Row, base_url: str, api_key: str) -> str:
    """The end of what a command prints; it and its children are ended with it, and where nobody waits any longer."""
    given = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": api_key, "APPO_ROW": json.dumps(row, default=str)}
    try:
        transport, process = await asyncio.get_running_loop().subprocess_exec(
            _Process, *command, env={**os.environ, **given}, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
        )
    except FileNotFoundError as error:
        raise UserError(f"command = {command}: there is no program {command[0]!r}; give its path.") from error
    except PermissionError as error:
        raise UserError(
            f"command = {command}: {command[0]!r} may not be run ({error.strerror}); make it so."
        ) from error
    except OSError as error:
        if error.errno != errno.E2BIG:
            raise
        raise UserError(
            f"command: a row of {len(given['APPO_ROW']):,} characters is too long for a program's environment and its "
            "words; keep long texts in files that the row names, or give a function (agent)."
        ) from error
    except ValueError as error:  # a NUL, or half a character
        raise UserError(f"command: a row cannot be told to a program ({error}); repair its text.") from error
    try:
        await process.ended.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
        await process.ended.wait()
        with suppress(TimeoutError):  # a child that left the group may hold them
            async with asyncio.timeout(LET_PIPES):
                await process.closed.wait()
        transport.close()
    told, said = (process.printed[number].decode(errors="replace") for number in (1, 2))
    if code := transport.get_returncode():
        raise AgentFailed(f"{' '.join(command)} ended with {code}: {said[-SHOWN:].strip() or 'it said nothing'}")
    return told


class _Process(asyncio.SubprocessProtocol):
    """Keeps the end of what a process prints, and says when it ends, whoever still holds what it prints to."""

    def __init__(self) -> None:
        self.ended, self.closed = asyncio.Event(), asyncio.Event()
        self.printed = {1: bytearray(), 2: bytearray()}

    def pipe_data_received(self, number: int, data: bytes) -> None:
        kept = self.printed[number]
        kept += data
        del kept[:-KEPT]

    def process_exited(self) -> None:
        self.ended.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()


def _last_number(text: str) -> float | None:
    lines = text.split("\n") if text.strip() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    try:
        number = float(last)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
