"""`AgentRunner`: runs an agent many times at once, each with a key of its own, while an engine writes for all.

A failure of the agent is the end of its rollout: it is counted, its first traceback is told, and its reward is 0, as a
policy that writes rubbish makes agents fail. One that fails before anything was written is not the policy's doing: its
exception is passed on, unless its row was too long for the model.

Left out on purpose: what the engine is (`writer.py`), and how a function or a command is run (`appo.environments`).
"""

import asyncio
import logging
import secrets
import threading
import time
import weakref
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from appo.engines.base import Engine
from appo.environments.agents import AgentFailed, AgentProgram
from appo.errors import MissingPackage, UserError
from appo.rollout.agents.rollouts import branched_segment, main_segment
from appo.rollout.agents.run import AgentRun
from appo.serve.bounds import MIB, Bounds
from appo.serve.chat import Chat
from appo.serve.endpoint import Endpoint, ServedModel
from appo.serve.engine_thread import EngineFailed, EngineThread
from appo.serve.keys import Keys, RolloutTerms

if TYPE_CHECKING:
    from appo.serve.server import Server

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

GRACE = 5.0  # seconds in which an agent that is cancelled has to end
TURNS = 4096  # of a rollout; an agent that goes round in circles is refused some time
OPEN = 256  # requests of a rollout at once


class Background:
    """An event loop in a thread of its own, the same one for all runs: clients of an agent may be made once."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="appo-agents", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        going = True
        while going:
            # Where a task of an agent ends the program, asyncio ends the loop besides telling who waits for the task.
            with suppress(SystemExit, KeyboardInterrupt):
                self.loop.run_forever()
                going = False

    def begin(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """What a coroutine will come to."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self) -> None:
        """Has the loop end soon; nothing runs in it any longer."""
        self.loop.call_soon_threadsafe(self.loop.stop)


def check_installed(program: AgentProgram) -> None:
    """
    Raises:
        MissingPackage: where the endpoint's packages are missing.
    """
    try:
        import appo.serve.app
        import appo.serve.server  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingPackage(f"agent = {program.name} needs {error.name}; pip install 'appo[serve]'.") from None


def _stop(server: "Server", background: Background) -> None:
    server.stop()
    background.stop()


class TookTooLong(Exception):
    """An agent took more than its seconds."""


async def _within(work: Coroutine[Any, Any, Result], seconds: float) -> Result:
    """What work comes to in a task of its own, which is not waited for where it goes on though it is cancelled.

    Raises:
        TookTooLong: where it takes longer.
        AgentFailed: where it cancelled itself.
        Exception: its own.
    """
    task = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=GRACE)
            task.add_done_callback(lambda left: left.cancelled() or left.exception())  # nobody asks any longer
    if not done:
        raise TookTooLong(f"more than {seconds:g} seconds") from _where(task)
    if task.cancelled():
        raise AgentFailed("the agent cancelled itself.") from _where(task)
    return task.result()


def _where(task: asyncio.Task[Any]) -> BaseException | None:
    """The error of a task that has ended, with its traceback."""
    try:
        return task.exception() if task.done() else None
    except asyncio.CancelledError as error:
        return error


class AgentRunner:
    """
    Args:
        program: The agent.
        model: What is served to it.
        chat: Makes prompts of its messages.
        longest: Tokens of a rollout behind its first prompt.

    Attributes:
        keys: Of the rollouts; counts branches that diverged.
    """

    def __init__(self, program: AgentProgram, model: ServedModel, chat: Chat, longest: int | None) -> None:
        from appo.serve.server import Server

        self.program, self.longest = program, longest
        bounds = Bounds(
            body_bytes=64 * MIB, body_seconds=program.timeout, seconds=program.timeout, turns_per_key=TURNS,
            requests=OPEN * program.at_once, requests_per_key=OPEN, keys=2 * program.at_once,
        )  # fmt: skip
        self.keys = Keys(bounds)
        self._chat, self._model = chat, model
        self._endpoint: Endpoint | None = None
        self._server, self._background = Server(), Background()
        self._told = False
        # Waits for no thread: garbage is collected in any of them, and with any lock held.
        weakref.finalize(self, _stop, self._server, self._background).atexit = False

    def run(self, engine: Engine, runs: Sequence[AgentRun]) -> None:
        """Runs the agent for each of `runs`, which are filled in.

        Args:
            engine: Writes for them, in this thread; nobody else steps it meanwhile.

        Raises:
            EngineFailed: where the engine failed.
            Exception: of the first agent that failed before it wrote anything.
        """
        if not runs:
            return
        from appo.serve.app import make_app

        thread = EngineThread(engine, own=False)
        if self._endpoint is None:
            self._endpoint = Endpoint(self._model, thread, self._chat, self.keys)
            self._server.start(make_app(self._endpoint))
        self._endpoint.thread = thread
        over = threading.Event()
        ended = self._background.begin(self._all(runs, self._endpoint, over))
        try:
            thread.drive(ended)
            ended.result()
        finally:
            ended.cancel()
            over.wait(2 * GRACE)  # else the program might end before the agents' processes

    async def _all(self, runs: Sequence[AgentRun], endpoint: Endpoint, over: threading.Event) -> None:
        thread = endpoint.thread
        places = asyncio.Semaphore(self.program.at_once)

        async def one(run: AgentRun) -> None:
            async with places:
                try:
                    await self._one(run, endpoint)
                finally:
                    if thread.failures:  # whatever agents made of it
                        raise EngineFailed("the engine failed; the log says why.") from thread.cause

        tasks = [asyncio.create_task(one(run)) for run in runs]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            over.set()

    async def _one(self, run: AgentRun, endpoint: Endpoint) -> None:
        key = f"rollout-{secrets.token_hex(8)}"
        account = self.keys.open(key, run.branch, RolloutTerms(run.seed, self.longest))
        run.book = account.book
        start = time.perf_counter()
        try:
            work = self.program.run(run.row, f"{self._server.url}/v1", key)
            run.reward = await _within(work, self.program.timeout)
        except UserError:
            raise
        except Exception as error:
            run.refused = account.refused
            self._failed(run, "timeout" if isinstance(error, TookTooLong) else type(error).__name__, error)
        finally:
            run.seconds = time.perf_counter() - start
            run.asked_seconds, run.engine_seconds = account.asked_seconds, account.engine_seconds
            self.keys.take(key)
            run.book = account.book.copy()  # a request may still be open, and would be entered behind its back
            endpoint.let_go(account)
        run.chain = main_segment(run.book) if run.branch is None else branched_segment(run)

    def _failed(self, run: AgentRun, name: str, error: Exception) -> None:
        """Notes why a run ended.

        Raises:
            Exception: the error, where nothing was written.
        """
        if run.branch is not None and run.branch.outcome is not None:
            return  # a branch that is left out is ended by an error
        if not run.book.turns and name != "timeout" and not run.refused:
            raise error
        run.error, run.reward = name, 0.0
        if not self._told:
            self._told = True
            logger.warning(
                "the agent, %s, failed after %d turns (%s); its rollout ends there with the reward 0. This is said "
                "once; agent/failures counts them.", self.program.name, len(run.book.turns), name,
                exc_info=error,
            )  # fmt: skip
