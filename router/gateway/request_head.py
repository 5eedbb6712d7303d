"""The head of a request to a replica, and the refusal of all that would break out of it.

What comes in is partly a client's: a value that brings its own line end would be a header of its own, and a second
Content-Length would let client and replica disagree about where the request ends (R 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from router.errors import BadRequest

# Ours to set, or speaking of one hop only. `expect` too: the body is at hand, and 100 is not awaited.
NOT_FORWARDED = frozenset(
    (
        *(b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection"),
        *(b"te", b"trailer", b"upgrade", b"expect"),
    )
)
TOKEN_CHARACTERS = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODYLESS_METHODS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))


def request_head(
    method: str,
    target: str,
    own_lines: Sequence[bytes],
    headers: Sequence[tuple[bytes, bytes]],
    body: Sequence[bytes | memoryview],
    withheld: frozenset[bytes] = NOT_FORWARDED,
) -> bytes:
    """Return the bytes of the head, blank line included, with a Content-Length for all pieces of `body` together.

    `own_lines` are whole header lines without their ends, Host among them; `withheld` the names (lower case) that are
    left out of `headers`; a memoryview in `body` is one of bytes. Raises `BadRequest` for what cannot be written.
    """
    lines = [_request_line(method, target), *own_lines]
    names = []
    for name, value in headers:
        if name.lower() not in withheld:
            names.append(name)
            lines.append(name + b": " + value)
    body_bytes = sum(map(len, body))
    if body_bytes or method not in BODYLESS_METHODS:
        lines.append(b"content-length: %d" % body_bytes)
    lines += (b"", b"")
    head = b"\r\n".join(lines)
    # It falls into the lines it was made from: no name or value brought a line end of its own.
    if len(head.splitlines()) != len(lines) - 1 or 0 in head:
        raise BadRequest("a header value holds CR, LF or NUL")
    if b"" in names or b"".join(names).translate(None, TOKEN_CHARACTERS):
        raise BadRequest("a header name is empty or holds characters that no header name may hold")
    return head


@lru_cache(maxsize=64)  # a few endpoints are asked again and again
def _request_line(method: str, target: str) -> bytes:
    if not (method.isascii() and method.isalpha() and target.startswith("/") and target.isascii()):
        raise BadRequest(f"{method[:20]!r} {target[:100]!r} is no request line")
    if " " in target or not target.isprintable():
        raise BadRequest(f"request target {target[:100]!r} holds spaces or control characters")
    return f"{method} {target} HTTP/1.1".encode()
