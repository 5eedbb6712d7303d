"""What every attempt begins with: the request sent, and the first of the answer's body.

An engine may begin a stream with 200 before it knows whether there will be an answer, and then say in its first event
that there will be none: vLLM does when the KV of a split request could not be fetched. No client has seen any of it, so
the status told there counts as if it stood in the head (R 2.1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from router.fleet.replica import Seat
from router.gateway.exchange import Answer
from router.gateway.headers import RawHeaders
from router.gateway.upstream import Upstream

_ERROR_FIRST = re.compile(rb'\s*data:\s*\{\s*"error"')
_EVENT_ENDS = re.compile(rb"\r?\n\r?\n")
LONGEST_ERROR_BYTES = 64 * 1024
UNNAMED = 500  # an error that names no status


class _Error(msgspec.Struct):
    code: object = None


class _Event(msgspec.Struct):
    error: _Error | str | None = None


_DECODER = msgspec.json.Decoder(_Event)


async def first_of(
    upstream: Upstream, path: str, headers: RawHeaders, body: Sequence[bytes | memoryview], seat: Seat
) -> Answer:
    """The answer's head and first body bytes. Raises UpstreamError; nothing stays open then, nor when cancelled."""
    response = await upstream.request("POST", path, headers, body)
    answered = False
    try:
        chunk = await response.chunk()
        status = response.status
        if status == 200 and _ERROR_FIRST.match(chunk):
            while _EVENT_ENDS.search(chunk) is None and len(chunk) < LONGEST_ERROR_BYTES:
                more = await response.chunk()
                if not more:
                    break
                chunk += more
            status = status_told(chunk)
        answered = True
    finally:
        if not answered:
            response.abort()
    return Answer(seat, response, chunk, status)


def status_told(chunk: bytes) -> int:
    """The status that a stream's first event tells, if that is an error; else 200."""
    if _ERROR_FIRST.match(chunk) is None:
        return 200
    event = _EVENT_ENDS.split(chunk, maxsplit=1)[0].strip()
    try:
        error = _DECODER.decode(event.removeprefix(b"data:"))
    except msgspec.DecodeError:
        return 200  # cut off, or none of ours to read
    if error.error is None:
        return 200
    code = error.error.code if isinstance(error.error, _Error) else None
    return code if isinstance(code, int) and 400 <= code < 600 else UNNAMED
