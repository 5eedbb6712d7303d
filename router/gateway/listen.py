"""The listening side: uvicorn (uvloop, httptools) serving ASGI applications inside our own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import uvicorn

from router.errors import ConfigError

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75.0  # longer than the 60 s of common load balancers: they close idle connections, not we


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the process has two of them, and one owner."""

    def __init__(self, settings: uvicorn.Config, winds_down: Callable[[], bool]) -> None:
        super().__init__(settings)
        self.accepting = asyncio.Event()
        self._winds_down = winds_down

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        is_over = await super().on_tick(counter)
        if self._winds_down():
            # Whoever keeps a connection to us is to open the next one elsewhere, while this one is whole.
            self.server_state.default_headers = [*self.config.encoded_headers, (b"connection", b"close")]
        return is_over

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
    server = _Server(settings, winds_down)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(sockets=[on]))
        await server.accepting.wait()
        try:
            yield
        finally:
            settings.timeout_graceful_shutdown = max(1, int(drain_seconds()))
            server.should_exit = True


def shown(host: str) -> str:
    """As it stands in a URL that reaches it from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
