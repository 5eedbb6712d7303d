"""A TCP wire between two processes that can hold what it carries, swallow it, or be cut. Edge."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from enum import Enum
from typing import cast

from loadtest.chaos.troubles import Act

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: what is unsent is dropped and the peer sees a reset
HOST = "127.0.0.1"


class Carries(Enum):
    ALL = "all"
    HELD = "held"  # nothing now, all of it later: a short partition, bridged by TCP's own repetitions
    LOST = "lost"  # nothing, and what it carried is reset later: a partition as the two ends see it
    NONE = "none"  # connections are reset, new ones refused


CARRIES = {Act.HOLD: Carries.HELD, Act.LOSE: Carries.LOST, Act.REFUSE: Carries.NONE}


class Wire:
    """Listens on `port` and carries every connection to `to_port`, both on loopback."""

    def __init__(self, port: int, to_port: int) -> None:
        self.port = port
        self.to_port = to_port
        self.carries = Carries.ALL
        self.pairs: set[Pair] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises OSError for a port in use."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Pair(self).near, HOST, self.port, backlog=512)

    async def change(self, carries: Carries) -> None:
        """From now on it carries so much. What was lost meanwhile is lost: its connections are reset."""
        before, self.carries = self.carries, carries
        if carries is Carries.NONE or before is Carries.LOST:
            self._reset()
        if carries is Carries.NONE:
            self._close()
        elif before is Carries.NONE:
            await self.start()
        if carries is Carries.ALL:
            for pair in tuple(self.pairs):
                pair.go_on()

    def close(self) -> None:
        self._close()
        self._reset()

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _reset(self) -> None:
        for pair in tuple(self.pairs):
            pair.reset()


class Pair:
    """One connection carried: its near end, which called, and its far end, made when bytes may pass."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.near, self.far = End(self), End(self)
        self._calling: asyncio.Task[None] | None = None

    def other(self, end: End) -> End:
        return self.far if end is self.near else self.near

    def begin(self) -> None:
        """The near end is up."""
        self.wire.pairs.add(self)
        self.go_on()

    def go_on(self) -> None:
        """Deliver what was held."""
        if self.wire.carries is not Carries.ALL:
            return
        if self._calling is None:
            self._calling = asyncio.get_running_loop().create_task(self._call())
        for end in (self.near, self.far):
            end.deliver()

    def reset(self) -> None:
        self.wire.pairs.discard(self)
        if self._calling is not None:
            self._calling.cancel()
        for end in (self.near, self.far):
            end.reset()

    async def _call(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.far, HOST, self.wire.to_port)
        except OSError:
            self.reset()


class End(asyncio.Protocol):
    """One end of a carried connection. `_held` is what it is still to be told."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._transport: asyncio.Transport | None = None
        self._held: list[bytes] = []
        self._over = False  # the other end has closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        if self is self._pair.near:
            self._pair.begin()
        else:
            self.deliver()

    def data_received(self, data: bytes) -> None:
        if self._pair.wire.carries is not Carries.LOST:
            self._pair.other(self).tell(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if exc is not None and self._pair.wire.carries is Carries.ALL:
            self._pair.reset()
        elif self._pair.wire.carries is not Carries.LOST:
            self._pair.other(self).end()

    def tell(self, data: bytes) -> None:
        self._held.append(data)
        self.deliver()

    def end(self) -> None:
        self._over = True
        self.deliver()

    def deliver(self) -> None:
        if self._transport is None or self._pair.wire.carries is not Carries.ALL:
            if self._over and self._transport is None:
                self._pair.wire.pairs.discard(self._pair)
            return
        for data in self._held:
            self._transport.write(data)
        self._held.clear()
        if self._over:
            self._pair.wire.pairs.discard(self._pair)
            self._transport.close()

    def reset(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        with contextlib.suppress(OSError):  # it is closed already
            opened = self._transport.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()
