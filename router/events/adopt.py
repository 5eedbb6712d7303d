"""What the answers prove about a cache whose beginning we missed (R 4.4), for one replica.

Two kinds of proof give us blocks no event has named:

* a response that reports k cached blocks: the first k blocks of its prompt were there;
* a stored run with an unknown parent whose tokens are blocks k.. of a prompt we sent there: its parent's name is the
  engine's name of our block k-1, and the k blocks before it were there as well.

Such blocks are *nameless* (but for that k-1): no removal will ever name them. They are forgotten on

* a later response that reports fewer blocks of a prompt sent after they were proven;
* a removal of an unknown name right after the removal of a block whose parent is nameless: vLLM frees a request's
  blocks tail first and evicts in the order freed, so it walks a chain upwards, and the unknown name is that parent.
  (A wrong guess forgets a block that is there: a lower bound still, and the next report proves it again.)
* a store of the same block under a name, which then stands for it; and whenever the replica is cleared.

A match by content alone must be the only one: among all prompts remembered, only one block may come out as the parent.
Once blocks are proven, the runs that wait with just the tokens that follow one of them are taken to hang there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from router.events.kinds import Stored
from router.prompt.blocks import BlockHashes, TokenIds

# An entry of the parent map and the set entries of one nameless block.
NAMELESS_BYTES = 200


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """One prompt on its way to a replica that is catching up. Given back with what the response reported."""

    tokens: TokenIds
    hashes: BlockHashes
    block_size_tokens: int
    adapter: str | None
    predicted_blocks: int | None  # what the events alone foretold; None: not to be judged
    sent_at: int  # on the replica's own counter of proofs
    story: int  # which beginning of the replica's cache it belongs to

    @property
    def may_hit_blocks(self) -> int:
        """The most blocks an engine takes from its cache for this prompt (R 4.1)."""
        return min(len(self.hashes), max(len(self.tokens) // 4 - 1, 0) // self.block_size_tokens)

    def continues(self, run: Stored, k: int) -> bool:
        """Whether the run is this prompt's blocks k.., as far as both go: beyond the prompt are generated tokens."""
        width = 4 * self.block_size_tokens
        mine = self.tokens[k * width : k * width + len(run.tokens)]
        return (
            run.block_size_tokens == self.block_size_tokens
            and run.adapter == self.adapter
            and not any(run.extras)
            and len(mine) >= width
            and run.tokens.startswith(mine)
        )


class SentPrompts:
    """The last prompts sent, bounded in number and bytes. Mutable; changed only by its replica's ingestion."""

    def __init__(self, limit_prompts: int, limit_bytes: int) -> None:
        self._limit_prompts = limit_prompts
        self._limit_bytes = limit_bytes
        self._prompts: deque[Sent] = deque()
        self._bytes = 0

    def add(self, sent: Sent) -> None:
        self._prompts.append(sent)
        self._bytes += _size_bytes(sent)
        while len(self._prompts) > self._limit_prompts or self._bytes > self._limit_bytes:
            self._bytes -= _size_bytes(self._prompts.popleft())

    def clear(self) -> None:
        self._prompts.clear()
        self._bytes = 0

    def place(self, run: Stored) -> tuple[Sent, int] | None:
        """The prompt and the k for which the run is its blocks k..; None when there is none, or two parents."""
        found: tuple[Sent, int] | None = None
        first_token = int.from_bytes(run.tokens[:4], "little")
        for sent in self._prompts:
            size = sent.block_size_tokens
            leads = np.frombuffer(sent.tokens, "<u4")[: len(sent.hashes) * size : size]
            for k in np.flatnonzero(leads == first_token).tolist():
                if not k or not sent.continues(run, k):
                    continue
                if found is not None and found[0].hashes[found[1] - 1] != sent.hashes[k - 1]:
                    return None
                found = (sent, k)
        return found


class Nameless:
    """Blocks known to be held without a name. Mutable; changed only by its replica's ingestion."""

    def __init__(self) -> None:
        self._proven_at: dict[int, int] = {}
        self._parent: dict[int, int | None] = {}  # also of blocks that have got their name since
        self.proofs = 0

    def __len__(self) -> int:
        return len(self._proven_at)

    def __contains__(self, block: object) -> bool:
        return block in self._proven_at

    def __iter__(self) -> Iterator[int]:
        return iter(self._proven_at)

    def prove(self, run: Sequence[int], parent: int | None) -> None:
        """Blocks not known before, each the parent of the next."""
        self._proven_at.update(dict.fromkeys(run, self.proofs))
        self._parent.update(zip(run, [parent, *run[:-1]], strict=True))

    def renew(self, blocks: Iterable[int]) -> None:
        """Those of the blocks that are nameless have just been proven again."""
        proven_at, now = self._proven_at, self.proofs
        for block in blocks:
            if block in proven_at:
                proven_at[block] = now

    def name(self, block: int) -> bool:
        """The block has a name now. Whether it was nameless."""
        return self._proven_at.pop(block, None) is not None

    def forget(self, block: int) -> bool:
        """The block is gone. Whether it was nameless."""
        self._parent.pop(block, None)
        return self._proven_at.pop(block, None) is not None

    def proven_before(self, block: int, at: int) -> bool:
        return self._proven_at.get(block, at) < at

    def parent(self, block: int) -> int | None:
        """The nameless parent of a block, if it has one."""
        parent = self._parent.get(block)
        return parent if parent in self._proven_at else None


def _size_bytes(sent: Sent) -> int:
    return len(sent.tokens) + 8 * len(sent.hashes) + 200
