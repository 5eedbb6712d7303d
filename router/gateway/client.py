"""The client's side of one exchange: its body in, our answer out, and the news that it hung up.

A hang-up is noticed by one watcher task per exchange, which cancels the exchange's own task: whatever that task waits
for (a place, a token count, an upstream chunk) ends at once, and its `finally` blocks give everything back (R 2.1). It
begins to watch after some milliseconds only: most small answers are gone by then, and a timer costs less than a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any

import msgspec

from router.errors import BadRequest, BodyTooLarge, HomingError
from router.gateway.headers import RawHeaders

# Any: the ASGI specification leaves messages and scopes open.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_SECONDS = 60.0  # to send a whole body; slower is an attack or a dead peer
WATCH_AFTER_SECONDS = 0.02  # of the 100 ms in which a hang-up has to reach the replica


class Gone(Exception):
    """The client hung up before its request was whole."""


class Client:
    """One HTTP exchange as ASGI hands it over. Use as `with`: inside, a hang-up cancels the current task.

    One timer stands for both waits, for a slow body and for a hang-up: nearly every body is there at once, and most
    small answers are gone before it fires.
    """

    def __init__(
        self, headers: RawHeaders, receive: Receive, send: Send, *, body_seconds: float = BODY_SECONDS
    ) -> None:
        self._body_seconds = body_seconds
        self.headers = headers
        self.gone = False
        self.committed = False  # the status line has left
        self._reading = False  # the body
        self._slow = False  # it did not come before the timer first fired
        self._late = False  # nor in time
        self._finished = False
        self._receive = receive
        self._send = send
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body. Raises BodyTooLarge, BadRequest when it comes too slowly, Gone when it never comes."""
        chunks: list[bytes] = []
        size, more = 0, True
        self._reading = True
        try:
            while more:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                chunk: bytes = message.get("body", b"")
                more = message.get("more_body", False)
                size += len(chunk)
                if size > limit_bytes:
                    raise _too_large(limit_bytes)
                chunks.append(chunk)
        except asyncio.CancelledError:
            if not self._late or (self._task is not None and self._task.uncancel()):
                raise
            raise BadRequest(f"The body did not arrive within {self._body_seconds:g} s.", code="slow_body") from None
        finally:
            self._reading = False
            if self._slow:
                self._set_timer(WATCH_AFTER_SECONDS, self._begin_to_watch)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def __enter__(self) -> Client:
        self._task = asyncio.current_task()
        self._set_timer(WATCH_AFTER_SECONDS, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        task = self._task
        # A cancelled task holds the frames it was cancelled in, and these hold us: a ring that only the collector
        # could break, which comes seldom (garbage.py).
        self._timer = self._watcher = self._task = None
        if kind is asyncio.CancelledError and self.gone and task is not None:
            return task.uncancel() == 0  # our own cancellation ends here; anyone else's goes on
        return False

    def _set_timer(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, then)

    def _look(self) -> None:
        if self._reading:
            self._slow = True
            self._set_timer(self._body_seconds - WATCH_AFTER_SECONDS, self._lose_patience)
        else:
            self._begin_to_watch()

    def _lose_patience(self) -> None:
        self._late = True
        if self._task is not None:
            self._task.cancel()

    def _begin_to_watch(self) -> None:
        # A bare task, owned here: a TaskGroup per request costs more than the relay of a small answer.
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._finished:  # servers also say "disconnect" when the answer is whole
            return
        self.gone = True
        if self._task is not None:
            self._task.cancel()

    # Plain functions that hand on the server's own awaitable: a frame less for every chunk.

    def start(self, status: int, headers: RawHeaders) -> Awaitable[None]:
        self.committed = True
        return self._send({"type": "http.response.start", "status": status, "headers": headers})

    def write(self, body: bytes, *, last: bool = False) -> Awaitable[None]:
        """Waits while the client reads slower than we write."""
        self._finished = last
        return self._send({"type": "http.response.body", "body": body, "more_body": not last})

    async def answer(self, status: int, headers: RawHeaders, body: bytes) -> None:
        """A whole answer at once."""
        await self.start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self.write(body, last=True)

    async def refuse(self, fault: HomingError, extra: RawHeaders) -> None:
        """An error of ours in OpenAI's shape."""
        headers = [(b"content-type", b"application/json"), *extra]
        retry_after = getattr(fault, "retry_after_seconds", None)
        if retry_after is not None:
            headers.append((b"retry-after", str(max(1, round(retry_after + 0.499))).encode()))
        await self.answer(fault.status, headers, error_body(fault))


def error_body(fault: HomingError) -> bytes:
    """OpenAI's error object."""
    error = {"message": fault.message, "type": fault.kind, "param": fault.param, "code": fault.code}
    return msgspec.json.encode({"error": error})


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The request body is over {limit_bytes / 2**20:.0f} MB. Send less, or raise limits.body_megabytes.",
        code="body_too_large",
    )
