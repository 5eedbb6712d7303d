"""Reads one streamed OpenAI reply as its bytes come, however they are cut: when output came, what it was, the usage."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None

    @property
    def cached_tokens(self) -> int | None:
        return self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None

    @property
    def carries_output(self) -> bool:
        return bool(self.content or self.reasoning or self.reasoning_content or self.tool_calls)


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None

    @property
    def said(self) -> str:
        return self.text or (self.delta.content if self.delta is not None else None) or ""


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: msgspec.Raw = msgspec.Raw()

    @property
    def carries_output(self) -> bool:
        return any(choice.text or (choice.delta is not None and choice.delta.carries_output) for choice in self.choices)


class Watch:
    """One reply. Fed its bytes; `text` is what was said, reasoning left out."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.begin_seconds = now()
        self._rest = b""
        self._outputs = 0
        self._first_at = self._last_at = 0.0
        self._ended = False
        self._error: str | None = None
        self._said: list[str] = []
        self.usage: Usage | None = None

    @property
    def first_token_seconds(self) -> float | None:
        return self._first_at - self.begin_seconds if self._outputs else None

    @property
    def inter_token_seconds(self) -> float | None:
        return (self._last_at - self._first_at) / (self._outputs - 1) if self._outputs > 1 else None

    @property
    def text(self) -> str:
        return "".join(self._said)

    def feed(self, piece: bytes) -> None:
        *events, self._rest = (self._rest + piece).split(b"\n\n")
        for event in events:
            self._take(event)

    def fault(self, status: int) -> str | None:
        """Why the reply is no good, after its end. None: it is."""
        if status != 200:
            return f"status {status}: {self._rest[:200].decode(errors='replace')}"
        return self._error or (None if self._ended else "the stream ended without [DONE]")

    def _take(self, event: bytes) -> None:
        if not event.startswith(b"data: "):
            return
        if event == b"data: [DONE]":
            self._ended = True
            return
        try:
            read = msgspec.json.decode(event[6:], type=_Event)
        except msgspec.DecodeError as fault:
            self._error = f"an event is not JSON: {fault}"
            return
        if read.error:
            self._error = f"error in the stream: {bytes(read.error)[:200].decode(errors='replace')}"
        if read.usage is not None:
            self.usage = read.usage
        if read.carries_output:
            self._last_at = self._now()
            if not self._outputs:
                self._first_at = self._last_at
            self._outputs += 1
            self._said.extend(choice.said for choice in read.choices)
