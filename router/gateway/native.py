"""SGLang's native POST /generate: which model it is for, and what its answers tell of token counts.

Only a model all of whose replicas are SGLang has it. Without a `model` in the body the only such model is meant; where
there are several, the client must say which.

An answer is an object with `meta_info`, or a list of such for a batch or several choices. A stream's events are such
objects too, each with all the text so far; its first one tells what was cached.
"""

from __future__ import annotations

import re

import msgspec

from router.engines.sglang import NAME as SGLANG
from router.errors import BadRequest, UnknownModel
from router.fleet.replica import Seat, ServedModel
from router.fleet.roster import Roster
from router.gateway.stream import EVENT_LIMIT_BYTES, Usage
from router.prompt.request import InferenceRequest

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_DONE = b"[DONE]"


class _MetaInfo(msgspec.Struct):
    """Counts of any type, so that an odd one is unknown instead of spoiling what is around it."""

    prompt_tokens: object = None
    completion_tokens: object = None
    cached_tokens: object = None


class _Answer(msgspec.Struct):
    text: object = None
    output_ids: object = None
    meta_info: _MetaInfo | None = None
    error: object = None


_ANSWER = msgspec.json.Decoder(_Answer)
_ANSWERS = msgspec.json.Decoder(_Answer | list[_Answer])


def addressed(roster: Roster, request: InferenceRequest) -> tuple[InferenceRequest, ServedModel]:
    """The request under its model's name, and that model. Raises BadRequest, UnknownModel or NoReplica."""
    name = request.model or _only_model(roster)
    if request.adapter is not None:
        name = f"{roster.served(name).base}:{request.adapter}"
    served = roster.served(name)
    others = {roster.facts(seat).engine or "an engine that is not known yet" for seat in _seats(roster, name)}
    others.discard(SGLANG)
    if others:
        raise BadRequest(
            f"/generate is SGLang's own endpoint, and `{name}` is also served by {', '.join(sorted(others))}. "
            "Use /v1/completions.",
            param="model",
        )
    return msgspec.structs.replace(request, model=name), served


def native_usage(body: bytes) -> Usage | None:
    """Token counts of a whole answer. None where there are none, or several that no one prompt could be judged by."""
    try:
        answer = _ANSWERS.decode(body)
    except msgspec.DecodeError:
        return None
    if isinstance(answer, list):
        answer = answer[0] if len(answer) == 1 else _Answer()
    return _usage(answer)


class NativeWatch:
    """Watches one native stream, passing every byte as it came. The counterpart of `StreamWatch`."""

    __slots__ = ("_skipping", "_tail", "content_events", "done_seen", "error_seen", "first_token_seen", "usage")

    def __init__(self) -> None:
        self.first_token_seen = False
        self.content_events = 0
        self.usage: Usage | None = None
        self.done_seen = False
        self.error_seen = False
        self._tail = bytearray()  # an event whose end has not come
        self._skipping = False  # inside an event too large to keep

    @property
    def mid_event(self) -> bool:
        return self._skipping or bool(self._tail)

    def feed(self, chunk: bytes) -> bytes:
        """Take the engine's next bytes and return them."""
        tail = self._tail
        scanned = max(0, len(tail) - 3)  # before that, no blank line begins that was not seen
        tail += chunk
        start = 0
        for blank in _BLANK_LINE.finditer(tail, scanned):
            if not self._skipping:
                self._read(bytes(tail[start : blank.start()]))
            self._skipping = False
            start = blank.end()
        del tail[:start]
        if len(tail) > EVENT_LIMIT_BYTES:
            self._skipping = True
            del tail[:-3]  # where its end may have begun
        return chunk

    def finish(self, *, clean: bool = True) -> bytes:
        """The engine has ended the stream; nothing is held back."""
        if clean and self._tail and not self._skipping:
            self._read(bytes(self._tail))
            self._tail.clear()
        return b""

    def _read(self, event: bytes) -> None:
        payload = event.removeprefix(b"data:").strip()
        if payload == _DONE:
            self.done_seen = True
            return
        try:
            answer = _ANSWER.decode(payload)
        except msgspec.DecodeError:  # not for us to judge: the client gets it as it came
            return
        self.error_seen = self.error_seen or answer.error is not None
        if answer.text or answer.output_ids:
            self.first_token_seen = True
            self.content_events += 1
        self.usage = _usage(answer) or self.usage


def _usage(answer: _Answer) -> Usage | None:
    told = answer.meta_info
    return (
        None if told is None else Usage(*map(_count, (told.prompt_tokens, told.completion_tokens, told.cached_tokens)))
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _only_model(roster: Roster) -> str:
    bases = {model.base for model in roster.models() if model.adapter is None}
    names = sorted(base for base in bases if _speaks(roster, base))
    if len(names) == 1:
        return names[0]
    if not names:
        raise UnknownModel("No SGLang replica is here: /generate is SGLang's own endpoint.", code="model_not_found")
    raise BadRequest(
        f"Several models are served here: name one in the field 'model': {', '.join(names)}.", param="model"
    )


def _speaks(roster: Roster, name: str) -> bool:
    return any(roster.facts(seat).engine == SGLANG for seat in _seats(roster, name))


def _seats(roster: Roster, name: str) -> list[Seat]:
    return [Seat(seat) for seat in roster.serving(name).tolist()]
