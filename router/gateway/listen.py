"""The listening side: uvicorn (uvloop, httptools) serving ASGI applications inside our own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.errors import ConfigError

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75.0  # longer than the 60 s of common load balancers: they close idle connections, not we
LINGER_SECONDS = 1.0  # after an answer that did not say that its connection closes


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the process has two of them, and one owner. And one that ends politely.

    uvicorn closes a kept connection as soon as it stops, or right after the answer under way. A client that sends its
    next request at that moment finds nobody. So while it winds down each answer says that its connection closes, and a
    connection whose last answer began too early to say so is kept until its client had time to see, or to send, more.
    """

    def __init__(
        self, settings: uvicorn.Config, drain_seconds: Callable[[], float], winds_down: Callable[[], bool]
    ) -> None:
        super().__init__(settings)
        self.accepting = asyncio.Event()
        self._drain_seconds = drain_seconds
        self._winds_down = winds_down

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        is_over = await super().on_tick(counter)
        if self._winds_down():
            self._announce_close()
        return is_over

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        until_seconds = loop.time() + self._drain_seconds()
        self._announce_close()
        while any(map(_is_in_use, self._connections())) and loop.time() < until_seconds:
            await asyncio.sleep(0.1)
            self._announce_close()
        self.config.timeout_graceful_shutdown = max(0, round(until_seconds - loop.time()))
        await super().shutdown(sockets)

    def _announce_close(self) -> None:
        self.server_state.default_headers = [*self.config.encoded_headers, (b"connection", b"close")]
        for connection in self._connections():
            if connection.cycle is not None and not connection.cycle.response_started:
                connection.cycle.keep_alive = False  # uvicorn then says so in its head

    def _connections(self) -> list[HttpToolsProtocol]:
        """Those that are open: `http="httptools"` makes no others."""
        return [one for one in self.server_state.connections if isinstance(one, HttpToolsProtocol)]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int, key: str) -> socket.socket:
    """A listening socket. Port 0 takes a free one. Raises ConfigError that names the configuration key."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as fault:
        opened.close()
        raise ConfigError([f"{key}: cannot listen on {host}:{port}: {fault.strerror}. Choose another port."]) from fault
    opened.listen(BACKLOG)
    opened.setblocking(False)
    return opened


@contextlib.asynccontextmanager
async def listening(
    application: Any,
    on: socket.socket,
    drain_seconds: Callable[[], float],
    winds_down: Callable[[], bool] = lambda: False,
) -> AsyncIterator[None]:
    """Serve `application` (ASGI; Any as uvicorn types it) on a bound socket while the block runs.

    While it `winds_down` each answer asks for its connection to be closed. On the way out no new connection is taken,
    and open exchanges have `drain_seconds` to end.
    """
    settings = uvicorn.Config(
        application,
        interface="asgi3",  # said, since it would be told by whether the application is a coroutine function itself
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nobody here reads the client address
        server_header=False,
        date_header=False,
        timeout_keep_alive=int(KEEP_ALIVE_SECONDS),
        backlog=BACKLOG,
    )
    server = _Server(settings, drain_seconds, winds_down)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(sockets=[on]))
        await server.accepting.wait()
        try:
            yield
        finally:
            server.should_exit = True


def _is_in_use(connection: HttpToolsProtocol) -> bool:
    """Something is under way there, or may yet come from a client that does not know better."""
    if connection.cycle is None:
        return False  # nothing was ever asked
    if not connection.cycle.response_complete:
        return True
    closes = connection.timeout_keep_alive_task  # set when an answer has ended
    if closes is None:
        return False
    answered_seconds = closes.when() - connection.timeout_keep_alive
    return asyncio.get_running_loop().time() - answered_seconds < LINGER_SECONDS


def shown(host: str) -> str:
    """As it stands in a URL that reaches it from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
