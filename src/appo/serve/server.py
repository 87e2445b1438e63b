"""`Server`: an application served by uvicorn, in the main thread for a command or in one of its own for a training.

server = Server().start(make_app(endpoint))
print(server.url)
server.close()
"""

import socket
import threading
import time
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

    def run(self, app: Any) -> None:
        """Serves an ASGI application until a signal comes."""
        self._made(app).run(sockets=[self._socket])

    def _made(self, app: Any) -> uvicorn.Server:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=GRACE
        )
        self._server = uvicorn.Server(config)
        return self._server

    def start(self, app: Any) -> "Server":
        """Serves an ASGI application in a thread of its own."""
        server = self._made(app)
        self._thread = threading.Thread(target=server.run, args=([self._socket],), name="appo-serve", daemon=True)
        self._thread.start()
        while not server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the server did not start; its log says why.")
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        """Has what `start` has started end soon, and waits for nothing: safe wherever garbage is collected."""
        if self._server is not None:
            self._server.should_exit = True

    def close(self) -> None:
        """Ends what `start` has started, and gives the address back."""
        self.stop()
        if self._thread is not None:
            self._thread.join()
        self._socket.close()
