"""The members of a JSON object with the exact bytes each of them covers.

A body is decoded once into raw values by msgspec, which is fast but keeps neither positions nor repeated names. The
positions come from walking the raw values over the buffer again: if `{`, name, raw value, `,`, name, raw value, ... `}`
covers the body exactly, that is a derivation of the body by JSON's grammar; the grammar is unambiguous, so it is the
only one, and no name was repeated. If the walk does not fit, a name was repeated, and a slower scan lists every member.

Names are compared decoded: "mod\\u0065l" is "model".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from json import JSONDecoder

import msgspec

from router.errors import BadRequest

_NAME = re.compile(rb'[ \t\n\r]*("(?:[^"\\]|\\.)*")[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
_BLANK = re.compile(rb"[ \t\n\r]*")
_OBJECT: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STRING: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)

# A value shorter than this is copied, which costs a fifth of a view of it.
SHORT_BYTES = 2048

# What most bodies have; others are written out anew each time.
_USUAL = ("model", "messages", "prompt", "input", "stream", "stream_options", "max_tokens", "max_completion_tokens",
          "temperature", "top_p", "tools", "tool_choice", "stop", "n", "seed", "user")  # fmt: skip


class Span(msgspec.Struct, frozen=True, gc=False):
    """Where one member stands, as offsets into the body: its name's quote, its value, the byte after its value."""

    start: int
    value_start: int
    end: int


class Members(msgspec.Struct, frozen=True, gc=False):
    """The members of one object inside a body. All offsets count from the body's first byte."""

    body: bytes
    opening: int  # of the opening brace
    spans: Mapping[str, Span]  # the first member of each name, in order
    repeated: frozenset[str]  # names that occur more than once

    def raw(self, name: str) -> bytes | memoryview | None:
        """The bytes of a member's value, without copying unless it is short; None when there is no such member."""
        span = self.spans.get(name)
        if span is None:
            return None
        start, end = span.value_start, span.end
        return self.body[start:end] if end - start < SHORT_BYTES else memoryview(self.body)[start:end]

    def first_byte(self, name: str) -> int | None:
        """The byte a member's value begins with, which tells its JSON type."""
        span = self.spans.get(name)
        return None if span is None else self.body[span.value_start]

    def is_present(self, name: str) -> bool:
        """Whether the member is there and is not null."""
        return self.first_byte(name) not in (None, _NULL)


_NULL, _COMMA, _SPACE, _BRACE = ord("n"), ord(","), ord(" "), ord("{")


def read_members(body: bytes) -> Members:
    """The members of the object that `body` is. Raises BadRequest for anything that is not one JSON object in UTF-8."""
    if not body:
        raise BadRequest("The request body is empty. Send a JSON object.")
    if not body.isascii():
        try:
            str(body, "utf-8")  # raw values are not checked for it otherwise
        except UnicodeDecodeError as error:
            raise BadRequest(f"The request body is not valid UTF-8: {error.reason} at byte {error.start}.") from error
    return _read(body, 0, len(body))


def nested_members(body: bytes, span: Span) -> Members:
    """The members of the object that is the value of one member. Raises BadRequest when it is not an object."""
    return _read(body, span.value_start, span.end)


def _read(body: bytes, start: int, end: int) -> Members:
    whole = start == 0 and end == len(body)
    try:
        values = _OBJECT.decode(body if whole else memoryview(body)[start:end])
    except msgspec.ValidationError as error:
        raise BadRequest("The request body must be a JSON object.") from error
    except RecursionError as error:
        raise BadRequest("The request body is nested too deeply.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # msgspec names the byte but where the input ends too early.
        fault = str(error).removeprefix("JSON is malformed: ")
        place = "" if "byte" in fault else f" (after byte {end - start})"
        raise BadRequest(f"The request body is not valid JSON: {fault}{place}.") from error
    opening = start if body[start] == _BRACE else _skip_blank(body, start)
    spans = _walk(body, opening, end, values)
    if spans is not None:
        return Members(body, opening, spans, frozenset())
    return _scan(body, opening)


def _skip_blank(body: bytes, at: int) -> int:
    match = _BLANK.match(body, at)
    return at if match is None else match.end()


def _walk(body: bytes, opening: int, end: int, values: Mapping[str, msgspec.Raw]) -> dict[str, Span] | None:
    """Spans by laying the raw values over the body in order, or None where they do not fit exactly."""
    spans: dict[str, Span] = {}
    at = opening + 1
    for name, raw in values.items():
        if spans:
            if body[at] != _COMMA:
                at = _skip_blank(body, at)
                if body[at : at + 1] != b",":
                    return None
            at += 1
            if body[at] == _SPACE:
                at += 1
        # As nearly every client writes it: no escapes in the name, one space after the colon at most.
        written = _WRITTEN.get(name) or _written(name)
        if body.startswith(written, at):
            name_at = at
            at += len(written)
            if body[at] == _SPACE:
                at += 1
        else:
            match = _NAME.match(body, at, end)
            if match is None or _decoded(match[1]) != name:
                return None
            name_at, at = match.start(1), match.end()
        if not body.startswith(raw, at):
            at = _skip_blank(body, at)
            if not body.startswith(raw, at):
                return None
        value_at = at
        at += len(memoryview(raw))
        spans[name] = Span(name_at, value_at, at)
    if body[at : at + 1] == b"}" and at + 1 == end:
        return spans
    at = _skip_blank(body, at)
    if body[at : at + 1] != b"}" or _skip_blank(body, at + 1) != end:
        return None
    return spans


def _written(name: str) -> bytes:
    return b'"%b":' % name.encode()


_WRITTEN = {name: _written(name) for name in _USUAL}


def _decoded(quoted: bytes) -> str:
    return _STRING.decode(quoted) if b"\\" in quoted else quoted[1:-1].decode()


def _scan(body: bytes, opening: int) -> Members:
    """Every member one after the other. The body is known to be valid JSON, so nothing is checked again.

    Latin-1 keeps one character per byte, so the offsets of the standard library's scanner are ours.
    """
    text = body.decode("latin-1")
    read_value = JSONDecoder(strict=False).raw_decode
    spans: dict[str, Span] = {}
    repeated: set[str] = set()
    at = opening
    while True:
        match = _NAME.match(body, at + 1)
        if match is None:  # an object without members
            break
        name = _decoded(match[1])
        _, value_end = read_value(text, match.end())
        if name in spans:
            repeated.add(name)
        else:
            spans[name] = Span(match.start(1), match.end(), value_end)
        at = _skip_blank(body, value_end)
        if body[at : at + 1] != b",":
            break
    return Members(body, opening, spans, frozenset(repeated))
