"""What each engine hash stands for in our own hashing, for one replica.

An engine announces each physical copy of a block under the same name and removes the copies one by one, so a name is
known until the last copy of it has gone. Tiers are told apart: a block offloaded to the CPU keeps its name there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from router.events.kinds import EngineHash
from router.index.base import Tier

# A dict entry between 1/3 and 2/3 full, the name (an int of 64 bits or 32 bytes) and our hash beside it.
NAME_BYTES = 160


class Names:
    """Mutable; changed only by the ingestion of its replica's events."""

    def __init__(self) -> None:
        self._by_tier: dict[Tier, dict[EngineHash, int]] = {Tier.GPU: {}}
        self._further_copies: dict[tuple[Tier, EngineHash], int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_tier.values()))

    def block(self, name: EngineHash, tier: Tier = Tier.GPU) -> int | None:
        """Our hash of the block; a name unknown in `tier` may be known in another."""
        found = self._by_tier.get(tier, {}).get(name)
        if found is not None:
            return found
        return next((known[name] for known in self._by_tier.values() if name in known), None)

    def add(self, names: Sequence[EngineHash], blocks: Sequence[int], tier: Tier) -> int:
        """One copy more of each. How many of the names are new."""
        known = self._by_tier.get(tier)
        if known is None:
            known = self._by_tier[tier] = {}
        before = len(known)
        if known.keys().isdisjoint(names):
            known.update(zip(names, blocks, strict=True))
            if len(known) - before == len(names):
                return len(names)
            # One event named a block twice: count the copies that the update has folded together.
            seen: set[EngineHash] = set()
            for name in names:
                if name in seen:
                    self._copy(tier, name)
                seen.add(name)
            return len(known) - before
        for name, block in zip(names, blocks, strict=True):
            if name in known:
                self._copy(tier, name)
            else:
                known[name] = block
        return len(known) - before

    def remove(self, name: EngineHash, tier: Tier) -> tuple[int, bool] | None:
        """One copy less: our hash, and whether that was the last one. None when the name is unknown in `tier`."""
        known = self._by_tier.get(tier, {})
        block = known.get(name)
        if block is None:
            return None
        copies = self._further_copies.get((tier, name), 0) if self._further_copies else 0
        if not copies:
            del known[name]
            return block, True
        if copies == 1:
            del self._further_copies[tier, name]
        else:
            self._further_copies[tier, name] = copies - 1
        return block, False

    def blocks(self) -> Iterator[int]:
        """Our hashes of all named blocks; one that is in several tiers comes several times."""
        return chain.from_iterable(known.values() for known in self._by_tier.values())

    def entries(self) -> Iterator[tuple[Tier, EngineHash, int, int]]:
        """Tier, name, our hash and copies of each. The names may not change while this is walked."""
        for tier, known in self._by_tier.items():
            for name, block in known.items():
                yield tier, name, block, 1 + self._further_copies.get((tier, name), 0)

    def _copy(self, tier: Tier, name: EngineHash) -> None:
        self._further_copies[tier, name] = self._further_copies.get((tier, name), 0) + 1
