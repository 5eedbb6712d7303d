"""What one router knows of a replica's cache, in parts that another can go on from.

A *snapshot* is a head and a number of parts, each packed with msgpack. The head says where in the numbered story it was
taken (`sequence.Mark`) and how its hashes are rooted, which is a digest of the fleet's hash_seed and of the model
(R 6.5); the parts hold every block's name, our hash of it, what it hangs below, its tier and its copies. With these the
rest of the events mean to the newcomer what they mean to whoever told: tokens, adapters and salts are in the hashes.

Only a story told from the empty cache on is told further. Whoever reads checks everything before using any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from router.events.kinds import EngineHash
from router.events.sequence import REMEMBERED_BATCHES, Mark
from router.index.base import Tier

VERSION = 1
RUN_BLOCKS = 256  # of a run, and about as many of a part, which is packed or held in one go: some 0.2 ms
MOST_BLOCKS = 4_000_000  # of one replica; with 32-byte names some 200 MB
MOST_COPIES = 4096
HASH_BYTES = 8
_HASH = np.dtype("<u8")


class Malformed(Exception):
    """Not a snapshot of ours."""


class Run(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Blocks of one replica in one tier, each hanging below the one before, all held in as many copies."""

    tier: Tier
    copies: Annotated[int, Meta(ge=1, le=MOST_COPIES)]
    names: Annotated[tuple[EngineHash, ...], Meta(min_length=1, max_length=RUN_BLOCKS)]
    parent: Annotated[bytes, Meta(max_length=HASH_BYTES)]  # b"": the first begins a prompt
    blocks: Annotated[bytes, Meta(max_length=RUN_BLOCKS * HASH_BYTES)]

    @property
    def hashes(self) -> list[int]:
        return _numbers(self.blocks)

    @property
    def above(self) -> int | None:
        return _numbers(self.parent)[0] if self.parent else None


class Head(msgspec.Struct, frozen=True, array_like=True):
    version: int
    root: int
    block_size_tokens: Annotated[int, Meta(ge=1, le=2**20)] | None
    first: Annotated[int, Meta(ge=0, le=2**62)]
    fingerprints: Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=REMEMBERED_BATCHES * HASH_BYTES)]
    time_seconds: float
    process_start_seconds: float | None
    runs: Annotated[int, Meta(ge=0, le=MOST_BLOCKS)]


@dataclass(frozen=True, slots=True)
class Told:
    """What `Ingest` knows of one replica."""

    root: int  # the hash before the first block of a plain prompt
    block_size_tokens: int | None
    runs: Iterable[Run]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Read and checked."""

    mark: Mark
    told: Told
    blocks: int  # by name and tier


def runs(entries: Iterable[tuple[Tier, EngineHash, int, int]], parent: Callable[[int], int | None]) -> Iterator[Run]:
    """Entries (tier, name, our hash, copies), of which those that hang below each other come together if they can."""
    names: list[EngineHash] = []
    blocks: list[int] = []
    kind: tuple[Tier, int] | None = None
    begins: int | None = None
    for tier, name, block, copies in entries:
        above = parent(block)
        if not names or (tier, copies) != kind or above != blocks[-1] or len(names) == RUN_BLOCKS:
            if names and kind is not None:
                yield _run(kind, names, begins, blocks)
            names, blocks, kind, begins = [], [], (tier, copies), above
        names.append(name)
        blocks.append(block)
    if names and kind is not None:
        yield _run(kind, names, begins, blocks)


def packed_head(mark: Mark, told: Told, count: int) -> bytes:
    fingerprints = np.array(mark.fingerprints[-REMEMBERED_BATCHES:], _HASH)
    first = mark.first + len(mark.fingerprints) - len(fingerprints)
    return _ENCODER.encode(
        Head(
            VERSION,
            told.root,
            told.block_size_tokens,
            first,
            fingerprints.tobytes(),
            mark.time_seconds,
            mark.process_start_seconds,
            count,
        )
    )


def parts(told: Iterable[Run]) -> Iterator[list[Run]]:
    """Runs in lots of RUN_BLOCKS blocks or a little more."""
    lot: list[Run] = []
    blocks = 0
    for run in told:
        lot.append(run)
        blocks += len(run.names)
        if blocks >= RUN_BLOCKS:
            yield lot
            lot, blocks = [], 0
    if lot:
        yield lot


def packed(part: Sequence[Run]) -> bytes:
    return _ENCODER.encode(part)


def unpacked_head(head: bytes) -> Head:
    """Raises Malformed."""
    try:
        told = _HEADS.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise Malformed(str(fault)) from fault
    if told.version != VERSION:
        raise Malformed(f"a snapshot of version {told.version}; this router reads {VERSION}")
    if len(told.fingerprints) % HASH_BYTES:
        raise Malformed("fingerprints cut off")
    return told


def unpacked(part: bytes) -> tuple[Run, ...]:
    """Raises Malformed."""
    try:
        told: tuple[Run, ...] = _PARTS.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise Malformed(str(fault)) from fault
    for run in told:
        if len(run.blocks) != HASH_BYTES * len(run.names) or len(run.parent) not in (0, HASH_BYTES):
            raise Malformed(f"{len(run.names)} names and {len(run.blocks)} bytes of hashes")
        if len(set(run.names)) != len(run.names):
            raise Malformed("a name comes twice")
    return told


def snapshot(head: Head, told: Sequence[Run]) -> Snapshot:
    """Raises Malformed where runs are missing."""
    if len(told) != head.runs:
        raise Malformed(f"{len(told)} runs of {head.runs}")
    fingerprints = tuple(_numbers(head.fingerprints))
    mark = Mark(head.first, fingerprints, head.time_seconds, head.process_start_seconds)
    return Snapshot(mark, Told(head.root, head.block_size_tokens, told), sum(len(run.names) for run in told))


def _run(kind: tuple[Tier, int], names: list[EngineHash], begins: int | None, blocks: list[int]) -> Run:
    parent = b"" if begins is None else np.array([begins], _HASH).tobytes()
    return Run(*kind, tuple(names), parent, np.array(blocks, _HASH).tobytes())


def _numbers(packed_hashes: bytes) -> list[int]:
    numbers: list[int] = np.frombuffer(packed_hashes, _HASH).tolist()
    return numbers


_ENCODER = msgspec.msgpack.Encoder()
_HEADS = msgspec.msgpack.Decoder(Head)
_PARTS = msgspec.msgpack.Decoder(Annotated[tuple[Run, ...], Meta(max_length=RUN_BLOCKS)])
