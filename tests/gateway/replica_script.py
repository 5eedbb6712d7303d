"""A replica that does exactly as it is told: a loopback server that plays a list of steps on each connection."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Read:
    """Read one request: its head and as many body bytes as it announces."""


@dataclass(frozen=True)
class ReadHead:
    """Read one request's head and leave its body in the socket."""


@dataclass(frozen=True)
class Close:
    """End the connection in order (FIN)."""


@dataclass(frozen=True)
class Reset:
    """End the connection by force (RST)."""


@dataclass(frozen=True)
class HalfClose:
    """Say that nothing more will come, and go on listening."""


@dataclass(frozen=True)
class Until:
    """Wait for the test."""

    event: asyncio.Event


@dataclass(frozen=True)
class Hangup:
    """Wait until the client has closed, then tell the test."""

    event: asyncio.Event


READ, READ_HEAD, CLOSE, RESET, HALF_CLOSE = Read(), ReadHead(), Close(), Reset(), HalfClose()
Step = bytes | Read | ReadHead | Close | Reset | HalfClose | Until | Hangup


@dataclass
class Replica:
    """Plays `scripts[n]` on the n-th connection, the last one on all that follow. Keeps what it was sent."""

    scripts: Sequence[Sequence[Step]]
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)
    connections: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _progress: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)  # lets aborted transports close, lest they warn

    @property
    def origin(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    async def has_read(self, count: int) -> None:
        """Wait until so many requests have been read, on all connections together."""
        while len(self.requests) < count:
            self._progress.clear()
            await self._progress.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts[min(self.connections, len(self.scripts) - 1)]
        self.connections += 1
        self._writers.append(writer)
        try:
            for step in script:
                await self._play(step, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()

    async def _play(self, step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match step:
            case bytes():
                writer.write(step)
                await writer.drain()
                await asyncio.sleep(0)
            case Read() | ReadHead():
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = await reader.readexactly(length) if isinstance(step, Read) else b""
                self.requests.append((head, body))
                self._progress.set()
            case Close():
                writer.close()
            case Reset():
                peer: socket.socket = writer.get_extra_info("socket")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            case HalfClose():
                writer.write_eof()
            case Until(event):
                await event.wait()
            case Hangup(event):
                while await reader.read(1 << 16):
                    pass
                event.set()
