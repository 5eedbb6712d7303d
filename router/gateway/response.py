"""A response as the relay reads it: the head at hand, the body as it comes.

The connection fills it and the relay empties it, both on one event loop. It outlives the connection's part in it: when
the last byte has come the connection serves others, while this still holds what is unread.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

from router.errors import UpstreamError
from router.gateway.failures import Aborted


class Link(Protocol):
    """What a response asks of the connection it comes from."""

    def drained(self) -> None:
        """The reader took all that was buffered."""

    def fail(self, error: UpstreamError) -> None:
        """End the exchange with `error` and close the socket at once."""


class Response:
    """One response: the head at hand, the body as it comes. For one reader.

    Read it to the end, or `abort()` it; as a context manager it aborts unless it was read to the end. Header names are
    lower case, in the order received, hop-by-hop ones included; trailers are dropped.
    """

    __slots__ = (
        *("_end", "_link", "_loop", "_pieces", "_waiter"),
        *("body_started", "headers", "status", "unread_bytes"),
    )

    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body_started = False
        self.unread_bytes = 0
        self._loop = loop
        self._link: Link | None = link
        self._pieces: list[bytes] = []
        self._end: UpstreamError | bool = False
        self._waiter: asyncio.Future[None] | None = None

    async def chunk(self) -> bytes:
        """Return the body bytes that have come since the last call, waiting for the first; b"" at the clean end.

        Raises what ended the body (see `failures`), once all bytes before it were returned. Cancelling loses nothing.
        """
        while not self._pieces and self._end is False:  # Framing without content wakes too.
            if self._waiter is not None:
                raise RuntimeError("a response has one reader")
            waiter = self._waiter = self._loop.create_future()  # as `_wait`, a frame less for every chunk
            try:
                await waiter
            finally:
                self._waiter = None
        return self._take()

    def try_chunk(self) -> bytes | None:
        """Return what `chunk()` would return at once (b"" at the end), or None if it would have to wait."""
        if not self._pieces and self._end is False:
            return None
        return self._take()

    async def read(self) -> bytes:
        """Return the rest of the body. Raises as `chunk` does. Without bound: the sender is trusted with that."""
        chunks = []
        while chunk := await self.chunk():
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    @property
    def complete(self) -> bool:
        """Whether the response ended cleanly. Bytes may still wait to be read."""
        return self._end is True

    def abort(self) -> None:
        """Close the connection now, so that the replica stops working. No effect once the response has ended."""
        link = self._link
        if link is not None:
            self._pieces.clear()
            self.unread_bytes = 0
            link.fail(Aborted("given up by the router", body_started=self.body_started))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.abort()

    def __repr__(self) -> str:
        end = "open" if self._end is False else "complete" if self._end is True else repr(self._end)
        return f"<Response {self.status} {end}, {self.unread_bytes} bytes unread>"

    def _take(self) -> bytes:
        pieces = self._pieces
        if not pieces:
            if self._end is not True:
                assert isinstance(self._end, UpstreamError)
                raise self._end
            return b""
        chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.unread_bytes = 0
        if self._link is not None:
            self._link.drained()
        return chunk

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("a response has one reader")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # The connection's side.

    async def arrive(self) -> None:
        """Wait for the head. Raises what ended the exchange before the first body byte; aborts if cancelled."""
        try:
            while self.status == 0 and self._end is False:
                await self._wait()
        except asyncio.CancelledError:
            self.abort()
            raise
        if isinstance(self._end, UpstreamError) and not self.body_started:
            raise self._end

    def put(self, piece: bytes) -> None:
        """Take body bytes in. They reach the reader with the next `wake`."""
        self._pieces.append(piece)
        self.unread_bytes += len(piece)
        self.body_started = True

    def finish(self, error: UpstreamError | None) -> None:
        """The exchange is over, cleanly or by `error`; the link is cut. Wakes the reader."""
        self._link = None
        self._end = error or True
        self.wake()

    def wake(self) -> None:
        """Let the reader see what has come."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
