"""SGLang's KV events as bytes: what the fields of an event mean, in each of its two encodings.

* SGLang 0.5.20 and later: a map with `type`; fields at their default are left out;
* SGLang 0.5.10 and earlier: an array `[type, field...]` in the order of the structs below, the tail cut at what the
  release knew. (The releases between were not looked at; both forms are read from any.)

Three things differ from vLLM:

* The salt is told with every event of its chain, and counts here with the first, as everywhere in the house: what
  hangs below a salted block is found by that block's name, for names of salted blocks are salted too.
* **`extra_key` is not told at all, and the names are those of the plain prompt.** So such a prompt's blocks are
  credited to the plain one: nothing here can part them. One name then stands for two copies, stored twice and removed
  twice, which is counted as any copies are. Requests that carry an `extra_key` are never predicted (`prompt/read`).
* Token ids can be wide or twofold. An image stands in the prompt as 63-bit numbers made from its content, which no
  uint32 holds: those blocks keep the low half as their tokens and the whole in their extra bytes. Under EAGLE a block
  lists pairs, each token with the one after it: the block's tokens are the first of each.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from router.engines import batches
from router.engines.batches import Encodings, cut, frames, replay_request
from router.events.kinds import Batch, Cleared, Event, Removed, Skip, Stored
from router.index.base import Tier
from router.prompt.blocks import pack_tokens

__all__ = ["decode", "frames", "replay_request"]

TIERS: dict[str | None, Tier] = {
    None: Tier.GPU,  # releases with one tier
    "GPU": Tier.GPU,
    "CPU_PINNED": Tier.CPU,
    "DISK": Tier.DISK,
    "EXTERNAL": Tier.REMOTE,
}
_NARROW = 2**32
_WIDE = 2**63


class _BlockStored(msgspec.Struct, tag="BlockStored", tag_field="type"):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None  # never set
    medium: str | None = None
    cache_salt: str | None = None
    session_id: str | None = None
    lora_name: str | None = None


class _BlockRemoved(msgspec.Struct, tag="BlockRemoved", tag_field="type"):
    block_hashes: list[int]
    medium: str | None = None


class _AllBlocksCleared(msgspec.Struct, tag="AllBlocksCleared", tag_field="type"):
    pass


class _PairsStored(msgspec.Struct, tag="BlockStored", tag_field="type"):
    """The same under EAGLE."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[tuple[int, int]]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    cache_salt: str | None = None
    session_id: str | None = None
    lora_name: str | None = None


class _BlockStoredArray(_BlockStored, array_like=True, tag="BlockStored"):
    pass


class _BlockRemovedArray(_BlockRemoved, array_like=True, tag="BlockRemoved"):
    pass


class _AllBlocksClearedArray(_AllBlocksCleared, array_like=True, tag="AllBlocksCleared"):
    pass


class _PairsStoredArray(_PairsStored, array_like=True, tag="BlockStored"):
    pass


_Event = _BlockStored | _PairsStored | _BlockRemoved | _AllBlocksCleared


class _MapBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[_BlockStored | _BlockRemoved | _AllBlocksCleared]
    rank: int | None = None


class _MapPairsBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[_PairsStored | _BlockRemoved | _AllBlocksCleared]
    rank: int | None = None


class _ArrayBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[_BlockStoredArray | _BlockRemovedArray | _AllBlocksClearedArray]
    rank: int | None = None


_ENCODINGS: Encodings[_Event] = Encodings(
    batches=(
        msgspec.msgpack.Decoder(_MapBatch).decode,
        msgspec.msgpack.Decoder(_MapPairsBatch).decode,
        msgspec.msgpack.Decoder(_ArrayBatch).decode,
    ),
    events=(
        msgspec.msgpack.Decoder(_BlockStored | _BlockRemoved | _AllBlocksCleared).decode,
        msgspec.msgpack.Decoder(_PairsStored).decode,
        msgspec.msgpack.Decoder(_BlockStoredArray | _BlockRemovedArray | _AllBlocksClearedArray).decode,
        msgspec.msgpack.Decoder(_PairsStoredArray).decode,
    ),
)


def decode(payload: bytes) -> Batch:
    """One payload to a batch. Raises WireFault when it is no batch at all."""
    return batches.decode(payload, _ENCODINGS, _translate)


def _translate(event: _Event, events: list[Event], skipped: list[Skip]) -> None:
    if isinstance(event, _BlockStored):
        _stored(event, event.token_ids, events, skipped)
    elif isinstance(event, _PairsStored):
        _stored(event, [first for first, _ in event.token_ids], events, skipped)
    elif isinstance(event, _BlockRemoved):
        tier = TIERS.get(event.medium)
        if tier is None:
            skipped.append(Skip.UNKNOWN_MEDIUM)
        else:
            events.append(Removed(tuple(event.block_hashes), tier))
    else:
        events.append(Cleared())


def _stored(event: _BlockStored | _PairsStored, ids: list[int], events: list[Event], skipped: list[Skip]) -> None:
    tier = TIERS.get(event.medium)
    size = event.block_size
    count = len(event.block_hashes)
    if tier is None:
        skipped.append(Skip.UNKNOWN_MEDIUM)
        return
    if size <= 0 or not count or len(ids) != size * count:
        skipped.append(Skip.MALFORMED)
        return
    extras: tuple[bytes, ...] = ()
    try:
        tokens = pack_tokens(ids)
    except OverflowError:
        if not all(0 <= token < _WIDE for token in ids):
            skipped.append(Skip.MALFORMED)
            return
        tokens = pack_tokens([token % _NARROW for token in ids])
        extras = tuple(_wide(ids[at : at + size]) for at in range(0, len(ids), size))
    parent = event.parent_block_hash
    salt = None if parent is not None else event.cache_salt or None
    names = tuple(event.block_hashes)
    cut(Stored(names, parent, tokens, size, tier, event.lora_name, salt, extras), events)


def _wide(ids: Sequence[int]) -> bytes:
    """The extra bytes of a block: empty unless one of its ids is wide."""
    return struct.pack(f"<{len(ids)}q", *ids) if max(ids) >= _NARROW else b""
