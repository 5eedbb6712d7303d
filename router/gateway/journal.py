"""One structured line per finished request, written beside the event loop: a full pipe must not stop traffic."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import IO, Generic, TypeVar

import msgspec

T = TypeVar("T")

MAX_LINES = 20_000  # waiting to be written; beyond that lines are dropped and counted
FLUSH_SECONDS = 0.1


class Journal(Generic[T]):
    """JSON lines to a stream through a thread of its own. `close` writes what is left.

    What is written is put into words by `line`, in that thread: it must not change after it was handed over.
    """

    def __init__(self, stream: IO[bytes] | None, line: Callable[[T], Mapping[str, object]]) -> None:
        self.dropped = 0
        self._stream = stream
        self._line = line
        self._waiting: deque[T] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        if stream is not None:
            self._thread.start()

    def write(self, finished: T) -> None:
        if self._stream is None:
            return
        if len(self._waiting) >= MAX_LINES:
            self.dropped += 1
            return
        self._waiting.append(finished)

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        if self._stream is None or not self._waiting:
            return
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            self._stream.write(b"".join(msgspec.json.encode(self._line(one)) + b"\n" for one in batch))
            self._stream.flush()
        except Exception:  # nobody reads our log any more, or a line cannot be told; serving goes on
            self.dropped += len(batch)
