"""One HTTP/1.1 client connection: sends a request, frames the response, and says whether it may be used again.

Written for little work per chunk: bytes go from the parser into a list, one future wakes the reader, one lazy timer
stands for every timeout. Nothing here makes a task. Choosing, opening and keeping connections is `upstream.py`'s part.

Framing is where a proxy gets hurt (R 2.3), so a response is refused, and the connection closed, wherever two readers
could disagree about its end: repeated or conflicting Content-Length, Content-Length beside Transfer-Encoding, any
transfer coding but `chunked`, an upgrade, a version other than 1.0 and 1.1. The parser (llhttp, strict) refuses bare
LF, folded headers, spaces before colons and control characters. A response that ends well but is followed by more bytes
is delivered, and its connection closed.

The end of a response without length is the end of the connection (EOF, not a reset). Everywhere else EOF is a death.

Timer. `_deadline` moves with every chunk; moving it is one assignment. The loop's timer is set only if it would fire
too late, and looks at `_deadline` when it fires. A deadline far away (first byte) therefore costs nothing after a near
one (idle in the pool), and the other way round one re-arming in several seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from router.errors import UpstreamError
from router.gateway.failures import (
    DiedBeforeBody,
    DiedBeforeResponse,
    DiedMidBody,
    Phase,
    ProtocolFault,
    TimedOut,
)
from router.gateway.patience import SECOND_LOOK_SECONDS
from router.gateway.response import Response

# Unread body bytes at which we stop reading from the replica. One socket read is at most as large (uvloop: 256 KB), so
# a slow client costs at most twice this.
READ_AHEAD_BYTES = 256 * 1024
# Bytes without a body byte: the head with all interim (1xx) heads before it, later chunk extensions and trailers.
HEAD_LIMIT_BYTES = 64 * 1024
HEADER_LIMIT = 256
# A timer may fire within the clock's resolution of its time.
CLOCK_STEP_SECONDS = 0.001
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for a replica (R 2.2). The first body byte counts from the request sent: prefills are long."""

    connect_seconds: float = 2.0
    first_body_byte_seconds: float = 600.0
    next_chunk_seconds: float = 120.0


class Owner(Protocol):
    """Who keeps connections: told when one may serve again and when one is gone."""

    def reusable(self, connection: Connection) -> float | None:
        """Keep an idle connection until the returned loop time, or return None to have it closed."""

    def gone(self, connection: Connection) -> None:
        """The connection is closed. Told exactly once."""


class Connection(asyncio.Protocol):
    """One socket to one replica, for one exchange at a time. Changed by its event loop's callbacks and by `send`."""

    __slots__ = (
        *("_awaits_eof", "_barren_bytes", "_head_done", "_is_head", "_message_done", "_spent"),
        *("_deadline", "_loop", "_name", "_owner", "_parser", "_reading_paused", "_response", "_timeouts"),
        *("_timer", "_timer_at", "_transport"),
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._owner = owner
        self._loop = loop
        self._name = name
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._timeouts = Timeouts()
        self._deadline = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER
        self._reading_paused = False
        self._begin(is_head=False)

    def _begin(self, *, is_head: bool) -> None:
        self._is_head = is_head
        self._head_done = False
        self._message_done = False
        self._spent = False
        self._awaits_eof = False
        self._barren_bytes = 0

    # The owner's side.

    @property
    def usable(self) -> bool:
        """Whether an idle connection may take a request: open as far as we know, and its time in the pool not over."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and self._loop.time() < self._deadline

    def send(self, pieces: Sequence[bytes | memoryview], *, is_head: bool, timeouts: Timeouts) -> Response:
        """Write a request, head first, and return its response, whose head has yet to come.

        All pieces go to the transport at once, which keeps them by reference: there is no producer to hold back.
        """
        assert self._response is None
        assert self._transport is not None
        self._begin(is_head=is_head)
        self._timeouts = timeouts
        self._response = response = Response(self, self._loop)
        self._set_deadline(self._loop.time() + timeouts.first_body_byte_seconds)
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines(pieces)
        return response

    def drained(self) -> None:
        """The reader took all that was buffered."""
        if self._reading_paused:
            self._reading_paused = False
            self._set_deadline(self._loop.time() + self._timeouts.next_chunk_seconds)
            if self._transport is not None:
                self._transport.resume_reading()

    def fail(self, error: UpstreamError) -> None:
        """End the exchange, if there is one, with `error`, and close the socket at once."""
        response, self._response = self._response, None
        if response is not None:
            response.finish(error)
        self._drop()

    def _drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
            self._owner.gone(self)

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            self._drop()  # Nobody asked: an idle connection that speaks would answer the next request with this.
            return
        unread_bytes = response.unread_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail(ProtocolFault(f"{self._name} switched protocols unasked", body_started=response.body_started))
            return
        except httptools.HttpParserError as error:
            if not self._message_done:
                cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
                message = f"{self._name} sent what is no HTTP/1.1 response: {cause}"
                self.fail(ProtocolFault(message, body_started=response.body_started))
                return
            self._spent = True
        if self._message_done:
            self._finish(response)
        elif response.unread_bytes != unread_bytes:
            self._barren_bytes = 0
            deadline = self._loop.time() + self._timeouts.next_chunk_seconds
            self._deadline = deadline
            if deadline < self._timer_at:
                self._set_deadline(deadline)
            if response.unread_bytes > READ_AHEAD_BYTES and not self._reading_paused:
                self._reading_paused = True
                assert self._transport is not None
                self._transport.pause_reading()
        else:
            self._barren_bytes += len(data)
            if self._barren_bytes > HEAD_LIMIT_BYTES:
                message = f"{self._name} sent over {HEAD_LIMIT_BYTES} bytes of headers, extensions or trailers"
                self.fail(ProtocolFault(message, body_started=response.body_started))
                return
        if self._head_done:
            response.wake()

    def resume_writing(self) -> None:
        if self._response is not None and not self._head_done:
            self._set_deadline(self._loop.time() + self._timeouts.first_body_byte_seconds)

    def eof_received(self) -> None:
        self._lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)

    def _lost(self, cause: Exception | None) -> None:
        response = self._response
        if response is None:
            self._drop()
        elif self._awaits_eof and cause is None:
            self._message_done = True
            self._finish(response)
        else:
            how = (
                f"{self._name} closed the connection"
                if cause is None
                else f"the connection to {self._name} broke: {cause}"
            )
            error: UpstreamError
            if response.body_started:
                error = DiedMidBody(f"{how} inside the body")
            elif self._head_done or self._barren_bytes:
                error = DiedBeforeBody(f"{how} before the body")
            else:
                error = DiedBeforeResponse(f"{how} before it answered")
            error.__cause__ = cause
            self.fail(error)

    # The parser's callbacks. What they raise comes out of feed_data as the context of HttpParserCallbackError.

    def on_message_begin(self) -> None:
        if self._message_done:
            self._spent = True

    def on_header(self, name: bytes, value: bytes) -> None:
        response = self._response
        if response is None or self._message_done:
            return
        if self._head_done:
            return  # A trailer.
        headers = response.headers
        headers.append((name.lower(), value.rstrip(b" \t")))  # llhttp leaves the space after a value
        if len(headers) > HEADER_LIMIT:
            raise ProtocolFault(f"more than {HEADER_LIMIT} headers")

    def on_headers_complete(self) -> None:
        response = self._response
        if response is None or self._message_done:
            return
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise ProtocolFault(f"HTTP version {version}")
        if not 100 <= status < 600 or status == 101:
            raise ProtocolFault(f"status {status}")
        if status < 200:
            response.headers.clear()
            return
        length: bytes | None = None
        coding: bytes | None = None
        head_bytes = 0
        for name, value in response.headers:
            head_bytes += len(name) + len(value)
            if name == b"content-length":
                if length is not None:
                    raise ProtocolFault("Content-Length repeated")
                length = value
            elif name == b"transfer-encoding":
                if coding is not None:
                    raise ProtocolFault("Transfer-Encoding repeated")
                coding = value
        if head_bytes > HEAD_LIMIT_BYTES:
            raise ProtocolFault(f"a head of {head_bytes} bytes")
        if coding is not None:
            if length is not None:
                raise ProtocolFault("Content-Length beside Transfer-Encoding")
            if coding.strip().lower() != b"chunked" or version != "1.1":
                raise ProtocolFault(f"Transfer-Encoding {coding[:40]!r} in HTTP/{version}")
        if length is not None and not length.strip().isdigit():
            raise ProtocolFault(f"Content-Length {length[:40]!r}")
        response.status = status
        self._head_done = True
        if self._is_head:
            # The parser cannot be told that no body follows a HEAD, so its state is spoilt.
            self._message_done = True
            self._spent = True
        else:
            self._awaits_eof = length is None and coding is None and status not in (204, 304)

    def on_body(self, body: bytes) -> None:
        response = self._response
        if response is None or self._message_done:
            return
        response.put(body)

    def on_message_complete(self) -> None:
        if self._head_done:  # Not an interim (1xx) response.
            self._message_done = True
            if not self._parser.should_keep_alive():  # Known only now: the parser forgets at once.
                self._spent = True

    # Ends and times.

    def _finish(self, response: Response) -> None:
        """The message is whole. Keep the connection if nothing speaks against it. What is unread is the response's."""
        self._response = None
        transport = self._transport
        assert transport is not None
        until: float | None = None
        if (
            not self._spent
            and not self._awaits_eof
            and not transport.is_closing()
            # The replica answered without reading the whole request: what it makes of the rest is anyone's guess.
            and transport.get_write_buffer_size() == 0
        ):
            if self._reading_paused:
                self._reading_paused = False
                transport.resume_reading()
            until = self._owner.reusable(self)
        if until is None:
            self._drop()
        else:
            self._set_deadline(until)
        response.finish(None)

    def _set_deadline(self, deadline: float) -> None:
        self._deadline = deadline
        if deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        late_seconds = now - self._timer_at
        self._timer = None
        self._timer_at = _NEVER
        response = self._response
        if response is not None and self._reading_paused:
            self._deadline = now + self._timeouts.next_chunk_seconds  # The client is slow, not the replica.
        if self._deadline - now > CLOCK_STEP_SECONDS:
            self._set_deadline(self._deadline)
        elif response is None:
            self._drop()
        elif late_seconds > SECOND_LOOK_SECONDS:  # our own stall: what came meanwhile is read first
            self._set_deadline(now + SECOND_LOOK_SECONDS)
        elif response.body_started:
            seconds = self._timeouts.next_chunk_seconds
            self.fail(TimedOut(f"{self._name} sent nothing for {seconds:g} s inside the body", phase=Phase.NEXT_CHUNK))
        else:
            seconds = self._timeouts.first_body_byte_seconds
            message = f"{self._name} sent no body byte within {seconds:g} s of the request"
            self.fail(TimedOut(message, phase=Phase.FIRST_BODY_BYTE))
