"""The lean HTTP/1.1 client of the data plane: one `Upstream` per replica, a pool of keep-alive connections.

It opens, lends, keeps and drops connections. Framing and timeouts within an exchange are
`http1.py`'s, retries on another replica the dispatcher's, limits on concurrency the admission's: the number of busy
connections has no bound here, the number of idle ones has.

R 2.3: an idle connection is closed after 4 s, before the engine closes it (uvicorn: 5 s), for a request sent into a
closing connection is lost. The race remains, so a reused connection that dies before any response byte is replaced once
by a fresh one, which the caller does not see. The most recently used connection serves first: the others can grow old.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

from router.addresses import AUTHORITY
from router.errors import ConfigError
from router.gateway.failures import Aborted, ConnectFailed, DiedBeforeResponse, Phase, TimedOut
from router.gateway.http1 import Connection, Timeouts
from router.gateway.patience import patience
from router.gateway.request_head import NOT_FORWARDED, request_head
from router.gateway.response import Response

KEEP_ALIVE_SECONDS = 4.0
IDLE_LIMIT = 256


class Upstream:
    """Client of one replica. `origin` is `http://host[:port]` or `https://...`, the latter with a `tls` context.

    Belongs to one event loop. Makes no connection until asked for a request.
    """

    __slots__ = (
        *("_closed", "_idle", "_idle_limit", "_keep_alive_seconds", "_open"),
        *("_own_lines", "_retired", "_timeouts", "_tls", "_withheld"),
        *("fresh_connections", "host", "host_line", "origin", "port", "stale_retries"),
    )

    def __init__(
        self,
        origin: str,
        *,
        timeouts: Timeouts | None = None,
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
        idle_limit: int = IDLE_LIMIT,
        tls: ssl.SSLContext | None = None,
        pinned: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """`pinned` headers go with every request, whatever a client sends under their names.

        Raises `ConfigError` for an origin that cannot be used.
        """
        self.origin = origin
        self.host, self.port, self.host_line = _address(origin, tls=tls)
        self._own_lines = (self.host_line, *(name + b": " + value for name, value in pinned))
        self._withheld = NOT_FORWARDED.union(name.lower() for name, _ in pinned)
        self._tls = tls if origin.startswith("https:") else None
        self._timeouts = timeouts or Timeouts()
        self._keep_alive_seconds = keep_alive_seconds
        self._idle_limit = idle_limit
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._closed = False
        self._retired = False
        self.fresh_connections = 0
        self.stale_retries = 0

    @property
    def open_connections(self) -> int:
        """Connections that are up, idle ones included."""
        return len(self._open)

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    async def request(
        self,
        method: str,
        target: str,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: Sequence[bytes | memoryview] = (),
        *,
        timeouts: Timeouts | None = None,
    ) -> Response:
        """Send one request, and return its response once the head has come: the first body byte may be yet to come.

        `body` is sent piece after piece under one Content-Length. Host and Content-Length are set here; they and
        hop-by-hop headers among `headers` are left out. Redirects, content codings and cookies are not touched.
        Raises `BadRequest` for what cannot be written as a head (nothing was sent), `ConnectFailed`, `TimedOut`,
        `DiedBeforeResponse`, `DiedBeforeBody`, `ProtocolFault`. Cancelling closes the connection.
        """
        timeouts = timeouts or self._timeouts
        pieces = (request_head(method, target, self._own_lines, headers, body, self._withheld), *body)
        is_head = method == "HEAD"
        connection = self._lend()
        if connection is not None:
            response = connection.send(pieces, is_head=is_head, timeouts=timeouts)
            try:
                await response.arrive()
            except DiedBeforeResponse:
                self.stale_retries += 1
            else:
                return response
        connection = await self._connect(timeouts.connect_seconds)
        response = connection.send(pieces, is_head=is_head, timeouts=timeouts)
        await response.arrive()
        return response

    def heed(self, timeouts: Timeouts) -> None:
        """For requests from now on; those under way keep the timeouts they have."""
        self._timeouts = timeouts

    def retire(self) -> None:
        """The replica leaves: what is under way may end, then its connection closes; nothing new is begun."""
        self._retired = True
        for connection in tuple(self._idle):
            connection.fail(Aborted(f"the client of {self.origin} was retired"))

    def close(self) -> None:
        """Close every connection now; exchanges under way end with `Aborted`, and further requests raise it."""
        self._closed = True
        for connection in tuple(self._open):
            connection.fail(Aborted(f"the client of {self.origin} was closed"))

    def __repr__(self) -> str:
        state = "closed, " if self._closed else ""
        return f"<Upstream {self.origin}: {state}{len(self._open)} open, {len(self._idle)} idle>"

    # Called by connections.

    def reusable(self, connection: Connection) -> float | None:
        """Take a connection back; see `http1.Owner`."""
        if self._closed or self._retired or len(self._idle) >= self._idle_limit:
            return None
        self._idle.append(connection)
        return asyncio.get_running_loop().time() + self._keep_alive_seconds

    def gone(self, connection: Connection) -> None:
        """Forget a connection; see `http1.Owner`."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    # Parts.

    def _lend(self) -> Connection | None:
        if self._closed or self._retired:
            raise Aborted(f"the client of {self.origin} was closed")
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.fail(Aborted("too old"))
        return None

    async def _connect(self, seconds: float) -> Connection:
        loop = asyncio.get_running_loop()
        connection = Connection(self, loop, self.origin)
        try:
            async with patience(seconds):
                await loop.create_connection(lambda: connection, self.host, self.port, ssl=self._tls)
        except TimeoutError as error:
            message = f"no connection to {self.origin} within {seconds:g} s"
            raise TimedOut(message, phase=Phase.CONNECT) from error
        except (OSError, UnicodeError) as error:  # ssl.SSLError, socket.gaierror; a host name that IDNA refuses
            raise ConnectFailed(f"no connection to {self.origin}: {error}") from error
        self.fresh_connections += 1
        self._open.add(connection)
        if self._closed:
            connection.fail(Aborted("closed"))
            raise Aborted(f"the client of {self.origin} was closed")
        return connection


def _address(origin: str, *, tls: ssl.SSLContext | None) -> tuple[str, int, bytes]:
    """Host, port and Host header line of an origin."""
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError([f"{origin}: {error}"]) from error
    if parts.scheme not in ("http", "https") or not host or not AUTHORITY.fullmatch(parts.netloc):
        raise ConfigError([f"{origin} is no replica address. Write http://host:port, without user or password."])
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError([f"{origin} has a path. A replica is addressed by scheme, host and port alone."])
    if parts.scheme == "https" and tls is None:
        raise ConfigError([f"{origin} needs a TLS context, and none was given."])
    shown = f"[{host}]" if ":" in host else host
    standard = 443 if parts.scheme == "https" else 80
    authority = shown if port in (None, standard) else f"{shown}:{port}"
    return host, port or standard, b"host: " + authority.encode()
