"""KV events as vLLM puts them on the wire: msgpack, byte for byte.

A batch is the array `[unix seconds, [event, ...], data parallel rank]`. From 0.24.0 on an event is a map that begins
with its `type` and leaves out fields at their default; up to 0.23.0 it is an array `[type, field, ...]` whose tail of
defaults is cut. Field order is the engine's. `tests/sim/test_wire.py` holds the encoder to recorded frames.

This is the simulator's own encoder: the router has another one, so that a common misreading cannot hide.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TypeAlias

import msgspec

BlockName: TypeAlias = int | bytes  # unsigned 64 bits, or the 32 bytes of the whole digest
ExtraKeys: TypeAlias = list[list[str] | None] | None


class Encoding(Enum):
    """How an event is laid out: by vLLM version."""

    MAPS = "maps"  # 0.24.0 and later
    ARRAYS = "arrays"  # up to 0.23.0


class BlockStored(msgspec.Struct, tag=True, omit_defaults=True, frozen=True):
    """Consecutive blocks of one prompt entered the cache. Each is the parent of the next."""

    block_hashes: list[BlockName]
    parent_block_hash: BlockName | None  # None: the first block begins a prompt
    token_ids: Sequence[int]  # exactly block_size for each hash
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: ExtraKeys = None  # one entry a block
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class BlockRemoved(msgspec.Struct, tag=True, omit_defaults=True, frozen=True):
    """One copy of each named block left the cache."""

    block_hashes: list[BlockName]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag=True, frozen=True):
    """The whole cache is empty."""


Event: TypeAlias = BlockStored | BlockRemoved | AllBlocksCleared


class _OldStored(msgspec.Struct, tag="BlockStored", array_like=True, omit_defaults=True, frozen=True):
    block_hashes: list[BlockName]
    parent_block_hash: BlockName | None
    token_ids: Sequence[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: ExtraKeys = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None


class _OldRemoved(msgspec.Struct, tag="BlockRemoved", array_like=True, omit_defaults=True, frozen=True):
    block_hashes: list[BlockName]
    medium: str | None
    group_idx: int | None = None


class _OldCleared(msgspec.Struct, tag="AllBlocksCleared", array_like=True, frozen=True):
    pass


_ENCODER = msgspec.msgpack.Encoder(enc_hook=list)  # token ids come as an array


def encode_batch(
    time_seconds: float, events: Sequence[Event], *, rank: int = 0, encoding: Encoding = Encoding.MAPS
) -> bytes:
    """The payload of one published batch. `time_seconds` is Unix time."""
    shown = events if encoding is Encoding.MAPS else [_old(event) for event in events]
    return _ENCODER.encode((time_seconds, shown, rank))


def without_salt(event: Event) -> Event:
    """The event as a publisher would send it that knows nothing of cache salts."""
    if not isinstance(event, BlockStored) or not event.extra_keys:
        return event
    kept = [[key for key in keys or () if key == event.lora_name] or None for keys in event.extra_keys]
    return msgspec.structs.replace(event, extra_keys=kept)


def _old(event: Event) -> _OldStored | _OldRemoved | _OldCleared:
    if isinstance(event, BlockStored):
        return _OldStored(*(getattr(event, name) for name in BlockStored.__struct_fields__))
    if isinstance(event, BlockRemoved):
        return _OldRemoved(event.block_hashes, event.medium, event.group_idx)
    return _OldCleared()
