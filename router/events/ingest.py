"""What the engines' events say, written into the index under our own hashes; and how far each replica's part is whole.

Per replica: the engine's names for its blocks (`names`), runs that wait for their parent (`orphans`), and while the
beginning of the cache is unknown, what the answers prove about it (`adopt`). Copies, reachability and bytes of the
blocks themselves are the index's; numbers and gaps were settled by `sequence`.

**Stream trust** (the lesser of this and what the responses show counts, R 5.2):

* GUESSED until a first story begins: nothing is known from events;
* LOAD_ONLY while the stream is down, since removals are missed from then on;
* EXACT once the story is whole: told from the engine's empty cache on (sequence 0, or `AllBlocksCleared`);
* CATCHING_UP otherwise, with a coverage: the share of the last stores that hung on something known.

A catching-up replica becomes EXACT when nothing waits and `PROMOTION_REPORTS` responses in a row reported what
the events alone had foretold; the first that does not sends it back. A run without a known parent in a story held to
be whole shows that something was lost, and ends the claim. So does a store there was no memory for.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from router.events.adopt import Sent
from router.events.hearing import Bounds, Hearing, Pulse, Tally
from router.events.kinds import Cleared, Event, Removed, Stored
from router.events.snapshot import Run, Told
from router.fleet.replica import Seat
from router.index.base import CATCHING_UP, EXACT, GUESSED, LOAD_ONLY, Trust
from router.index.memory import MemoryIndex
from router.prompt.blocks import BlockHasher, BlockHashes, TokenIds, root_hash

PROMOTION_REPORTS = 100
REMEMBERED_ROOTS = 1024  # (adapter, salt) pairs; salts can be one per user, so the memory of them is dropped when full


class Ingest:
    """Mutable; changed by the streams' tasks (`begin`, `apply`, `stream`) and by requests (`sent`, `reported`)."""

    def __init__(
        self,
        index: MemoryIndex,
        *,
        hash_seed: int,
        bounds: Bounds | None = None,
    ) -> None:
        self._index = index
        self._hash_seed = hash_seed
        self._bounds = bounds or Bounds()
        self._hearings: dict[Seat, Hearing] = {}
        self._roots: dict[tuple[str, str | None, str | None], int] = {}
        self._hasher = BlockHasher(0)

    # Seats and streams

    def join(self, seat: Seat, model: str) -> None:
        """Hear a replica that serves `model` (the base all its adapters share). Nothing happens if it is heard."""
        if seat not in self._hearings:
            self._index.join(seat)
            self._hearings[seat] = Hearing(seat, self._index, partial(self._root, model), self._bounds)

    def leave(self, seat: Seat) -> None:
        """The replica is gone: forget all, its place in the index included."""
        hearing = self._hearings.pop(seat, None)
        if hearing is not None:
            hearing.leave()

    def stream(self, seat: Seat, *, up: bool) -> None:
        """The stream works, or it does not."""
        hearing = self._hearings.get(seat)
        if hearing is not None:
            hearing.up = up

    def begin(self, seat: Seat, *, whole: bool, lost: str | None = None) -> None:
        """Forget the replica's blocks: its story begins (anew), from its empty cache (`whole`) or later.

        `lost` says in words that something was missed before, and how that shows.
        """
        hearing = self._hearings.get(seat)
        if hearing is not None:
            hearing.block_size_tokens = None
            hearing.forget(whole=whole, lost=lost)

    def apply(self, seat: Seat, event: Event) -> None:
        """One event, in the stream's order. Costs at most the event's blocks, and the orphans it brings home."""
        hearing = self._hearings.get(seat)
        if hearing is None:
            return
        if isinstance(event, Stored):
            hearing.store(event)
        elif isinstance(event, Removed):
            for name in event.names:
                hearing.remove(name, event.tier)
        else:
            hearing.forget(whole=True)

    def cleared(self, seat: Seat) -> None:
        """Somebody emptied the engine's cache; the engine itself says so only with its next batch (R 4.5)."""
        self.apply(seat, Cleared())

    def purge(self, max_blocks: int) -> bool:
        """Free memory of what was forgotten, up to so many blocks. Whether there is more."""
        return self._index.purge(max_blocks)

    # What routers tell each other

    def told(self, seat: Seat) -> Told | None:
        """All that is known of the replica, for another router; None: not the whole."""
        hearing = self._hearings.get(seat)
        if hearing is None or self.trust(seat) is not EXACT or not hearing.whole:
            return None
        return Told(hearing.plain_root, hearing.block_size_tokens, hearing.runs())

    def fits(self, seat: Seat, told: Told) -> bool:
        """Whether whoever tells hashes as we do, and blocks of the same size."""
        hearing = self._hearings.get(seat)
        return (
            hearing is not None
            and hearing.plain_root == told.root
            and hearing.block_size_tokens in (None, told.block_size_tokens)
        )

    def borrow(self, seat: Seat, block_size_tokens: int | None) -> None:
        """A story begins that another router tells: `hold` its runs, and say `proven` once the stream goes on from it.
        Until then it is no more than CATCHING_UP."""
        hearing = self._hearings[seat]
        hearing.forget(whole=True)
        hearing.block_size_tokens = block_size_tokens
        hearing.borrowed = True

    def hold(self, seat: Seat, run: Run) -> None:
        hearing = self._hearings.get(seat)
        if hearing is not None:
            hearing.hold(run)

    def proven(self, seat: Seat) -> None:
        hearing = self._hearings.get(seat)
        if hearing is not None:
            hearing.borrowed = False

    def story(self, seat: Seat) -> int | None:
        """Which beginning of the replica's cache it is that we know; another number: all before is forgotten."""
        hearing = self._hearings.get(seat)
        return None if hearing is None else hearing.story

    # What was sent and reported

    def sent(
        self,
        seat: Seat,
        tokens: TokenIds,
        hashes: BlockHashes,
        block_size_tokens: int,
        *,
        adapter: str | None = None,
        predicted_blocks: int | None = None,
    ) -> Sent | None:
        """A prompt goes to the replica. What is returned goes to `reported` later; None: nothing to learn from it.

        `predicted_blocks`: what the events alone (`Match.held`, capped by the hit rule) foretold, if it will be judged.
        """
        hearing = self._hearings.get(seat)
        if hearing is None or hearing.whole or not hearing.story or not hashes:
            return None
        hearing.nameless.proofs += 1
        prompt = Sent(
            tokens, hashes, block_size_tokens, adapter, predicted_blocks, hearing.nameless.proofs, hearing.story
        )
        hearing.sent.add(prompt)
        return prompt

    def reported(self, seat: Seat, prompt: Sent, cached_tokens: int) -> None:
        """The response said how many of the prompt's tokens the replica had in its own cache."""
        hearing = self._hearings.get(seat)
        if hearing is None or hearing.whole or prompt.story != hearing.story:
            return
        hearing.reported(prompt, cached_tokens)

    # What is known

    def trust(self, seat: Seat) -> Trust:
        hearing = self._hearings.get(seat)
        if hearing is None or not hearing.story:
            return GUESSED
        if not hearing.up:
            return LOAD_ONLY
        promoted = hearing.exact_reports >= PROMOTION_REPORTS and not hearing.orphans
        return EXACT if (hearing.whole and not hearing.borrowed) or promoted else CATCHING_UP

    def coverage(self, seat: Seat) -> float:
        """Of the last stores, the share (0 to 1) that hung on something known. 1 for a whole story."""
        hearing = self._hearings.get(seat)
        if hearing is None or not hearing.story:
            return 0.0
        if hearing.whole:
            return 1.0
        return sum(hearing.attached) / len(hearing.attached) if hearing.attached else 0.0

    def block_size_tokens(self, seat: Seat) -> int | None:
        """As learned from the stores of this story."""
        hearing = self._hearings.get(seat)
        return None if hearing is None else hearing.block_size_tokens

    def tally(self, seat: Seat) -> Tally:
        hearing = self._hearings.get(seat)
        return Tally() if hearing is None else hearing.tally

    # What a miss is explained with

    def pulse(self, seat: Seat) -> Pulse | None:
        """Where the replica's stream stands; None: no story of it has begun."""
        hearing = self._hearings.get(seat)
        return None if hearing is None or not hearing.story else hearing.pulse

    def whole(self, seat: Seat) -> bool:
        """Whether its story is told from an empty cache on, with nothing known to be missing."""
        hearing = self._hearings.get(seat)
        return hearing is not None and hearing.whole

    def lost(self, seat: Seat) -> str | None:
        """What shows that its story has lost something, as long as that lowers its trust."""
        hearing = self._hearings.get(seat)
        return None if hearing is None or self.trust(seat) is not CATCHING_UP else hearing.lost

    def removed_since(self, seat: Seat, pulse: Pulse | None, blocks: Iterable[int]) -> bool:
        """Whether one of the blocks was removed since then (None: ever), as far as is remembered."""
        hearing = self._hearings.get(seat)
        return hearing is not None and hearing.removed_since(0 if pulse is None else pulse.removed, blocks)

    def plain_blocks(self, seat: Seat, tokens: TokenIds, block_size_tokens: int) -> int:
        """Leading blocks of the prompt held as if neither adapter nor salt belonged to it. Hashes the whole prompt."""
        hearing = self._hearings.get(seat)
        if hearing is None:
            return 0
        hashes = self._hasher.hashes(tokens, hearing.plain_root, block_size_tokens)
        return self._index.held_depth(seat, hashes)

    # Parts

    def _root(self, model: str, adapter: str | None, salt: str | None) -> int:
        key = (model, adapter, salt)
        root = self._roots.get(key)
        if root is None:
            if len(self._roots) >= REMEMBERED_ROOTS:
                self._roots.clear()
            root = self._roots[key] = root_hash(self._hash_seed, model, adapter, salt)
        return root
