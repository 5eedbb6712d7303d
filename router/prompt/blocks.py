"""Token ids to chained block hashes.

A block is a full run of `block_size_tokens` tokens. Its hash is xxh3-64 over the little-endian uint32 token ids, seeded
with the hash of the block before it; the first is seeded with the root. So one 64-bit number names a whole prefix, and
the root holds what makes two equal token runs different caches: model, adapter, cache salt, multimodal content.

Engine hashes play no part here: both sides of a lookup, the prompt's and the event's, come through this file.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from functools import lru_cache
from struct import Struct
from typing import NewType, TypeAlias

from xxhash import xxh3_64_intdigest, xxh3_128_intdigest

from router.prompt.lru import Lru

# Token ids as little-endian uint32, four bytes each: one buffer, no list.
TokenIds = NewType("TokenIds", bytes)

# Typecode "Q", one 64-bit chained hash per full block, in order.
BlockHashes: TypeAlias = "array[int]"

TOKEN_BYTES = 4

# Blocks hashed as one cache entry. A seen prompt costs one lookup per chunk, a new turn at most one chunk of rehashing.
CHUNK_BLOCKS = 64

_SEED_MASK = 2**64 - 1


def pack_tokens(ids: Iterable[int]) -> TokenIds:
    """Token ids in the one form the house uses. Raises OverflowError or TypeError for what is not a uint32."""
    packed = array("I", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return TokenIds(packed.tobytes())


def unpack_tokens(tokens: TokenIds) -> array[int]:
    """The ids as an array of unsigned integers."""
    ids = array("I")
    ids.frombytes(tokens)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids


def count_tokens(tokens: TokenIds) -> int:
    return len(tokens) // TOKEN_BYTES


def root_hash(
    hash_seed: int, model: str, adapter: str | None = None, salt: str | None = None, media: bytes = b""
) -> int:
    """The hash before the first block: everything but the tokens that tells two caches apart.

    Each field is written with its presence and length, so no two different field lists give the same bytes.
    `hash_seed` is one value per fleet (R 6.5); only its low 64 bits count.
    """
    encoded = b"".join(_field(value) for value in (model, adapter, salt, media))
    return xxh3_64_intdigest(encoded, seed=hash_seed & _SEED_MASK)


def _field(value: str | bytes | None) -> bytes:
    if value is None:
        return b"\x00"
    written = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return b"\x01" + len(written).to_bytes(8, "little") + written


def child_hash(parent: int, block_tokens: bytes | memoryview, extra: bytes = b"") -> int:
    """The hash of one block under `parent`. `extra` is what the engine mixes into this block beside its tokens."""
    return xxh3_64_intdigest(b"".join((block_tokens, extra)) if extra else block_tokens, seed=parent)


class BlockHasher:
    """Hashes whole prompts, remembering runs of blocks it has hashed before. Safe to share between threads.

    A chunk of CHUNK_BLOCKS blocks is remembered under the hash before it and a 128-bit digest of its tokens: what
    follows from those two is always the same, so a remembered answer equals a computed one.
    """

    def __init__(self, cache_bytes: int = 64 << 20) -> None:
        self._chunks: Lru[tuple[int, int, int], bytes] = Lru(cache_bytes)

    def hashes(self, tokens: TokenIds, root: int, block_size_tokens: int) -> BlockHashes:
        """Chained hashes of all full blocks. A trailing partial block has none."""
        if block_size_tokens <= 0:
            raise ValueError(f"block_size_tokens is {block_size_tokens}, but a block holds at least one token")
        block_bytes = block_size_tokens * TOKEN_BYTES
        chunk_bytes = block_bytes * CHUNK_BLOCKS
        full_bytes = len(tokens) // block_bytes * block_bytes
        if full_bytes < chunk_bytes:
            return _chain(tokens, root, block_bytes)
        chunked_bytes = full_bytes // chunk_bytes * chunk_bytes
        hashes = array("Q")
        parent = root
        for start in range(0, chunked_bytes, chunk_bytes):
            chunk = tokens[start : start + chunk_bytes]
            key = (parent, xxh3_128_intdigest(chunk), block_size_tokens)
            remembered = self._chunks.get(key)
            if remembered is None:
                remembered = _chain(chunk, parent, block_bytes).tobytes()
                self._chunks.put(key, remembered, len(remembered))
            hashes.frombytes(remembered)
            parent = hashes[-1]
        hashes.extend(_chain(tokens[chunked_bytes:], parent, block_bytes))
        return hashes


def _chain(tokens: bytes, parent: int, block_bytes: int) -> BlockHashes:
    """Hashes of the whole blocks in `tokens`, of which there are CHUNK_BLOCKS at most."""
    digest = xxh3_64_intdigest
    blocks = _splitter(block_bytes, len(tokens) // block_bytes).unpack_from(tokens)
    return array("Q", [parent := digest(block, parent) for block in blocks])


@lru_cache(maxsize=4 * CHUNK_BLOCKS)
def _splitter(block_bytes: int, blocks: int) -> Struct:
    return Struct(f"{block_bytes}s" * blocks)
