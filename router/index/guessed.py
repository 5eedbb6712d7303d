"""What replicas without events probably hold: a small imagined cache per seat, fed by what we sent (R 4.6).

Each seat has an LRU the size of the replica's cache; what it takes in and throws out is told to the index as an engine
would tell it, so lookups know no difference. An engine frees the blocks of a finished request tail first; so a block
was used at least as recently as anything below it, and only the *ends* of prompts need an order: the cache evicts from
the end used longest ago, upwards, until it meets a block something newer hangs on. Touching a prompt costs its new
blocks and a bisection, not its length.

**Reach.** How long a block lives depends on what we do not see: answers fill blocks as prompts do, others send there
too, and the size told may not be all there is to cache in. All of it is pressure, and under pressure the real cache
forgets earlier: not when its whole size of our blocks was used since, but at some smaller number, its `reach`. The
imagined cache is no larger than that, so a block that is older is not believed to be there at all. Reach is learned
from the reports. A prompt that we held and the replica did not was past it: a step towards a little less than that
prompt's age. One of which the replica held more than we did shows that reach is too short: a step towards the whole
size. Reports that agree teach nothing, so a guess that is right is left alone. How far what remains is believed is the
share that reports confirmed (`Accuracy.belief`).

An age is told in blocks used since. It is not counted but estimated, from the number of uses since among the number of
prompts held: exact while prompts take turns, too much where some come again and again. Hence the "little less": the
estimate errs on the side of the size, and yet each prompt that is gone brings reach down.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from router.fleet.replica import Seat
from router.index.memory import MemoryIndex
from router.prompt.blocks import BlockHashes

ROOT = None

REACH_STEP = 0.125  # of the way, per report that disagrees
LESS_THAN_GONE = 0.875  # of the age of a prompt that is gone, for reach
LEAST_REACH = 1 / 16  # of the size: below, reports would hardly ever find anything to confirm
REMEMBERED_AGES = 1024  # prompts under way, whose report may still come


class Guessed:
    """Mutable; changed only by whoever dispatches and accounts for requests."""

    def __init__(self, index: MemoryIndex) -> None:
        self._index = index
        self._caches: dict[Seat, _Cache] = {}

    def guess(self, seat: Seat, capacity_blocks: int | None) -> None:
        """Imagine a cache of this many blocks for the seat; None: imagine none any more.

        A new size keeps what fits. Whoever calls makes sure that no events feed this seat.
        """
        if capacity_blocks is None:
            if self._caches.pop(seat, None) is not None:
                self._index.clear(seat)
            return
        cache = self._caches.get(seat)
        if cache is None:
            self._index.join(seat)
            self._caches[seat] = _Cache(self._index, seat, capacity_blocks)
        else:
            cache.resize(capacity_blocks)

    def guesses(self, seat: Seat) -> bool:
        return seat in self._caches

    def clear(self, seat: Seat) -> None:
        """The replica restarted or dropped its cache. Nothing happens for a seat that is not guessed."""
        cache = self._caches.get(seat)
        if cache is not None:
            self._caches[seat] = _Cache(self._index, seat, cache.capacity_blocks)
            self._index.clear(seat, cache.blocks())

    def leave(self, seat: Seat) -> None:
        """The replica is gone: forget it, its size included."""
        cache = self._caches.pop(seat, None)
        if cache is not None:
            self._index.leave(seat, cache.blocks())

    def sent(self, seat: Seat, hashes: BlockHashes) -> None:
        """A prompt was sent to the seat, which will hold all its blocks. Nothing happens for a seat not guessed."""
        cache = self._caches.get(seat)
        if cache is not None:
            known = cache.known_blocks(hashes)
            cache.note_age(hashes, known)
            cache.use(hashes, known)

    def reach_blocks(self, seat: Seat) -> int | None:
        """How many blocks the replica is taken to hold on to; None for a seat not guessed."""
        cache = self._caches.get(seat)
        return None if cache is None else cache.reach_blocks

    def reported(self, seat: Seat, hashes: BlockHashes, cached_blocks: int, predicted_blocks: int) -> None:
        """The replica said how many leading blocks it found, where the guess before sending was `predicted_blocks`.

        Fewer: the first block missed was gone, so all that hung below it was gone too; of that only this prompt itself
        is there again. As many or more: the prompt is learned as far as it was not known.
        """
        cache = self._caches.get(seat)
        if cache is None or not hashes:
            return
        cache.learn(hashes[-1], cached_blocks - min(predicted_blocks, len(hashes)))
        if cached_blocks < min(predicted_blocks, len(hashes)):
            cache.forget(hashes[cached_blocks])
        cache.use(hashes, cache.known_blocks(hashes))


class _Cache:
    """One seat's imagined cache. Mutable."""

    def __init__(self, index: MemoryIndex, seat: Seat, capacity_blocks: int) -> None:
        self.capacity_blocks = capacity_blocks
        self._reach = float(capacity_blocks)
        self._index = index
        self._seat = seat
        self._parent: dict[int, int | None] = {}
        self._children: dict[int, set[int]] = {}
        self._ends: OrderedDict[int, int] = OrderedDict()  # last blocks of prompts, used longest ago first: used when
        self._uses = 0  # the clock of ages
        self._ages: OrderedDict[int, float] = (
            OrderedDict()
        )  # of prompts under way, by last block, before they were used

    @property
    def reach_blocks(self) -> int:
        return max(1, int(self._reach))

    def note_age(self, hashes: BlockHashes, known: int) -> None:
        """A prompt is about to be used: remember how old its known part is. Inside a prompt no age is known."""
        self._uses += 1
        used_at = self._ends.get(hashes[known - 1]) if known else None
        if used_at is None:
            return
        share = min(1.0, (self._uses - used_at) / len(self._ends))
        self._ages[hashes[-1]] = share * len(self._parent)
        if len(self._ages) > REMEMBERED_AGES:
            self._ages.popitem(last=False)

    def learn(self, last_block: int, error_blocks: int) -> None:
        """A report found so many blocks more (or fewer) than were held. One block is anybody's habit."""
        age = self._ages.pop(last_block, None)
        target = self._reach
        if error_blocks > 1:
            target = self.capacity_blocks
        elif error_blocks < -1 and age is not None:
            target = min(LESS_THAN_GONE * age, self._reach)
        self._reach = max(self._reach + REACH_STEP * (target - self._reach), LEAST_REACH * self.capacity_blocks)

    def blocks(self) -> list[int]:
        return list(self._parent)

    def resize(self, capacity_blocks: int) -> None:
        self._reach *= capacity_blocks / self.capacity_blocks
        self.capacity_blocks = capacity_blocks
        self._shrink(self.reach_blocks)

    def use(self, hashes: BlockHashes, known: int) -> None:
        """Touch the prompt; what does not fit is evicted first, and a prompt beyond the cache's size is cut."""
        reach = self.reach_blocks
        prompt = hashes if len(hashes) <= reach else hashes[:reach]
        if not prompt:
            return
        known = min(known, len(prompt))
        parent = prompt[known - 1] if known else ROOT
        if known:
            # Touched before anything is evicted, so that the eviction spares it.
            self._touch(prompt[known - 1])
        if known == len(prompt):
            self._shrink(reach)
            return
        new = prompt[known:].tolist()
        self._shrink(reach - len(new))
        self._index.store_run(self._seat, new, parent)
        for above, block in pairwise([parent, *new]):
            assert block is not None
            self._parent[block] = above
            if above is not ROOT:
                self._children.setdefault(above, set()).add(block)
        if parent is not ROOT:
            del self._ends[parent]  # no end any more, and as new as what hangs below it
        self._touch(new[-1])

    def forget(self, block: int) -> None:
        """Forget the block and all below it."""
        if block not in self._parent:
            return
        parent = self._parent[block]
        doomed = [block]
        for above in doomed:
            doomed.extend(self._children.get(above, ()))
        for below in reversed(doomed):
            self._ends.pop(below, None)
            self._evict(below)
        if parent is not ROOT and parent not in self._children and parent not in self._ends:
            self._touch(parent)

    def known_blocks(self, prompt: BlockHashes) -> int:
        """Leading blocks in the cache, which is prefix-closed."""
        low, high = 0, len(prompt)
        if prompt and prompt[-1] in self._parent:
            return high  # asked once more
        while low < high:
            middle = (low + high) >> 1
            if prompt[middle] in self._parent:
                low = middle + 1
            else:
                high = middle
        return low

    def _touch(self, block: int) -> None:
        self._ends[block] = self._uses
        self._ends.move_to_end(block)

    def _shrink(self, room_for_blocks: int) -> None:
        while len(self._parent) > room_for_blocks:
            block, used_at = self._ends.popitem(last=False)
            if block in self._children:
                continue  # something newer hangs below, and it will go after that
            parent = self._evict(block)
            if parent is not ROOT and parent not in self._children and parent not in self._ends:
                # As old as what hung below it, so next.
                self._ends[parent] = used_at
                self._ends.move_to_end(parent, last=False)

    def _evict(self, block: int) -> int | None:
        """Drop a block without children. Its parent."""
        parent = self._parent.pop(block)
        if parent is not ROOT:
            siblings = self._children[parent]
            siblings.discard(block)
            if not siblings:
                del self._children[parent]
        self._index.remove(self._seat, block)
        return parent
