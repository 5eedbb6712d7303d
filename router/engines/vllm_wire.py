"""vLLM's KV events as bytes: msgpack payloads to `Batch`, and the frames they travel in.

A batch is an array `[time, [event...], rank]`. Events come in two encodings, and one stream has only one of them:

* vLLM >= 0.24: a map with `type`; fields at their default are left out;
* vLLM <= 0.23: an array `[type, field...]` in the order of the structs below, the tail cut at what the release knew.

Each encoding has one typed decoder, tried in turn; a batch that neither accepts is read event by event, so that one
strange event (a new kind, a broken field) costs itself and not its neighbours.

`extra_keys` has per block null or an untagged list: LoRA name, [media id, offset]..., cache salt, prompt-embed digest.
So strings are told apart by place: one equal to `lora_name` in the first place is the adapter; on the first block of a
prompt the next string is the salt, which appears nowhere else. All other entries go into the block's extra bytes.

Everything here is about bytes. Order, gaps and restarts belong to `events/sequence.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from router.events.kinds import Batch, Cleared, Event, Removed, Skip, Stored, WireFault
from router.index.base import Tier
from router.prompt.blocks import TokenIds, pack_tokens

END_OF_REPLAY = b"\xff" * 8

# A run longer than this is cut into several, so that indexing one event stays well under a millisecond or two.
MAX_RUN_BLOCKS = 256

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


class _BlockRemoved(msgspec.Struct, tag="BlockRemoved", tag_field="type"):
    block_hashes: list[int | bytes]
    medium: str | None = None
    group_idx: int | None = None


class _AllBlocksCleared(msgspec.Struct, tag="AllBlocksCleared", tag_field="type"):
    pass


class _BlockStoredArray(_BlockStored, array_like=True, tag="BlockStored"):
    pass


class _BlockRemovedArray(_BlockRemoved, array_like=True, tag="BlockRemoved"):
    pass


class _AllBlocksClearedArray(_AllBlocksCleared, array_like=True, tag="AllBlocksCleared"):
    pass


class _MapBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[_BlockStored | _BlockRemoved | _AllBlocksCleared]
    data_parallel_rank: int | None = None


class _ArrayBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[_BlockStoredArray | _BlockRemovedArray | _AllBlocksClearedArray]
    data_parallel_rank: int | None = None


class _RawBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[msgspec.Raw]
    data_parallel_rank: int | None = None


_MAP_BATCH = msgspec.msgpack.Decoder(_MapBatch)
_ARRAY_BATCH = msgspec.msgpack.Decoder(_ArrayBatch)
_RAW_BATCH = msgspec.msgpack.Decoder(_RawBatch)
_MAP_EVENT = msgspec.msgpack.Decoder(_BlockStored | _BlockRemoved | _AllBlocksCleared)
_ARRAY_EVENT = msgspec.msgpack.Decoder(_BlockStoredArray | _BlockRemovedArray | _AllBlocksClearedArray)
_ANY = msgspec.msgpack.Decoder()
_KINDS = ("BlockStored", "BlockRemoved", "AllBlocksCleared")
# UnicodeDecodeError is a ValueError; deep nesting raises RecursionError.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def decode(payload: bytes) -> Batch:
    """One payload to a batch. Raises WireFault when it is no batch at all."""
    skipped: list[Skip] = []
    batch: _MapBatch | _ArrayBatch | _RawBatch
    try:
        batch = _MAP_BATCH.decode(payload)
    except _UNREADABLE:
        try:
            batch = _ARRAY_BATCH.decode(payload)
        except _UNREADABLE:
            try:
                batch = _RAW_BATCH.decode(payload)
            except _UNREADABLE as fault:
                raise WireFault(f"KV events: a payload of {len(payload)} bytes is no batch: {fault}") from fault
    if not math.isfinite(batch.ts):
        raise WireFault("KV events: a batch whose time is not a finite number")
    events: list[Event] = []
    for wire in batch.events:
        event = _one(wire, skipped) if isinstance(wire, msgspec.Raw) else wire
        if isinstance(event, _BlockStored):
            _stored(event, events, skipped)
        elif isinstance(event, _BlockRemoved):
            _removed(event, events, skipped)
        elif event is not None:
            events.append(Cleared())
    return Batch(batch.ts, tuple(events), batch.data_parallel_rank or 0, tuple(skipped))


def frames(message: Sequence[bytes]) -> tuple[int, bytes] | None:
    """Sequence and payload of one live or replayed message; None for the end of a replay.

    Live: `[topic, seq, payload]`. Replayed: `["", topic, seq, payload]`, or `["", seq, payload]` up to vLLM 0.25: hence
    read from the end. Raises WireFault.
    """
    if len(message) < 2 or len(message[-2]) != 8:
        raise WireFault(f"KV events: a message of frames {[len(frame) for frame in message]} bytes long")
    if message[-2] == END_OF_REPLAY:
        return None
    return int.from_bytes(message[-2], "big"), message[-1]


def replay_request(first: int) -> list[bytes]:
    """The frames a DEALER sends to hear every buffered batch from `first` on."""
    return [b"", first.to_bytes(8, "big")]


def _one(raw: msgspec.Raw, skipped: list[Skip]) -> _BlockStored | _BlockRemoved | _AllBlocksCleared | None:
    """One event by itself, in whichever encoding; None when it cannot be used."""
    for decoder in (_MAP_EVENT, _ARRAY_EVENT):
        try:
            event: _BlockStored | _BlockRemoved | _AllBlocksCleared = decoder.decode(raw)
        except _UNREADABLE:
            continue
        return event
    try:
        loose = _ANY.decode(raw)
    except _UNREADABLE:
        skipped.append(Skip.MALFORMED)
        return None
    kind = loose.get("type") if isinstance(loose, dict) else loose[0] if isinstance(loose, list) and loose else None
    skipped.append(Skip.UNKNOWN_KIND if isinstance(kind, str) and kind not in _KINDS else Skip.MALFORMED)
    return None


def _stored(event: _BlockStored, events: list[Event], skipped: list[Skip]) -> None:
    tier = TIERS.get(event.medium)
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
        parent = event.parent_block_hash
        if count <= MAX_RUN_BLOCKS:
            events.append(Stored(names, parent, tokens, size, tier, adapter, salt, extras))
            return
        for at in range(0, count, MAX_RUN_BLOCKS):
            end = at + MAX_RUN_BLOCKS
            run = TokenIds(tokens[4 * size * at : 4 * size * end])
            events.append(Stored(names[at:end], parent, run, size, tier, adapter, salt, extras[at:end]))
            parent, salt = names[min(end, count) - 1], None


def _removed(event: _BlockRemoved, events: list[Event], skipped: list[Skip]) -> None:
    tier = TIERS.get(event.medium)
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
