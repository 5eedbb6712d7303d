"""The paged prefix cache of one simulated engine, as vLLM keeps it. Pure.

* A block is named by a digest over its parent's digest, its tokens and its extra keys, so a name stands for a whole
  prefix. The root is drawn per process: no two engines agree on names.
* A full block is hittable from the moment it is allocated, while the step that computes it still runs. The news of it
  leaves at the end of that step.
* Equal blocks are not merged. A prompt of exactly k blocks hits at most k-1, so its last block is computed again into a
  second copy, announced again under the same name, and each copy is removed by its own event.
* A block whose last user left stays hittable in the free queue until it is taken from its front. A chain gives its
  blocks back in reverse, so that the tail of a prompt goes before its head. Blocks without a name hold nothing worth
  keeping and are put in front.
* Hits announce nothing. A removal is announced before the store that needed the room.
* A reset is announced with the next batch, not at once.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from struct import iter_unpack

from router.sim.wire import AllBlocksCleared, BlockName, BlockRemoved, BlockStored, Event

MEDIUM = "GPU"
TOKEN_BYTES = 4  # a token id is an unsigned 32 bit integer, little-endian


@dataclass(frozen=True, slots=True)
class Namespace:
    """What makes two equal token runs different caches."""

    adapter: str | None = None  # LoRA name: an extra key of every block
    adapter_id: int | None = None
    salt: str | None = None  # an extra key of the first block only; the chain carries it on

    @property
    def is_plain(self) -> bool:
        """Whether no block has extra keys."""
        return self.adapter is None and self.salt is None

    def extra_keys(self, depth: int) -> list[str] | None:
        """The extra keys of the block at this depth, in the engine's order; None where there are none."""
        keys = [] if self.adapter is None else [self.adapter]
        if self.salt is not None and depth == 0:
            keys.append(self.salt)
        return keys or None


@dataclass(slots=True)
class Chain:
    """The blocks of one request. Changed by the `BlockPool` and the engine alone."""

    tokens: bytearray  # prompt and answer so far, TOKEN_BYTES each
    namespace: Namespace = field(default_factory=Namespace)
    digests: list[bytes] = field(default_factory=list)  # names of the full blocks of `tokens`, as far as computed
    blocks: list[int] = field(default_factory=list)  # numbers in the pool, in order
    named: int = 0  # how many of `blocks` are in the cache under their name

    @property
    def token_count(self) -> int:
        return len(self.tokens) // TOKEN_BYTES


class BlockPool:
    """`block_count` blocks, the null block among them, which is never given out.

    `root` is the digest every chain begins with.
    """

    def __init__(self, block_count: int, block_size_tokens: int, root: bytes, *, names_as_bytes: bool = False) -> None:
        if block_count < 2:
            raise ValueError(f"a pool of {block_count} blocks has none to give: one is the null block")
        self.block_size_tokens = block_size_tokens
        self.usable_blocks = block_count - 1
        self._root = root
        self._names_as_bytes = names_as_bytes
        self._users = [0] * block_count
        self._digest: list[bytes | None] = [None] * block_count
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, block_count))
        self._holders: dict[bytes, dict[int, None]] = {}  # digest -> copies, oldest first
        self._events: list[Event] = []

    @property
    def used_blocks(self) -> int:
        """Blocks some request holds. Free blocks that can still be hit do not count."""
        return self.usable_blocks - len(self._free)

    @property
    def cached_copies(self) -> int:
        """Named blocks in the pool, copies included."""
        return sum(len(copies) for copies in self._holders.values())

    @property
    def has_news(self) -> bool:
        """Whether `take_events` would give any."""
        return bool(self._events)

    def hit(self, chain: Chain, *, report_all: bool = False) -> list[int]:
        """The cached blocks this chain could begin with, leaving at least one token to compute.

        `report_all` announces them again, as the engine does for `kv_cache_report_mode: full`.
        """
        depth_limit = max(0, (chain.token_count - 1) // self.block_size_tokens)
        self._name(chain, depth_limit)
        found: list[int] = []
        holders = self._holders.get
        for digest in chain.digests[:depth_limit]:
            copies = holders(digest)
            if copies is None:
                break
            found.append(next(iter(copies)))
        if report_all and found:
            self._events.append(self._stored(chain, 0, len(found)))
        return found

    def allocate(self, chain: Chain, token_count: int, hits: list[int] | None = None) -> bool:
        """Make room for the first `token_count` tokens of the chain; False, and nothing changed, if there is none.

        `hits` are what `hit` found, for a chain that has no blocks yet. Blocks that become full enter the cache.
        """
        hits = hits or []
        wanted = -(-token_count // self.block_size_tokens) - len(chain.blocks) - len(hits)
        users = self._users
        sleeping = [block for block in hits if not users[block]]
        if max(wanted, 0) > len(self._free) - len(sleeping):
            return False
        for block in sleeping:
            del self._free[block]
        for block in hits:
            users[block] += 1
        chain.blocks.extend(hits)
        chain.named += len(hits)
        for _ in range(wanted):
            chain.blocks.append(self._take())
        self._announce(chain, min(token_count, chain.token_count) // self.block_size_tokens)
        return True

    def free(self, chain: Chain) -> None:
        """Give all blocks of the chain back. What is named stays hittable."""
        unnamed: list[int] = []
        for block in reversed(chain.blocks):
            self._users[block] -= 1
            if not self._users[block]:
                if self._digest[block] is None:
                    unnamed.append(block)
                else:
                    self._free[block] = None
        for block in reversed(unnamed):
            self._free[block] = None
            self._free.move_to_end(block, last=False)
        chain.blocks.clear()
        chain.named = 0

    def reset(self) -> bool:
        """Forget all names; False while any block is in use."""
        if self.used_blocks:
            return False
        self._holders.clear()
        self._digest = [None] * len(self._digest)
        self._events.append(AllBlocksCleared())
        return True

    def take_events(self) -> list[Event]:
        """The news since the last call, in order."""
        events, self._events = self._events, []
        return events

    def _take(self) -> int:
        block, _ = self._free.popitem(last=False)
        digest = self._digest[block]
        if digest is not None:
            copies = self._holders[digest]
            del copies[block]
            if not copies:
                del self._holders[digest]
            self._digest[block] = None
            self._events.append(BlockRemoved([self._block_name(digest)], MEDIUM, 0))
        self._users[block] = 1
        return block

    def _announce(self, chain: Chain, full: int) -> None:
        if full <= chain.named:
            return
        self._name(chain, full)
        for depth in range(chain.named, full):
            digest, block = chain.digests[depth], chain.blocks[depth]
            self._digest[block] = digest
            self._holders.setdefault(digest, {})[block] = None
        self._events.append(self._stored(chain, chain.named, full))
        chain.named = full

    def _stored(self, chain: Chain, first: int, end: int) -> BlockStored:
        size = self.block_size_tokens
        tokens = array("I")
        tokens.frombytes(chain.tokens[first * size * TOKEN_BYTES : end * size * TOKEN_BYTES])
        return BlockStored(
            block_hashes=[self._block_name(digest) for digest in chain.digests[first:end]],
            parent_block_hash=self._block_name(chain.digests[first - 1]) if first else None,
            token_ids=tokens,
            block_size=size,
            lora_id=chain.namespace.adapter_id,
            medium=MEDIUM,
            lora_name=chain.namespace.adapter,
            extra_keys=self._extra_keys(chain.namespace, first, end),
            group_idx=0,
            kv_cache_spec_kind="full_attention",
        )

    @staticmethod
    def _extra_keys(namespace: Namespace, first: int, end: int) -> list[list[str] | None]:
        if namespace.is_plain:
            return [None] * (end - first)
        return [namespace.extra_keys(depth) for depth in range(first, end)]

    def _name(self, chain: Chain, full: int) -> None:
        """Extend the chain's digests to its first `full` blocks."""
        digests, width = chain.digests, self.block_size_tokens * TOKEN_BYTES
        named = len(digests)
        if named >= full:
            return
        digest = digests[-1] if named else self._root
        fresh = bytes(chain.tokens[named * width : full * width])
        if chain.namespace.is_plain:
            for (block,) in iter_unpack(f"{width}s", fresh):
                digest = sha256(digest + block).digest()
                digests.append(digest)
            return
        for start in range(0, len(fresh), width):
            extra = repr(chain.namespace.extra_keys(len(digests))).encode()
            digest = sha256(digest + fresh[start : start + width] + extra).digest()
            digests.append(digest)

    def _block_name(self, digest: bytes) -> BlockName:
        return digest if self._names_as_bytes else int.from_bytes(digest[-8:], "big")
