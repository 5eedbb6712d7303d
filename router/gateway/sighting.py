"""What a request looked like, without what it said: one line of a recording (R 6.5).

The line is Mooncake's, so that what replays those traces replays this one: arrival in milliseconds, tokens in and out,
an id for each block of the prompt. Beside them stand the block size, the session, and what became of the request: how
long it took, by which a replay knows how long its client thought before the next; its cached tokens, the time to its
first one and how much of that it waited for others, by which a replay can be held against what really happened.

Prompts that begin alike have the same first ids; that is all the ids tell. Each is a keyed hash of the block's chained
hash, under a secret that is drawn for the recording and kept nowhere: two recordings cannot be joined, nor can a
guessed prompt be looked up in one.

A block here has at least LEAST_BLOCK_TOKENS tokens: engines may have blocks of a single one. A chained hash names all
that stands before it too, so every n-th hash of the engine's blocks is the hash of n of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from router.prompt.blocks import BlockHashes

LEAST_BLOCK_TOKENS = 64
STEP_SECONDS = 0.01  # times are rounded to it
ID_BYTES = 8
REMEMBERED_IDS = 100_000  # 12 MB; a turn's ids are mostly those of the turn before, and a keyed hash takes 1 to 3 us


class Sighting(msgspec.Struct, frozen=True, gc=False):
    """One finished request, as far as a recording tells of it."""

    at_seconds: float  # its arrival, from the beginning of the recording
    prompt_tokens: int  # of all prompts of the body
    answer_tokens: int
    took_seconds: float  # until it was over
    hashes: BlockHashes | None  # of its longest prompt's full blocks; None: not known
    block_size_tokens: int  # of those
    session: str | None
    cached_tokens: int | None = None  # as reported
    ttft_seconds: float | None = None  # of a stream
    queued_seconds: float = 0.0  # of these, held at the gateway and, as predicted, behind others' prefills


def finest(hashes: Mapping[int, BlockHashes]) -> tuple[BlockHashes | None, int]:
    """The hashes of the smallest block size, which is the same for all requests of a model, and that size."""
    size = min((size for size, known in hashes.items() if known), default=0)
    return hashes.get(size), size


class Keys:
    """Writes sightings under one secret of at least 16 bytes."""

    def __init__(self, secret: bytes) -> None:
        self._block = blake2b(key=secret, digest_size=ID_BYTES, person=b"block")
        self._session = blake2b(key=secret, digest_size=ID_BYTES, person=b"session")
        self._known: dict[int, int] = {}

    def line(self, seen: Sighting) -> bytes:
        """One line of JSON, without its end."""
        every = -(-LEAST_BLOCK_TOKENS // seen.block_size_tokens) if seen.block_size_tokens else 1
        told: dict[str, object] = {
            "timestamp": _rounded_ms(seen.at_seconds),
            "input_length": seen.prompt_tokens,
            "output_length": seen.answer_tokens,
            "duration": _rounded_ms(seen.took_seconds),
            "hash_ids": self._ids(seen.hashes[every - 1 :: every]) if seen.hashes else [],
            "block_size": every * seen.block_size_tokens or LEAST_BLOCK_TOKENS,
        }
        if seen.session is not None:
            keyed = self._session.copy()
            keyed.update(seen.session.encode("utf-8", "surrogatepass"))
            told["session_id"] = keyed.hexdigest()
        if seen.cached_tokens is not None:
            told["cached_length"] = seen.cached_tokens
        if seen.ttft_seconds is not None:
            told["first_token"] = _rounded_ms(seen.ttft_seconds)
            told["queued"] = _rounded_ms(seen.queued_seconds)
        return msgspec.json.encode(told)

    def _ids(self, blocks: BlockHashes) -> list[int]:
        known = self._known
        if len(known) > REMEMBERED_IDS:
            known.clear()
        ids = []
        for block in blocks:
            one = known.get(block)
            if one is None:
                keyed = self._block.copy()
                keyed.update(block.to_bytes(8, "little"))
                one = known[block] = int.from_bytes(keyed.digest(), "little")
            ids.append(one)
        return ids


def _rounded_ms(seconds: float) -> int:
    return round(seconds / STEP_SECONDS) * round(1000 * STEP_SECONDS)
