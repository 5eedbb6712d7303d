"""What vLLM's and SGLang's KV events have in common on the wire: SGLang took over vLLM's publisher.

Frames and replay are the same, and so is the batch: an array `[time, [event...], rank]`. Events come as maps with a
`type` or, from older releases, as arrays `[type, field...]`; one stream has only one of the two. What the fields mean
is each engine's own file.

Each encoding has one typed decoder, tried in turn; a batch that none accepts is read event by event, so that one
strange event (a new kind, a broken field) costs itself and not its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from router.events.kinds import Batch, Event, Skip, Stored, WireFault
from router.prompt.blocks import TOKEN_BYTES, TokenIds

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)

END_OF_REPLAY = b"\xff" * 8

# A run longer than this is cut into several, so that indexing one event stays well under a millisecond or two.
MAX_RUN_BLOCKS = 256

KINDS = ("BlockStored", "BlockRemoved", "AllBlocksCleared")
# UnicodeDecodeError is a ValueError; deep nesting raises RecursionError.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


class WireBatch(Protocol[E_co]):
    """One encoding's batch, its events decoded."""

    @property
    def ts(self) -> float: ...

    @property
    def events(self) -> Sequence[E_co]: ...

    @property
    def rank(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Encodings(Generic[E]):
    """An engine's typed decoders, the likeliest first."""

    batches: tuple[Callable[[bytes], WireBatch[E]], ...]
    events: tuple[Callable[[msgspec.Raw], E], ...]


class _RawBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[msgspec.Raw]
    rank: int | None = None


_RAW_BATCH = msgspec.msgpack.Decoder(_RawBatch)
_ANY = msgspec.msgpack.Decoder()


def decode(payload: bytes, encodings: Encodings[E], translate: Callable[[E, list[Event], list[Skip]], None]) -> Batch:
    """One payload to a batch: `translate` adds what one event comes to, or why it is skipped.

    Raises WireFault when the payload is no batch at all.
    """
    skipped: list[Skip] = []
    events: list[Event] = []
    for batch_decoder in encodings.batches:
        try:
            batch = batch_decoder(payload)
            break
        except _UNREADABLE:
            continue
    else:
        return _piecemeal(payload, encodings, translate)
    for event in batch.events:
        translate(event, events, skipped)
    return _batch(batch.ts, events, batch.rank, skipped)


def cut(run: Stored, events: list[Event]) -> None:
    """Add a run, in pieces that hang on each other where it is long."""
    count = len(run.names)
    if count <= MAX_RUN_BLOCKS:
        events.append(run)
        return
    width = TOKEN_BYTES * run.block_size_tokens
    parent, salt = run.parent, run.salt
    for at in range(0, count, MAX_RUN_BLOCKS):
        end = at + MAX_RUN_BLOCKS
        tokens = TokenIds(run.tokens[width * at : width * end])
        names = run.names[at:end]
        events.append(
            Stored(names, parent, tokens, run.block_size_tokens, run.tier, run.adapter, salt, run.extras[at:end])
        )
        parent, salt = names[-1], None


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


def _piecemeal(
    payload: bytes, encodings: Encodings[E], translate: Callable[[E, list[Event], list[Skip]], None]
) -> Batch:
    try:
        batch = _RAW_BATCH.decode(payload)
    except _UNREADABLE as fault:
        raise WireFault(f"KV events: a payload of {len(payload)} bytes is no batch: {fault}") from fault
    skipped: list[Skip] = []
    events: list[Event] = []
    for raw in batch.events:
        for decoder in encodings.events:
            try:
                event = decoder(raw)
                break
            except _UNREADABLE:
                continue
        else:
            skipped.append(_why_unread(raw))
            continue
        translate(event, events, skipped)
    return _batch(batch.ts, events, batch.rank, skipped)


def _why_unread(raw: msgspec.Raw) -> Skip:
    try:
        loose: Any = _ANY.decode(raw)
    except _UNREADABLE:
        return Skip.MALFORMED
    kind = loose.get("type") if isinstance(loose, dict) else loose[0] if isinstance(loose, list) and loose else None
    return Skip.UNKNOWN_KIND if isinstance(kind, str) and kind not in KINDS else Skip.MALFORMED


def _batch(time_seconds: float, events: list[Event], rank: int | None, skipped: list[Skip]) -> Batch:
    if not math.isfinite(time_seconds):
        raise WireFault("KV events: a batch whose time is not a finite number")
    return Batch(time_seconds, tuple(events), rank or 0, tuple(skipped))
