from __future__ import annotations

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from router.prompt.blocks import (
    CHUNK_BLOCKS,
    BlockHasher,
    child_hash,
    count_tokens,
    pack_tokens,
    root_hash,
    unpack_tokens,
)

token_ids = st.lists(st.integers(0, 2**32 - 1), max_size=80)
# Long enough for several chunks of blocks, from a seed: lists of thousands are slow to draw.
long_ids = st.builds(
    lambda seed, n: list(xxhash.xxh3_128_digest(seed.to_bytes(4)) * (n // 16 + 1))[:n],
    st.integers(0, 3),
    st.integers(0, CHUNK_BLOCKS * 9),
)
roots = st.integers(0, 2**64 - 1)
fields = st.tuples(
    st.text(max_size=3), st.none() | st.text(max_size=3), st.none() | st.text(max_size=3), st.binary(max_size=3)
)


def hashes(ids: list[int], root: int = 1, size: int = 2) -> list[int]:
    return list(BlockHasher(0).hashes(pack_tokens(ids), root, size))


@given(token_ids, token_ids)
def test_a_longer_prompt_keeps_the_hashes_of_its_prefix(prefix: list[int], rest: list[int]) -> None:
    short, long = hashes(prefix), hashes(prefix + rest)
    assert long[: len(short)] == short


@given(token_ids, roots, st.integers(1, 5))
def test_the_chain_is_each_block_hashed_under_the_one_before(ids: list[int], root: int, size: int) -> None:
    expected, parent = [], root
    for start in range(0, len(ids) // size * size, size):
        parent = child_hash(parent, pack_tokens(ids[start : start + size]))
        expected.append(parent)
    assert hashes(ids, root, size) == expected


@settings(max_examples=60)
@given(st.lists(st.tuples(long_ids, st.sampled_from([1, 2]), st.sampled_from([1, 4])), min_size=1, max_size=6))
def test_a_hasher_that_remembers_gives_what_one_that_forgets_gives(
    prompts: list[tuple[list[int], int, int]],
) -> None:
    remembering = BlockHasher()
    for ids, root, size in prompts:
        for grown in (ids, [*ids, 7, 7, 7, 7, 7], ids[: len(ids) // 2]):
            tokens = pack_tokens(grown)
            assert remembering.hashes(tokens, root, size) == BlockHasher(0).hashes(tokens, root, size)


@given(st.integers(0, 2**64 - 1), fields, fields)
def test_different_roots_are_never_equal(
    seed: int, one: tuple[str, str, str, bytes], two: tuple[str, str, str, bytes]
) -> None:
    assert (root_hash(seed, *one) == root_hash(seed, *two)) == (one == two)


def test_no_adapter_and_an_empty_one_and_a_salt_of_the_same_name_are_three_caches() -> None:
    assert len({root_hash(0, "m"), root_hash(0, "m", ""), root_hash(0, "m", None, "a"), root_hash(0, "m", "a")}) == 4


def test_another_hash_seed_is_another_fleet() -> None:
    assert root_hash(1, "m") != root_hash(2, "m")
    assert root_hash(-1, "m") == root_hash(2**64 - 1, "m")


@given(token_ids)
def test_packed_tokens_are_little_endian_and_come_back(ids: list[int]) -> None:
    packed = pack_tokens(ids)
    assert packed == b"".join(i.to_bytes(4, "little") for i in ids)
    assert list(unpack_tokens(packed)) == ids
    assert count_tokens(packed) == len(ids)


def test_extra_keys_change_a_block() -> None:
    block = pack_tokens([1, 2])
    assert child_hash(1, block, b"x") != child_hash(1, block) == child_hash(1, memoryview(block))


@pytest.mark.parametrize("ids", [[-1], [2**32]])
def test_what_is_no_uint32_is_no_token(ids: list[int]) -> None:
    with pytest.raises(OverflowError):
        pack_tokens(ids)


def test_a_block_holds_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        BlockHasher().hashes(pack_tokens([1]), 1, 0)
