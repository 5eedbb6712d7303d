"""A TCP balancer as clusters have them: it asks /ready, spreads connections over those that say yes, passes bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx

ASK_SECONDS = 0.05


@dataclass
class Backend:
    port: int
    ready_url: str
    ready: bool = False
    taken: int = 0  # connections


@dataclass
class Balancer:
    backends: list[Backend]
    port: int = 0
    refused: int = 0  # connections nobody could be found for
    _turn: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, to a backend that is ready; to another one if it does not listen."""
        self._open.add(writer)
        try:
            for backend in self._in_turn():
                with suppress(OSError):
                    there, back = await asyncio.open_connection("127.0.0.1", backend.port)
                    break
            else:
                self.refused += 1
                return
            backend.taken += 1
            self._open.add(back)
            try:
                async with asyncio.TaskGroup() as ways:
                    ways.create_task(_pass(reader, back))
                    ways.create_task(_pass(there, writer))
            finally:
                self._open.discard(back)
                back.close()
        finally:
            self._open.discard(writer)
            writer.close()

    async def ask(self) -> None:
        """For ever: who is ready."""
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as http:
            while True:
                for backend in self.backends:
                    try:
                        backend.ready = (await http.get(backend.ready_url)).status_code == 200
                    except httpx.HTTPError:
                        backend.ready = False
                await asyncio.sleep(ASK_SECONDS)

    async def hang_up(self) -> None:
        while self._open:
            for writer in tuple(self._open):
                writer.transport.abort()
            await asyncio.sleep(0.01)

    def _in_turn(self) -> list[Backend]:
        ready = [backend for backend in self.backends if backend.ready]
        self._turn += 1
        return [ready[(self._turn + i) % len(ready)] for i in range(len(ready))]


@asynccontextmanager
async def balancing(*backends: Backend) -> AsyncIterator[Balancer]:
    balancer = Balancer(list(backends))
    server = await asyncio.start_server(balancer.take, "127.0.0.1", 0)
    balancer.port = server.sockets[0].getsockname()[1]
    asking = asyncio.create_task(balancer.ask())
    try:
        yield balancer
    finally:
        asking.cancel()
        server.close()
        await balancer.hang_up()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes one way, and the end of them."""
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
