"""What every attempt begins with: the request sent, and the first of the answer's body."""

from __future__ import annotations

from collections.abc import Sequence

from router.fleet.replica import Seat
from router.gateway.exchange import Answer
from router.gateway.headers import RawHeaders
from router.gateway.upstream import Upstream


async def first_of(
    upstream: Upstream, path: str, headers: RawHeaders, body: Sequence[bytes | memoryview], seat: Seat
) -> Answer:
    """The answer's head and first body bytes. Raises UpstreamError; nothing stays open then, nor when cancelled."""
    response = await upstream.request("POST", path, headers, body)
    answered = False
    try:
        chunk = await response.chunk()
        answered = True
    finally:
        if not answered:
            response.abort()
    return Answer(seat, response, chunk)
