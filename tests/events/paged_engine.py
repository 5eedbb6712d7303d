"""A paged KV cache as vLLM keeps it, publishing numbered batches: the truth that tests hold ingestion against.

Blocks are physical; equal content may be held twice and is announced and removed copy by copy. Freed blocks join a
queue tail first and are taken back from its head, where they lose what they held. Names are random per process.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from router.events.kinds import Batch, Cleared, Event, Removed, Stored
from router.prompt.blocks import pack_tokens


@dataclass
class Request:
    tokens: list[int]
    blocks: list[int] = field(default_factory=list)  # physical
    cached_blocks: int = 0
    announced: int = 0  # leading blocks that are full and named


class PagedEngine:
    """`start` and `finish` are scheduler steps; each publishes what it changed as one batch."""

    def __init__(self, blocks: int, block_size_tokens: int, *, seed: int, buffer_steps: int = 10_000) -> None:
        self.size = block_size_tokens
        self.batches: list[tuple[int, Batch]] = []
        self.buffer: deque[tuple[int, Batch]] = deque(maxlen=buffer_steps)
        self._rng = random.Random(seed)
        self._time = 1_000.0 + seed
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))
        self._content: dict[int, tuple[int, ...]] = {}  # physical block to the whole prefix it ends
        self._holders: dict[tuple[int, ...], list[int]] = {}
        self._names: dict[tuple[int, ...], int] = {}
        self._users: dict[int, int] = {}
        self._events: list[Event] = []

    def cached_blocks(self, tokens: Sequence[int]) -> int:
        """Leading blocks held, whoever asks."""
        count = 0
        while (count + 1) * self.size <= len(tokens) and self._holders.get(tuple(tokens[: (count + 1) * self.size])):
            count += 1
        return count

    def start(self, tokens: Sequence[int]) -> Request | None:
        """Schedule and prefill; None when the blocks do not fit beside those in use."""
        request = Request(list(tokens))
        hit = min(self.cached_blocks(tokens), (len(tokens) - 1) // self.size)
        touched = [self._holders[tuple(tokens[: (at + 1) * self.size])][0] for at in range(hit)]
        idle = sum(block in self._free for block in touched)
        if len(tokens) // self.size + 8 - hit > len(self._free) - idle:
            return None
        for block in touched:
            self._free.pop(block, None)
            self._users[block] = self._users.get(block, 0) + 1
        request.blocks = touched
        request.cached_blocks = request.announced = hit
        self._fill(request)
        self._publish()
        return request

    def finish(self, request: Request, output: Sequence[int]) -> None:
        """Decode and free. The last token sampled has no KV."""
        request.tokens += output[:-1]
        self._fill(request)
        for block in reversed(request.blocks):
            self._users[block] -= 1
            if not self._users[block]:
                self._free[block] = None
        self._publish()

    def clear(self) -> None:
        """Empty the cache of what is not in use; told with the next batch."""
        self._content.clear()
        self._holders.clear()
        self._events.append(Cleared())

    def _fill(self, request: Request) -> None:
        wanted = -(-len(request.tokens) // self.size)
        while len(request.blocks) < wanted:
            block, _ = self._free.popitem(last=False)
            self._evict(block)
            self._users[block] = 1
            request.blocks.append(block)
        first, end = request.announced, len(request.tokens) // self.size
        if first >= end:
            return
        names = []
        for at in range(first, end):
            content = tuple(request.tokens[: (at + 1) * self.size])
            self._content[request.blocks[at]] = content
            self._holders.setdefault(content, []).append(request.blocks[at])
            names.append(self._name(content))
        parent = self._name(tuple(request.tokens[: first * self.size])) if first else None
        tokens = pack_tokens(request.tokens[first * self.size : end * self.size])
        self._events.append(Stored(tuple(names), parent, tokens, self.size))
        request.announced = end

    def _evict(self, block: int) -> None:
        content = self._content.pop(block, None)
        if content is not None:
            self._holders[content].remove(block)
            if not self._holders[content]:
                del self._holders[content]
            self._events.append(Removed((self._name(content),)))

    def _name(self, content: tuple[int, ...]) -> int:
        if content not in self._names:
            self._names[content] = self._rng.getrandbits(64)
        return self._names[content]

    def _publish(self) -> None:
        if self._events:
            self._time += 0.01
            numbered = len(self.batches), Batch(self._time, tuple(self._events))
            self.batches.append(numbered)
            self.buffer.append(numbered)
            self._events = []
