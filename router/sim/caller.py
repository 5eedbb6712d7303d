"""A small HTTP/1.1 client for load: POST, keep-alive, the body handed over as it comes.

A client library would cost more CPU per request than the router under load. This one shares nothing with the gateway's
own client, so that a fault of one can't hide in the other. One request at a time on a connection, no redirects, no TLS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

# Servers close idle connections at about 5 s: a connection idle for longer than this is not used again.
MAX_IDLE_SECONDS = 3.0


class CallFailed(Exception):
    """The exchange ended before its end: refused, reset, cut short or no HTTP."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[bytes, bytes]  # names in lower case
    body: bytes  # empty where `on_body` took the pieces


class Caller:
    """Calls one origin. Connections are opened as needed and kept; `close` ends them."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{base_url} is not an http:// address.")
        self._host, self._port = parts.hostname, parts.port or 80
        self._prefix = parts.path.rstrip("/").encode()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def post(
        self,
        path: str,
        body: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        on_body: Callable[[bytes], None] | None = None,
    ) -> Reply:
        """One exchange. Cancelling it closes its connection at once. Raises CallFailed."""
        return await self._call(b"POST", path, body, [(b"content-type", b"application/json"), *headers], on_body)

    async def get(self, path: str) -> Reply:
        return await self._call(b"GET", path, b"", [], None)

    async def _call(
        self,
        method: bytes,
        path: str,
        body: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        on_body: Callable[[bytes], None] | None,
    ) -> Reply:
        lines = [b"%s %s%s HTTP/1.1" % (method, self._prefix, path.encode()), b"host: %s" % self._host.encode()]
        lines += [b"%s: %s" % header for header in headers]
        head = b"\r\n".join([*lines, b"content-length: %d\r\n\r\n" % len(body)])
        connection = self._take_idle()
        if connection is not None:
            try:
                return await self._exchange(connection, head + body, on_body)
            except CallFailed:
                if connection.heard:
                    raise
                # The server closed it while it was idle: only a fresh connection can tell what is true.
        return await self._exchange(await self._connect(), head + body, on_body)

    async def _exchange(
        self, connection: _Connection, request: bytes, on_body: Callable[[bytes], None] | None
    ) -> Reply:
        try:
            reply = await connection.exchange(request, on_body)
        except BaseException:
            connection.abort()
            raise
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.abort()
        return reply

    def _take_idle(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and now - connection.done_at_seconds < MAX_IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self._open), self._host, self._port)
        except OSError as fault:
            raise CallFailed(f"cannot connect to {self._host}:{self._port}: {fault}") from fault
        return connection

    def close(self) -> None:
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()


class _Connection(asyncio.Protocol):
    """One connection and the exchange on it. Also what httptools calls back."""

    def __init__(self, opened: set[_Connection]) -> None:
        self._opened = opened
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[Reply] | None = None
        self.heard = False  # a byte of the reply came
        self.reusable = False
        self.done_at_seconds = 0.0

    async def exchange(self, request: bytes, on_body: Callable[[bytes], None] | None) -> Reply:
        if self._transport is None or self._transport.is_closing():
            raise CallFailed("the connection is closed")
        self.heard = self.reusable = False
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._take = on_body or self._pieces.append
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._done

    def abort(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._opened.add(self)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self._done is None or self._done.done():
            self.abort()  # bytes nobody asked for: the next reply could not be told from them
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as fault:
            self._fail(f"the reply is not HTTP: {fault}")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._opened.discard(self)
        self.reusable = False
        self._fail(f"the connection was lost: {exc or 'closed by the server'}")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._take(body)

    def on_message_complete(self) -> None:
        if self._done is None or self._done.done():
            return
        self.reusable = self._parser.should_keep_alive()
        self.done_at_seconds = asyncio.get_running_loop().time()
        self._done.set_result(Reply(self._parser.get_status_code(), self._headers, b"".join(self._pieces)))

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(CallFailed(why))
