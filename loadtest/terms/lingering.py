"""What the last requests of each router used of the caches: open ones, and those that ended before so many others did.

Prompts come back within some number of requests or not at all, so this is about the part of a cache that somebody still
wants. Counted by requests, not seconds: nobody has to tell it the time.
"""

from __future__ import annotations

from collections import deque

from router.index.open_blocks import OpenBlocks


class Lingering(OpenBlocks):
    """As `OpenBlocks`, but what a request used counts until `requests` more have ended."""

    def __init__(self, grain_tokens: int, requests: int) -> None:
        super().__init__(grain_tokens)
        self._requests = requests
        self._ended: deque[int] = deque()

    def close(self, lease: int) -> None:
        self._ended.append(lease)
        if len(self._ended) > self._requests:
            super().close(self._ended.popleft())
