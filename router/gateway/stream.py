"""Reads a stream of server-sent events as it passes, and takes out what the client did not ask for (R 1.2, 2.1, 5.1).

The watcher is told nothing but bytes, in whatever pieces the network made of them. Nearly every piece is one whole
event like the one before but for its text, a string without any quote: that shape is looked for first, and the piece
passes as it is. Else a few substring tests tell whether it could hold usage, an error or an end. JSON is parsed only if
it could, and until the first token. The tests look for `"usage"` with both quotes: inside a JSON string a quote is
escaped (`\\"usage\\"`), so text that talks of usage costs a parse at most, and what is parsed decides.

Withholding. Homing asks for usage on streams whose client did not ask, and must then hand on what the engine would have
sent without being asked. Two differences are taken back:

- the usage event (`"choices":[]` with usage) is dropped, with its blank line;
- vLLM puts `system_fingerprint` into the event with the finish reason, or, if usage was asked for, into the usage event
  instead. So a finishing event is held until the next event is known, and gets the fingerprint back as its last member.

This is exact for one choice. With several, vLLM marks each finishing event, and the first could be completed only by
holding all that follows; and with `continuous_usage_stats` every event would carry usage. Do not ask for usage there.

Withheld streams are forwarded in whole events. An event over 1 MiB passes unread, so that memory stays bounded.
"""

from __future__ import annotations

import re

import msgspec

EVENT_LIMIT_BYTES = 1 << 20
# How often to learn the shape of an ordinary event. With log probabilities or token ids no two are alike: give up.
SHAPE_LESSONS = 4

_USAGE = b'"usage"'
_ERROR = b'"error"'
_DONE = b"[DONE]"
_FINISHED = b'"finish_reason":"'
_FINISHED_SPACED = b'"finish_reason": "'
# Up to the text, as most engines write it and as those do that leave Python's separators as they are.
_UP_TO_TEXT = re.compile(rb'"(?:content|text|reasoning_content|reasoning)": ?"')
_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null')
# A line end followed by a line end. Atomic, lest the two bytes of one CRLF be taken for two ends.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What an engine says a request took, in tokens. None is unknown, which is not 0 (R 5.1)."""

    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None


class _PromptDetails(msgspec.Struct):
    cached_tokens: object = None


class _Usage(msgspec.Struct):
    """Counts of any type, so that an odd one is unknown instead of spoiling the event around it."""

    prompt_tokens: object = None
    completion_tokens: object = None
    prompt_tokens_details: _PromptDetails | None = None

    def read(self) -> Usage:
        details = self.prompt_tokens_details
        cached_tokens = details.cached_tokens if details else None
        return Usage(_count(self.prompt_tokens), _count(self.completion_tokens), _count(cached_tokens))


class _Delta(msgspec.Struct):
    """The members of a delta that are output. Of any type: engines differ, and only emptiness matters."""

    content: object = None
    reasoning_content: object = None
    reasoning: object = None
    tool_calls: object = None
    function_call: object = None
    refusal: object = None
    audio: object = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: object = None
    finish_reason: object = None

    def has_content(self) -> bool:
        delta = self.delta
        if delta is None:
            return bool(self.text)
        return bool(
            delta.content
            or delta.tool_calls
            or delta.reasoning_content
            or delta.reasoning
            or delta.function_call
            or delta.refusal
            or delta.audio
            or self.text
        )


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | msgspec.UnsetType | None = msgspec.UNSET
    error: object = None
    system_fingerprint: str | None = None


class _Body(msgspec.Struct):
    usage: _Usage | None = None


_EVENT_DECODER = msgspec.json.Decoder(_Event)
_BODY_DECODER = msgspec.json.Decoder(_Body)


class StreamWatch:
    """Watches one stream. Changed by `feed` and `finish` alone.

    `first_token_seen`: an event with content, a tool call or reasoning has come. `content_events` counts such events,
    and is an estimate of the output's tokens only where the engine sends one token an event. `usage` is the latest
    reported, with the latest `cached_tokens` that was a number. `done_seen`: `data: [DONE]` has come. `error_seen`: an
    event with an `error` member has come.

    `withhold_usage`: drop the usage event, and undo what else asking for usage changed. `strip_null_usage`, beside it:
    the engine also adds `"usage":null` to every other event when asked, as OpenAI's own API does; take that out.
    """

    __slots__ = (
        *("_closing", "_cut_off", "_edge", "_held", "_lessons", "_opening", "_scanned_bytes", "_shape_bytes"),
        *("_skipping", "_smooth", "_strip", "_tail", "_withhold"),
        *("content_events", "done_seen", "error_seen", "first_token_seen", "usage"),
    )

    def __init__(self, *, withhold_usage: bool = False, strip_null_usage: bool = False) -> None:
        self.first_token_seen = False
        self.content_events = 0
        self.usage: Usage | None = None
        self.done_seen = False
        self.error_seen = False
        self._withhold = withhold_usage
        self._strip = strip_null_usage and withhold_usage
        self._tail = bytearray()  # an event whose end has not come
        self._scanned_bytes = 0  # of the tail, known to hold no blank line
        self._held = b""  # a finishing event that may yet get a fingerprint
        self._skipping = False  # inside an event too large to keep
        self._edge = b""  # the last bytes of such an event, where its end may have begun
        self._cut_off = False  # ended inside an event
        self._opening = b""  # of an ordinary event, as far as its text
        self._closing = b""  # of the same, from the end of its text
        self._shape_bytes = EVENT_LIMIT_BYTES  # of both together
        self._lessons = SHAPE_LESSONS
        self._smooth = False  # nothing is pending and the first token is past

    @property
    def mid_event(self) -> bool:
        """Whether what was forwarded ends inside an event. An error event must then end that one first."""
        return self._skipping or self._cut_off or (bool(self._tail) and not self._withhold)

    def feed(self, chunk: bytes) -> bytes:
        """Take the engine's next bytes and return those to forward now: the very same, or if usage is withheld any."""
        if self._smooth:
            if (
                len(chunk) > self._shape_bytes
                and chunk.startswith(self._opening)
                and chunk.endswith(self._closing)
                and chunk.find(b'"', len(self._opening), len(chunk) - len(self._closing)) < 0
            ):
                self.content_events += 1
                return chunk
            if _is_plain(chunk):
                self.content_events += 1 + chunk.count(b"\n\ndata:")
                if self._lessons:
                    self._learn_shape(chunk)
                return chunk
        forward = self._walk(chunk)
        self._smooth = self.first_token_seen and not (self._tail or self._held or self._skipping)
        return forward if self._withhold else chunk

    def finish(self, *, clean: bool = True) -> bytes:
        """The engine has ended the stream: return what is still to be forwarded.

        A last event without its blank line is read and forwarded if the end was clean, else dropped where it can be.
        """
        self._cut_off = self.mid_event
        out: list[bytes] = []
        if self._tail and clean:
            self._read(bytes(self._tail), out)
        self._tail.clear()
        out.append(self._held)
        self._held = b""
        return b"".join(out) if self._withhold else b""

    def _walk(self, chunk: bytes) -> bytes:
        """Read every event that `chunk` completes. What it returns is to be forwarded only when withholding."""
        out: list[bytes] = []
        if self._skipping:
            chunk = self._skip(chunk, out)
        tail = self._tail
        tail += chunk
        start = 0
        # Up to three bytes of a blank line may have been scanned before its last came.
        match = _BLANK_LINE.search(tail, max(0, self._scanned_bytes - 3))
        # A CR at the very end may be half a CRLF.
        while match is not None and not (match.end() == len(tail) and tail.endswith(b"\r")):
            self._read(bytes(tail[start : match.end()]), out)
            start = match.end()
            match = _BLANK_LINE.search(tail, start)
        del tail[:start]
        self._scanned_bytes = len(tail)
        if len(tail) > EVENT_LIMIT_BYTES:
            out += (self._held, bytes(tail))
            self._edge = bytes(tail[-3:])
            self._held = b""
            self._skipping = True
            tail.clear()
            self._scanned_bytes = 0
        return b"".join(out)

    def _skip(self, chunk: bytes, out: list[bytes]) -> bytes:
        """Pass bytes of an oversize event. Returns those after its end."""
        seam = self._edge + chunk
        match = _BLANK_LINE.search(seam)
        if match is None:
            self._edge = seam[-3:]
            out.append(chunk)
            return b""
        end = match.end() - len(self._edge)
        self._skipping = False
        out.append(chunk[:end])
        return chunk[end:]

    def _read(self, raw: bytes, out: list[bytes]) -> None:
        """Read one event, `raw` with its blank line, and append what may be forwarded to `out`."""
        payload = _payload(raw)
        event = None
        if payload == _DONE:
            self.done_seen = True
        elif payload:
            try:
                event = _EVENT_DECODER.decode(payload)
            except msgspec.DecodeError:  # Not for us to judge: the client gets it as it came.
                event = None
        withheld = finishing = False
        if event is not None:
            if event.error is not None:
                self.error_seen = True
            if isinstance(event.usage, _Usage):
                self._learn(event.usage.read())
                withheld = self._withhold and event.choices == []
            for choice in event.choices or ():
                if choice.has_content():
                    self.first_token_seen = True
                    self.content_events += 1
                    break
            if not self._withhold:
                return
            finishing = event.system_fingerprint is None and any(c.finish_reason for c in event.choices or ())
            if self._strip and event.usage is None:
                raw = _without_null_usage(raw)
        held, self._held = self._held, b""
        if held:
            if withheld and event is not None and event.system_fingerprint is not None:
                held = _with_fingerprint(held, event.system_fingerprint)
            out.append(held)
        if finishing:
            self._held = raw
        elif not withheld:
            out.append(raw)

    def _learn_shape(self, raw: bytes) -> None:
        """Remember what stands before and after the text of this event."""
        self._lessons -= 1
        start = max([match.end() for match in _UP_TO_TEXT.finditer(raw)], default=0)
        end = raw.find(b'"', start)
        if start and end > start and b"\\" not in raw[start:end] and raw.find(b"\n") == len(raw) - 2:
            self._opening, self._closing = raw[:start], raw[end:]
            self._shape_bytes = len(self._opening) + len(self._closing)

    def _learn(self, usage: Usage) -> None:
        if usage.cached_tokens is None and self.usage is not None:
            usage = Usage(usage.prompt_tokens, usage.completion_tokens, self.usage.cached_tokens)
        self.usage = usage


def usage_of(body: bytes) -> Usage | None:
    """Read the usage of a whole JSON response. None where there is none, or none that can be read."""
    try:
        usage = _BODY_DECODER.decode(body).usage
    except msgspec.DecodeError:
        return None
    return usage.read() if usage else None


def error_event(message: str, kind: str, code: str | int | None = None, *, mid_event: bool = False) -> bytes:
    """An OpenAI-shaped error as an event, after which the stream is to end without `[DONE]`: client libraries raise.

    `mid_event` (see `StreamWatch.mid_event`) first ends the event that was cut off.
    """
    error = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return (b"\n\n" if mid_event else b"") + b"data: " + msgspec.json.encode(error) + b"\n\n"


def _is_plain(chunk: bytes) -> bool:
    """Whether these are whole events from which nothing can be learnt but their number."""
    return (
        chunk.endswith(b"\n\n")
        and chunk.startswith(b"data:")
        and _USAGE not in chunk
        and _DONE not in chunk
        and _ERROR not in chunk
        and _FINISHED not in chunk
        and _FINISHED_SPACED not in chunk
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _payload(raw: bytes) -> bytes:
    """The data of an event: its `data` lines without their names, joined by newlines."""
    if raw.startswith(b"data: ") and raw.endswith(b"\n\n") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:
        return raw[6:-2]
    lines = _LINE_END.split(raw.removeprefix(b"\xef\xbb\xbf"))
    return b"\n".join([line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")])


def _without_null_usage(raw: bytes) -> bytes:
    """Take the top-level member `"usage":null` out of an event, if that is certain to be what goes."""
    for match in reversed(list(_NULL_USAGE.finditer(raw))):
        spliced = raw[: match.start()] + raw[match.end() :]
        try:
            event = _EVENT_DECODER.decode(_payload(spliced))
        except msgspec.DecodeError:
            continue
        if event.usage is msgspec.UNSET:
            return spliced
    return raw


def _with_fingerprint(raw: bytes, fingerprint: str) -> bytes:
    """Add the last member that an event would have had, written as vLLM writes it."""
    end = raw.rfind(b"}")
    return raw[:end] + b',"system_fingerprint":' + msgspec.json.encode(fingerprint) + raw[end:]
