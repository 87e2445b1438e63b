"""`Server`: an application served by uvicorn in a thread of its own, for a training or beside a command's own work.

server = Server().start(make_app(endpoint))
print(server.url)
server.close()
"""

import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import uvicorn

from appo.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
GRACE = 5  # seconds that open requests have when the server ends


def check_host(host: str, api_key: str | None) -> None:
    """
    Raises:
        UserError: for an address that others can reach, without a secret.
    """
    if host not in LOOPBACK and not api_key:
        raise UserError(f"host = {host} can be reached by others; give an api_key, or leave it at 127.0.0.1.")


class Server:
    """An address, which is taken at once, and what is served there later.

    Args:
        host, port: Where it listens; port 0 for any that is free.

    Raises:
        UserError: where nothing can listen there.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except (OSError, OverflowError) as error:
            self._socket.close()
            raise UserError(
                f"host = {host}, port = {port}: nothing can listen there ({error}); give others."
            ) from None
        self.host, self.port = host, self._socket.getsockname()[1]
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Its address, without /v1."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def run(self, app: Any, work: Callable[[Future[None]], None]) -> None:
        """Serves an ASGI application until a signal comes, for the main thread.

        Args:
            work: Is done in this thread meanwhile, until its argument is done: requests that are open at the signal
                have some seconds more.

        The signal is raised once more when all is over; at a second one all ends at once.
        """
        ended: Future[None] = Future()
        signals: list[int] = []

        def stop(number: int, _: Any) -> None:
            signals.append(number)
            if len(signals) > 1:
                raise KeyboardInterrupt
            self.stop()

        def wait() -> None:
            assert self._thread is not None
            self._thread.join()
            ended.set_result(None)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.start(app)
            threading.Thread(target=wait, name="appo-serve-end", daemon=True).start()
            work(ended)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        for number in signals:
            signal.raise_signal(number)

    def start(self, app: Any) -> "Server":
        """Serves an ASGI application in a thread of its own."""
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=GRACE
        )
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, args=([self._socket],), name="appo-serve", daemon=True)
        self._thread.start()
        while not server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the server did not start; its log says why.")
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        """Has what was started end soon, and waits for nothing: safe in a signal, and where garbage is collected."""
        if self._server is not None:
            self._server.should_exit = True

    def close(self) -> None:
        """Ends what `start` has started, and gives the address back."""
        self.stop()
        if self._thread is not None:
            self._thread.join()
        self._socket.close()
