"""The cached tokens of a split answer, corrected where its taker counts the whole prompt as cached (a splice, R 1.1).

A Mooncake taker was given the KV of every prompt token, and reports all of them. What was cached before is the donor's
to tell, so the number in the usage block is replaced by the donor's own; nothing else is touched, and nothing at all
while the donor has told none.

Looked for is the member's name with both quotes: inside a JSON string a quote is escaped. A stream is passed on in
whole events, for the number may be cut in two by the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

# The donor's figure, as soon as it is known.
Cached: TypeAlias = Callable[[], int | None]

_NUMBER = re.compile(rb'(?<!\\)("cached_tokens"\s*:\s*)\d+')
_EVENT_END = b"\n\n"


def corrected(body: bytes, cached: Cached) -> bytes:
    """A whole answer, or whole events of a stream."""
    tokens = cached()
    return body if tokens is None else _NUMBER.sub(rb"\g<1>%d" % tokens, body)


class StreamCorrection:
    """Corrects one stream as it passes. Changed by its own methods alone."""

    def __init__(self, cached: Cached) -> None:
        self._cached = cached
        self._tail = b""

    def feed(self, chunk: bytes) -> bytes:
        """The whole events there are now."""
        chunk = self._tail + chunk
        end = chunk.rfind(_EVENT_END)
        if end < 0:
            self._tail = chunk
            return b""
        end += len(_EVENT_END)
        self._tail = chunk[end:]
        return corrected(chunk[:end], self._cached)

    def finish(self, last: bytes = b"") -> bytes:
        """All that is left, when the stream has ended with `last`."""
        rest, self._tail = self._tail + last, b""
        return corrected(rest, self._cached)
