"""One structured line per finished request, written beside the event loop: a full pipe must not stop traffic."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import IO

import msgspec

MAX_LINES = 20_000  # waiting to be written; beyond that lines are dropped and counted
FLUSH_SECONDS = 0.1


class Journal:
    """JSON lines to a stream through a thread of its own. `close` writes what is left."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self.dropped = 0
        self._stream = stream
        self._lines: deque[Mapping[str, object]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        if stream is not None:
            self._thread.start()

    def write(self, line: Mapping[str, object]) -> None:
        if self._stream is None:
            return
        if len(self._lines) >= MAX_LINES:
            self.dropped += 1
            return
        self._lines.append(line)

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        if self._stream is None or not self._lines:
            return
        batch = [self._lines.popleft() for _ in range(len(self._lines))]
        try:
            self._stream.write(b"".join(msgspec.json.encode(line) + b"\n" for line in batch))
            self._stream.flush()
        except OSError:  # nobody reads our log any more; serving goes on
            self.dropped += len(batch)
