"""vLLM's KV events as bytes: what the fields of an event mean, in each of its two encodings.

* vLLM >= 0.24: a map with `type`; fields at their default are left out;
* vLLM <= 0.23: an array `[type, field...]` in the order of the structs below, the tail cut at what the release knew.

`extra_keys` has per block null or an untagged list: LoRA name, [media id, offset]..., cache salt, prompt-embed digest.
So strings are told apart by place: one equal to `lora_name` in the first place is the adapter; on the first block of a
prompt the next string is the salt, which appears nowhere else. All other entries go into the block's extra bytes.

A medium is where the block lies. Beside the engine's own (`GPU`) connectors announce theirs: vLLM's offloading says
`CPU` or `STORAGE`, and `locality` REMOTE for a store that others share. Cache groups of other kinds than full attention
(sliding windows, Mamba states) are skipped, and so is every group but the first: the names of all groups are alike, and
a removal tells the group's number only. Mooncake's store says `cpu` in small letters and leaves out adapter and salt,
so its events could credit the wrong cache; they are skipped as an unknown medium.

Frames, encodings and their faults are in `batches`. Order, gaps and restarts belong to `events/sequence.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from router.engines import batches
from router.engines.batches import Encodings, cut, frames, replay_request
from router.events.kinds import Batch, Cleared, Event, Removed, Skip, Stored
from router.index.base import Tier
from router.prompt.blocks import pack_tokens

__all__ = ["decode", "frames", "replay_request"]

# What a connector calls its medium is its own choice; these are the names seen in vLLM's tree.
TIERS: dict[str | None, Tier] = {
    None: Tier.GPU,
    "GPU": Tier.GPU,
    "CPU": Tier.CPU,
    "STORAGE": Tier.DISK,
    "DISK": Tier.DISK,
    "REMOTE": Tier.REMOTE,
    "EXTERNAL": Tier.REMOTE,
}
REMOTE = "REMOTE"  # the other value of `locality` is LOCAL
# Cache groups to which the hit rule (R 4.1) applies. None: a release that does not say, with one group.
FULL_ATTENTION = frozenset({None, "full_attention", "mla_attention", "sink_full_attention"})


class _BlockStored(msgspec.Struct, tag="BlockStored", tag_field="type"):
    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    # Any: entries are strings, bytes and [id, offset] pairs, sorted out by `_keys`.
    extra_keys: list[list[Any] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    locality: str | None = None
    # Then `ownership` and `session_id`: who asked for the block, not what it is.


class _BlockRemoved(msgspec.Struct, tag="BlockRemoved", tag_field="type"):
    block_hashes: list[int | bytes]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None


class _AllBlocksCleared(msgspec.Struct, tag="AllBlocksCleared", tag_field="type"):
    pass


class _BlockStoredArray(_BlockStored, array_like=True, tag="BlockStored"):
    pass


class _BlockRemovedArray(_BlockRemoved, array_like=True, tag="BlockRemoved"):
    pass


class _AllBlocksClearedArray(_AllBlocksCleared, array_like=True, tag="AllBlocksCleared"):
    pass


_Event = _BlockStored | _BlockRemoved | _AllBlocksCleared


class _MapBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[_BlockStored | _BlockRemoved | _AllBlocksCleared]
    rank: int | None = None


class _ArrayBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[_BlockStoredArray | _BlockRemovedArray | _AllBlocksClearedArray]
    rank: int | None = None


_ENCODINGS: Encodings[_Event] = Encodings(
    batches=(msgspec.msgpack.Decoder(_MapBatch).decode, msgspec.msgpack.Decoder(_ArrayBatch).decode),
    events=(
        msgspec.msgpack.Decoder(_BlockStored | _BlockRemoved | _AllBlocksCleared).decode,
        msgspec.msgpack.Decoder(_BlockStoredArray | _BlockRemovedArray | _AllBlocksClearedArray).decode,
    ),
)


def decode(payload: bytes) -> Batch:
    """One payload to a batch. Raises WireFault when it is no batch at all."""
    return batches.decode(payload, _ENCODINGS, _translate)


def _translate(event: _Event, events: list[Event], skipped: list[Skip]) -> None:
    if isinstance(event, _BlockStored):
        _stored(event, events, skipped)
    elif isinstance(event, _BlockRemoved):
        _removed(event, events, skipped)
    else:
        events.append(Cleared())


def _tier(medium: str | None, locality: str | None) -> Tier | None:
    tier = TIERS.get(medium)
    return Tier.REMOTE if locality == REMOTE and tier is not None else tier


def _stored(event: _BlockStored, events: list[Event], skipped: list[Skip]) -> None:
    tier = _tier(event.medium, event.locality)
    size = event.block_size
    count = len(event.block_hashes)
    if tier is None:
        skipped.append(Skip.UNKNOWN_MEDIUM)
    elif event.group_idx or event.kv_cache_spec_kind not in FULL_ATTENTION:
        skipped.append(Skip.OTHER_GROUP)
    elif not event.token_ids and count and tier is not Tier.GPU:
        skipped.append(Skip.NO_TOKENS)
    elif size <= 0 or not count or len(event.token_ids) != size * count:
        skipped.append(Skip.MALFORMED)
    else:
        keys = event.extra_keys
        try:
            tokens = pack_tokens(event.token_ids)
            # Most events have no keys at all, or nulls only: one C-speed check.
            salt, extras = _keys(event, keys, count) if keys is not None and any(keys) else (None, ())
        except (OverflowError, ValueError):
            skipped.append(Skip.MALFORMED)
            return
        adapter = event.lora_name
        if adapter is None and event.lora_id is not None:
            adapter = f"#{event.lora_id}"  # a release that told only the number: its own namespace, never predicted
        names = tuple(event.block_hashes)
        cut(Stored(names, event.parent_block_hash, tokens, size, tier, adapter, salt, extras), events)


def _removed(event: _BlockRemoved, events: list[Event], skipped: list[Skip]) -> None:
    tier = _tier(event.medium, event.locality)
    if tier is None:
        skipped.append(Skip.UNKNOWN_MEDIUM)
    elif event.group_idx:
        skipped.append(Skip.OTHER_GROUP)
    else:
        events.append(Removed(tuple(event.block_hashes), tier))


def _keys(event: _BlockStored, keys: list[list[Any] | None], count: int) -> tuple[str | None, tuple[bytes, ...]]:
    """The chain's salt and each block's extra bytes. Raises ValueError when there is not one entry per block."""
    if len(keys) != count:
        raise ValueError("extra_keys and block_hashes differ in length")
    salt: str | None = None
    extras: list[bytes] = []
    for at, entry in enumerate(keys):
        rest: list[Any] = list(entry or ())
        if rest and event.lora_name is not None and rest[0] == event.lora_name:
            del rest[0]
        if at == 0 and event.parent_block_hash is None:
            salt = next((key for key in rest if isinstance(key, str)), None)
            if salt is not None:
                rest.remove(salt)
        extras.append(msgspec.msgpack.encode(rest) if rest else b"")
    return salt, tuple(extras) if any(extras) else ()
