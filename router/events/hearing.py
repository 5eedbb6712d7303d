"""All that is known of one replica's stream of events: names, orphans, proofs, and what they put into the index.

`Ingest` keeps one of these per replica, and says when a story begins; this file turns events and reports into blocks of
the index. The rules of proof without names are in `adopt`.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from router.events.adopt import NAMELESS_BYTES, Nameless, Sent, SentPrompts
from router.events.kinds import EngineHash, Stored
from router.events.names import NAME_BYTES, Names
from router.events.orphans import ORPHAN_BYTES, Orphans
from router.events.snapshot import Run, runs
from router.fleet.replica import Seat
from router.index.base import Tier
from router.index.memory import MemoryIndex
from router.prompt.blocks import child_hash

COVERAGE_STORES = 256
REMEMBERED_REMOVALS = 4096  # a power of two


@dataclass(slots=True)
class Tally:
    """What a replica's events came to, in blocks unless said otherwise. Only grows; for metrics and the doctor."""

    stored: int = 0
    removed: int = 0
    removed_unknown: int = 0  # a name never heard: stored before we listened, or skipped
    orphaned: int = 0
    adopted: int = 0
    proven: int = 0  # nameless blocks shown by responses or by content
    inferred_removals: int = 0
    disproved: int = 0
    other_block_size: int = 0  # stores (events) of another block size than the first one heard
    unplaced: int = 0  # stores in a slower tier below a name never heard
    no_room: int = 0


class Pulse(NamedTuple):
    """Where a stream stands: compared with a later one, it tells what happened in between."""

    story: int
    stored: int  # the rest are blocks, as in `Tally`
    orphaned: int
    removed: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be kept per replica that is catching up."""

    orphan_blocks: int = 16_384
    sent_prompts: int = 64
    sent_bytes: int = 8 << 20


class Hearing:
    """Mutable; changed only by `Ingest`. `root` gives the hash before the first block, for an adapter and a salt."""

    def __init__(
        self, seat: Seat, index: MemoryIndex, root: Callable[[str | None, str | None], int], bounds: Bounds
    ) -> None:
        self.up = False
        self.story = 0  # which beginning of the replica's cache this is; 0: none has begun
        self.whole = False
        self.lost: str | None = None  # what shows that this story has lost something
        self.borrowed = False  # another router told it, and the stream has not shown yet that it goes on from there
        self.exact_reports = 0  # in a row
        self.block_size_tokens: int | None = None
        self.attached: deque[bool] = deque(maxlen=COVERAGE_STORES)
        self.tally = Tally()
        self.orphans = Orphans(bounds.orphan_blocks)
        self.nameless = Nameless()
        self.sent = SentPrompts(bounds.sent_prompts, bounds.sent_bytes)
        self._seat = seat
        self._index = index
        self._root = root
        self._bounds = bounds
        self._names = Names()
        self._owned: set[int] | None = None  # every block held, while not whole: a nameless one must not count twice
        self._next_up: int | None = None  # nameless parent of the block removed last
        self._charged_bytes = 0
        self._removals = array("Q", bytes(8 * REMEMBERED_REMOVALS))  # a ring, by count of removals

    @property
    def plain_root(self) -> int:
        """The hash before the first block of a prompt with neither adapter nor salt."""
        return self._root(None, None)

    @property
    def pulse(self) -> Pulse:
        tally = self.tally
        return Pulse(self.story, tally.stored, tally.orphaned, tally.removed)

    def removed_since(self, removed: int, blocks: Iterable[int]) -> bool:
        """Whether one of the blocks was among the removals after the first so many. Only the last ones are known."""
        now = self.tally.removed
        first = max(removed, now - REMEMBERED_REMOVALS)
        lately = {self._removals[at % REMEMBERED_REMOVALS] for at in range(first, now)}
        return not lately.isdisjoint(blocks)

    def leave(self) -> None:
        """Give back all that is held and charged; nothing may be asked of this hearing any more."""
        self._index.leave(self._seat, _owned(self._names, self.nameless))
        self._index.budget.release(self._charged_bytes)

    def forget(self, *, whole: bool, lost: str | None = None) -> None:
        """A story begins: from the engine's empty cache (`whole`), or somewhere later; perhaps because of a loss."""
        self._index.clear(self._seat, _owned(self._names, self.nameless))
        self._index.budget.release(self._charged_bytes)
        self._charged_bytes = 0
        self._names = Names()
        self.nameless = Nameless()
        self.orphans = Orphans(self._bounds.orphan_blocks)
        self.sent.clear()
        self.attached.clear()
        self._owned = None if whole else set()
        self.whole = whole
        self.lost = lost
        self.borrowed = False
        self.story += 1
        self.exact_reports = 0
        self._next_up = None

    def runs(self) -> Iterator[Run]:
        """All that is held under names: with the block size, the whole of what events are applied to (`snapshot`)."""
        return runs(self._names.entries(), self._index.parent)

    def hold(self, run: Run) -> None:
        """One of the `runs` of another hearing of the same process."""
        for _ in range(run.copies):
            self._hold(run.names, run.hashes, run.above, run.tier)

    def store(self, event: Stored) -> None:
        """A run was stored: index it, or let it wait for its parent."""
        if self.block_size_tokens is None:
            self.block_size_tokens = event.block_size_tokens
        elif self.block_size_tokens != event.block_size_tokens:
            self.tally.other_block_size += 1
            return
        if event.parent is None:
            parent = None
        else:
            parent = self._names.block(event.parent, event.tier)
            if parent is None:
                if event.tier is Tier.GPU:
                    self._orphan(event)
                else:
                    self.tally.unplaced += len(event.names)
                return
        if not self.whole:
            self.attached.append(True)
        if event.tier is not Tier.GPU:
            # A connector may leave out what sets a chain apart (vLLM's offloading tells no salt and no media). The name
            # it shares with the block it copied leaves out nothing.
            known = [self._names.block(name) for name in event.names]
            blocks = [block for block in known if block is not None]
            if len(blocks) == len(known):
                self._hold(event.names, blocks, parent, event.tier)
                return
        self._index_run(event, parent)
        if self.orphans:
            self._adopt(self.orphans.waits(event.names))

    def _index_run(
        self,
        event: Stored,
        parent: int | None,
        held: tuple[bool, ...] | None = None,
    ) -> None:
        """Hash a run and store it; `held` tells which of its blocks are still there, None: all."""
        tokens, names, tier, extras = event.tokens, event.names, event.tier, event.extras
        width = 4 * event.block_size_tokens
        above = self._root(event.adapter, event.salt) if parent is None else parent
        blocks: list[int] = []
        if extras:
            for at, extra in enumerate(extras):
                above = child_hash(above, tokens[at * width : (at + 1) * width], extra)
                blocks.append(above)
        else:
            for start in range(0, len(tokens), width):
                above = child_hash(above, tokens[start : start + width])
                blocks.append(above)
        if held is None or all(held):
            self._hold(names, blocks, parent, tier)
            return
        above_run: int | None = parent
        for name, block, there in zip(names, blocks, held, strict=True):
            if there:
                self._hold((name,), [block], above_run, tier)
            above_run = block

    def _hold(
        self,
        names: tuple[EngineHash, ...],
        blocks: list[int],
        parent: int | None,
        tier: Tier,
    ) -> None:
        """Give names and blocks to those who keep them, in one stretch and no more than there is room for."""
        nameless = self.nameless
        if nameless and tier is Tier.GPU:
            for block in blocks:
                self._drop_nameless(block)  # from here on its name stands for it
        taken = self._index.store_run(self._seat, blocks, parent, tier) if self._index.budget.room_bytes > 0 else 0
        if taken < len(blocks):
            self.tally.no_room += len(blocks) - taken
            self._not_whole("no memory was left to index a block")
            names, blocks = names[:taken], blocks[:taken]
        self._charge(NAME_BYTES * self._names.add(names, blocks, tier))
        if self._owned is not None:
            self._owned.update(blocks)
        self.tally.stored += taken

    def remove(self, name: EngineHash, tier: Tier) -> None:
        """One copy of a block was removed."""
        next_up, self._next_up = self._next_up, None
        found = self._names.remove(name, tier)
        if found is not None:
            block, last = found
            self._removals[self.tally.removed % REMEMBERED_REMOVALS] = block
            self.tally.removed += 1
            held = self._index.remove(self._seat, block, tier)
            if last:
                self._charge(-NAME_BYTES)
                if not held and self._owned is not None:
                    self._owned.discard(block)
                if self.nameless:
                    self._next_up = self.nameless.parent(block)
                    self.nameless.forget(block)
        elif self.orphans and self.orphans.remove(name):
            self.tally.removed += 1
        elif next_up is not None and tier is Tier.GPU:
            self._next_up = self.nameless.parent(next_up)
            self._drop_nameless(next_up)
            self.tally.inferred_removals += 1
        else:
            self.tally.removed_unknown += 1

    def _orphan(self, event: Stored) -> None:
        self._not_whole("blocks were stored below one never heard of")
        self.attached.append(False)
        self.tally.orphaned += len(event.names)
        if self._index.budget.room_bytes < ORPHAN_BYTES * len(event.names):
            self.tally.no_room += len(event.names)
            return
        before = self.orphans.blocks
        self.orphans.add(event)
        self._charge(ORPHAN_BYTES * (self.orphans.blocks - before))
        placed = self.sent.place(event)
        if placed is not None and event.parent is not None:
            prompt, k = placed
            self._prove(prompt, k)
            if event.parent in self.orphans:  # it begins like another run, so its tokens alone did not find it
                self._bind(event.parent, prompt.hashes[k - 1])

    def _bind(self, name: EngineHash, block: int) -> None:
        """The engine calls this block, proven to be there, by this name."""
        if self._names.block(name) is None and self.nameless.name(block):
            self._charge(NAME_BYTES * self._names.add((name,), (block,), Tier.GPU) - NAMELESS_BYTES)
            self._adopt([name])

    def _adopt(self, parents: list[EngineHash]) -> None:
        """Bring home the runs that wait for these names, and those that wait for them."""
        while parents:
            name = parents.pop()
            block = self._names.block(name)
            if block is None or name not in self.orphans:
                continue
            before = self.orphans.blocks
            for event, held in self.orphans.take(name):
                self._index_run(event, block, held)
                self.tally.adopted += sum(held)
                parents += self.orphans.waits(event.names)
            self._charge(ORPHAN_BYTES * (self.orphans.blocks - before))

    def reported(self, prompt: Sent, cached_tokens: int) -> None:
        """A response to a prompt of this story told how much of it was cached."""
        if prompt.block_size_tokens != (self.block_size_tokens or prompt.block_size_tokens):
            return
        may_hit = prompt.may_hit_blocks
        k = min(cached_tokens // prompt.block_size_tokens, may_hit)
        if prompt.predicted_blocks is not None:
            self.exact_reports = self.exact_reports + 1 if prompt.predicted_blocks == k else 0
        if self.nameless:
            for block in prompt.hashes[k:may_hit]:
                if self.nameless.proven_before(block, prompt.sent_at) and self._drop_nameless(block):
                    self.tally.disproved += 1
        self._prove(prompt, k)

    def _prove(self, prompt: Sent, count: int) -> None:
        """The first `count` blocks of a prompt are there: hold those nobody told us of, and name what hangs on them."""
        owned = self._owned
        assert owned is not None
        proven = prompt.hashes[:count].tolist()
        if self.nameless:
            self.nameless.renew(proven)
        unknown = [at for at, block in enumerate(proven) if block not in owned]
        first = 0
        for end in range(1, len(unknown) + 1):  # unbroken runs of unknown blocks
            if end < len(unknown) and unknown[end] == unknown[end - 1] + 1:
                continue
            if not self._hold_nameless(proven, unknown[first], unknown[end - 1] + 1):
                return
            first = end
        if self.orphans:
            self._hang_orphans(prompt, count)

    def _hold_nameless(self, blocks: list[int], first: int, end: int) -> bool:
        """Hold blocks[first:end]; False when there was no room for all of them."""
        parent = blocks[first - 1] if first else None
        room = max(0, self._index.budget.room_bytes // NAMELESS_BYTES)
        run = blocks[first : min(end, first + room)]
        run = run[: self._index.store_run(self._seat, run, parent)]
        assert self._owned is not None
        self._owned.update(run)
        self.nameless.prove(run, parent)
        self._charge(NAMELESS_BYTES * len(run))
        self.tally.proven += len(run)
        self.tally.no_room += end - first - len(run)
        return len(run) == end - first

    def _hang_orphans(self, prompt: Sent, count: int) -> None:
        """Runs that wait with just the tokens that follow one of the proven blocks hang there."""
        size = prompt.block_size_tokens
        leads = np.frombuffer(prompt.tokens, "<u4")[: min(count + 1, len(prompt.hashes)) * size : size]
        waiting = self.orphans.lead_tokens
        for at in [at for at, lead in enumerate(leads.tolist()) if at and lead in waiting]:
            run = self.orphans.starting(prompt.tokens[4 * size * at : 4 * size * (at + 1)])
            if run is not None and run.parent is not None and prompt.continues(run, at):
                self._bind(run.parent, prompt.hashes[at - 1])

    def _drop_nameless(self, block: int) -> bool:
        if not self.nameless.forget(block):
            return False
        self._charge(-NAMELESS_BYTES)
        if not self._index.remove(self._seat, block) and self._owned is not None:
            self._owned.discard(block)
        return True

    def _not_whole(self, why: str) -> None:
        if self._owned is None:
            self._owned = set(self._names.blocks())
        if self.whole:
            self.lost = why
        self.whole = False

    def _charge(self, amount_bytes: int) -> None:
        self._charged_bytes += amount_bytes
        self._index.budget.charge(amount_bytes)


def _owned(names: Names, nameless: Nameless) -> Iterator[int]:
    """Every block a replica may hold, for the index to visit at its leisure; it keeps the maps alive until then."""
    yield from names.blocks()
    yield from nameless
