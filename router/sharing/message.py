"""What one router tells the others: a numbered message of a few rows, packed with msgpack.

A row is absolute, not a difference: so much have I open there *now*. So a row that comes twice, or a message that is
lost, corrupts nothing: what a lost message told stays unknown until the next *whole* one, which leaves no row out.
Between two whole ones only rows that changed are told.

Leases are told apart from rows (`lending`): which blocks a request uses is told once, when it is sent, and how much of
that nobody had before as often as it changes. A whole message names all that stand, so that the end of one that went
unheard is heard then.

Replicas are named by their ids, never by seats, which are each router's own.
"""

from __future__ import annotations

from array import array
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

MOST_MESSAGE_BYTES = 1 << 20  # of a thousand replicas: 40 KB
MOST_ROWS = 8192
MOST_MODELS = 256
MOST_LEASES = 2048  # of one router that the others know at one time
MOST_GRAINS = 4096  # of one lease: some million tokens
HASH_BYTES = 8

Name = Annotated[str, Meta(min_length=1, max_length=512)]
# Whole numbers that a float column holds exactly, even when all routers' are added up.
Count = Annotated[int, Meta(ge=0, le=2**40)]

Lease = Annotated[int, Meta(ge=0, le=2**62)]
Grain = Annotated[int, Meta(ge=0, le=MOST_GRAINS)]
_HASH = np.dtype("<u8")


class Malformed(Exception):
    """Not a message of ours."""


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One router's open requests on one replica, as its ledger charges them."""

    replica: Name
    requests: Count
    queued_tokens: Count
    context_tokens: Count


class Rate(msgspec.Struct, frozen=True, array_like=True):
    """How fast one router saw a model read prompts, in its own observations alone: no prior, nothing it was told."""

    model: Name
    tokens_per_second: Annotated[float, Meta(ge=1.0, le=1e9)]
    observations: Annotated[int, Meta(ge=1, le=10**6)]


class Lent(msgspec.Struct, frozen=True, array_like=True):
    """One open request's prompt by grains (`index/open_blocks`), and from which grain on it will put them into the
    replica's cache; what is before is there."""

    lease: Lease
    replica: Name
    grain_blocks: Annotated[int, Meta(ge=1, le=2**20)]
    grain_tokens: Annotated[int, Meta(ge=1, le=2**20)]
    rest_tokens: Annotated[int, Meta(ge=0, le=2**20)]  # of full blocks after the last grain
    first: Grain
    ends: Annotated[bytes, Meta(max_length=MOST_GRAINS * HASH_BYTES)]

    @property
    def hashes(self) -> list[int]:
        """The hash of each grain's last block, in order."""
        hashes: list[int] = np.frombuffer(self.ends[: len(self.ends) // HASH_BYTES * HASH_BYTES], _HASH).tolist()
        return hashes


def pack_hashes(hashes: array[int]) -> bytes:
    """Little-endian, eight bytes each; the first MOST_GRAINS."""
    return np.asarray(hashes[:MOST_GRAINS], _HASH).tobytes()


class Told(msgspec.Struct, frozen=True, array_like=True):
    """One message. `boot` tells two processes of one name apart; `number` grows by one with each message of a boot."""

    router: Name
    boot: Name
    number: Annotated[int, Meta(ge=0)]
    whole: bool
    rows: Annotated[tuple[Row, ...], Meta(max_length=MOST_ROWS)] = ()
    rates: Annotated[tuple[Rate, ...], Meta(max_length=MOST_MODELS)] = ()
    leaving: bool = False  # its last word
    lent: Annotated[tuple[Lent, ...], Meta(max_length=MOST_LEASES)] = ()  # new ones
    firsts: Annotated[tuple[tuple[Lease, Grain], ...], Meta(max_length=MOST_LEASES)] = ()  # changed; if whole, of all
    closed: Annotated[tuple[Lease, ...], Meta(max_length=MOST_LEASES)] = ()


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Told)


def pack(told: Told) -> bytes:
    return _ENCODER.encode(told)


def unpack(message: bytes) -> Told:
    """Raises Malformed."""
    if len(message) > MOST_MESSAGE_BYTES:
        raise Malformed(f"{len(message)} bytes are more than {MOST_MESSAGE_BYTES}")
    try:
        return _DECODER.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise Malformed(str(fault)) from fault
