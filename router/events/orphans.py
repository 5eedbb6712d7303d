"""Stored runs whose parent has no known name yet, kept until it gets one (R 4.4).

The blocks may be removed while they wait, so copies are counted by name here too: a run is given back with the names
that are still held. Bounded in blocks; the longest waiting parent goes first, and its blocks are then unknown.
"""

from __future__ import annotations

from collections.abc import Iterable

from router.events.kinds import EngineHash, Stored

# Tokens, names and containers of one waiting block of 16 tokens; longer blocks cost 4 bytes a token on top.
ORPHAN_BYTES = 256


class Orphans:
    """Mutable; changed only by the ingestion of its replica's events."""

    def __init__(self, limit_blocks: int) -> None:
        self._limit_blocks = limit_blocks
        self._below: dict[EngineHash, list[Stored]] = {}
        self._copies: dict[EngineHash, int] = {}
        self._first_tokens: dict[bytes, Stored] = {}
        self.lead_tokens: dict[int, int] = {}  # the very first token of each entry above, with how many have it
        self.blocks = 0  # in waiting runs, those removed meanwhile included
        self.dropped_blocks = 0

    def __bool__(self) -> bool:
        """Whether any waiting block is still held."""
        return bool(self._copies)

    def __contains__(self, name: object) -> bool:
        """Whether runs wait for this name."""
        return name in self._below

    def waits(self, names: Iterable[EngineHash]) -> list[EngineHash]:
        """Those of the names for which runs wait."""
        return [name for name in names if name in self._below] if self._below else []

    def starting(self, first_tokens: bytes) -> Stored | None:
        """The latest waiting run that begins with this block of tokens."""
        return self._first_tokens.get(first_tokens)

    def add(self, event: Stored) -> int:
        """Keep a run; it must have a parent. Blocks dropped to make room for it."""
        assert event.parent is not None
        self._below.setdefault(event.parent, []).append(event)
        first = _first(event)
        if first not in self._first_tokens:
            lead = int.from_bytes(first[:4], "little")
            self.lead_tokens[lead] = self.lead_tokens.get(lead, 0) + 1
        self._first_tokens[first] = event
        for name in event.names:
            self._copies[name] = self._copies.get(name, 0) + 1
        self.blocks += len(event.names)
        dropped = 0
        while self.blocks > self._limit_blocks:
            for lost in self.take(next(iter(self._below))):
                dropped += len(lost[0].names)
        self.dropped_blocks += dropped
        return dropped

    def remove(self, name: EngineHash) -> bool:
        """One copy less of a waiting block. False when no such block waits."""
        copies = self._copies.get(name, 0)
        if copies > 1:
            self._copies[name] = copies - 1
        elif copies:
            del self._copies[name]
        return copies > 0

    def take(self, parent: EngineHash) -> list[tuple[Stored, tuple[bool, ...]]]:
        """The runs that wait for this parent, each with which of its blocks are still held. They wait no more."""
        runs: list[tuple[Stored, tuple[bool, ...]]] = []
        for event in self._below.pop(parent, ()):
            first = _first(event)
            if self._first_tokens.get(first) is event:
                del self._first_tokens[first]
                lead = int.from_bytes(first[:4], "little")
                self.lead_tokens[lead] -= 1
                if not self.lead_tokens[lead]:
                    del self.lead_tokens[lead]
            self.blocks -= len(event.names)
            runs.append((event, tuple(self.remove(name) for name in event.names)))
        return runs


def _first(event: Stored) -> bytes:
    return event.tokens[: 4 * event.block_size_tokens]
