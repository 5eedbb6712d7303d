"""Bodies for the two legs of a split request, made of the client's own bytes (R 1.1).

What a leg must say differently replaces whole members; every other byte, unknown fields and odd spacing included, is
the client's. The pieces are views: a body of a megabyte is not copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from router.prompt.members import Members

Pieces: TypeAlias = Sequence[bytes | memoryview]


def rewritten(members: Members, changes: Mapping[str, bytes | None]) -> Pieces:
    """The object with other values (JSON) under these names, added where they are missing, removed where None.

    Only for an object that names nothing twice: of a name that stands twice one member would be lost.
    """
    assert not members.repeated
    body = memoryview(members.body)
    pieces: list[bytes | memoryview] = [b"{"]
    for name, span in members.spans.items():
        if name not in changes:
            pieces += (body[span.start : span.end], b",")
            continue
        value = changes[name]
        if value is not None:
            pieces += (body[span.start : span.value_start], value, b",")
    for name, value in changes.items():
        if value is not None and name not in members.spans:
            pieces.append(b'"%b":%b,' % (name.encode(), value))
    if len(pieces) == 1:
        return (b"{}",)
    last = pieces[-1]
    pieces[-1] = b"}" if last == b"," else bytes(last)[:-1] + b"}"
    return pieces


def begun_with(pieces: Pieces, opening: int, fields: Mapping[str, bytes]) -> Pieces:
    """The body in `pieces` with these fields in front of its own. Its brace stands at `opening`, in the first piece.

    The body must have a member, as all that name a model do.
    """
    added = b"".join(b'"%b":%b,' % (name.encode(), value) for name, value in fields.items())
    first = memoryview(pieces[0])
    return [first[: opening + 1], added, *([first[opening + 1 :]] if len(first) > opening + 1 else []), *pieces[1:]]
