"""The listening side: uvicorn (uvloop, httptools) serving ASGI applications inside our own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn

from router.errors import ConfigError

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75.0  # longer than the 60 s of common load balancers: they close idle connections, not we


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the process has two of them, and one owner."""

    def __init__(self, settings: uvicorn.Config) -> None:
        super().__init__(settings)
        self.accepting = asyncio.Event()

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
async def listening(application: Any, on: socket.socket, drain_seconds: float) -> AsyncIterator[None]:
    """Serve `application` (ASGI; Any as uvicorn types it) on a bound socket while the block runs.

    On the way out no new connection is taken, and open exchanges have `drain_seconds` to end.
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
        timeout_graceful_shutdown=max(1, int(drain_seconds)),
        backlog=BACKLOG,
    )
    server = _Server(settings)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(sockets=[on]))
        await server.accepting.wait()
        try:
            yield
        finally:
            server.should_exit = True
