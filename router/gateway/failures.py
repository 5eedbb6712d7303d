"""How a replica can fail one exchange, told apart as finely as the retry rule needs (R 2.1, R 2.3).

Commitment is the first body byte: every error here says by `body_started` whether it had been received. Whether to try
another replica, and whether the replica is to blame, is the dispatcher's business.
"""

from __future__ import annotations

from enum import Enum

from router.errors import UpstreamError, UpstreamTimeout


class ConnectFailed(UpstreamError):
    """No connection could be made: refused, unreachable, unknown host, TLS refused. Nothing was sent."""

    body_started = False


class DiedBeforeResponse(UpstreamError):
    """The connection ended before any response byte. On a reused connection the client has already retried it once."""

    body_started = False


class DiedBeforeBody(UpstreamError):
    """The connection ended after some of the head, or all of it, but before the first body byte."""

    body_started = False


class DiedMidBody(UpstreamError):
    """The connection ended inside the body: some body bytes had been received, and more were due."""

    body_started = True


class ProtocolFault(UpstreamError):
    """The replica's bytes are no HTTP/1.1 response that we dare to frame. The connection is closed."""

    def __init__(self, message: str, *, body_started: bool = False) -> None:
        super().__init__(message)
        self.body_started = body_started


class Aborted(UpstreamError):
    """The exchange was given up on our side, by `Response.abort` or by closing the `Upstream`."""

    def __init__(self, message: str, *, body_started: bool = False) -> None:
        super().__init__(message)
        self.body_started = body_started


class Phase(Enum):
    """What was being waited for when the time ran out (R 2.2)."""

    CONNECT = "connect"
    FIRST_BODY_BYTE = "first_body_byte"
    NEXT_CHUNK = "next_chunk"


class TimedOut(UpstreamTimeout):
    """A wait for the replica took longer than configured. `phase` says which."""

    def __init__(self, message: str, *, phase: Phase) -> None:
        super().__init__(message)
        self.phase = phase
        self.body_started = phase is Phase.NEXT_CHUNK
