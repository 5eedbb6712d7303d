"""A recorded line tells which prompts begin alike, and nothing of what they say."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from router.gateway.sighting import Keys, Sighting, finest

SECRET, OTHER = b"s" * 32, b"o" * 32


def seen(
    *hashes: int, size: int = 64, at_seconds: float = 1.0, tokens: int = 500, session: str | None = None
) -> Sighting:
    return Sighting(at_seconds, tokens, 20, 2.5, array("Q", hashes), size, session)


def line(sighting: Sighting, secret: bytes = SECRET) -> dict[str, Any]:  # Any: names and values
    told: dict[str, Any] = msgspec.json.decode(Keys(secret).line(sighting))
    return told


def test_a_line_is_mooncakes_with_block_size_and_session() -> None:
    told = line(seen(1, 2, 3, session="mine"))
    mooncakes = {"timestamp", "input_length", "output_length", "hash_ids"}
    assert told.keys() == mooncakes | {"block_size", "session_id", "duration"}
    assert (told["timestamp"], told["input_length"], told["output_length"], told["duration"]) == (1000, 500, 20, 2500)
    assert (len(told["hash_ids"]), told["block_size"]) == (3, 64)
    assert "session_id" not in line(seen(1))


def test_what_became_of_a_request_is_told_where_it_is_known() -> None:
    told = line(Sighting(0.0, 900, 20, 2.5, None, 0, None, cached_tokens=128, ttft_seconds=0.1234, queued_seconds=0.02))
    assert (told["cached_length"], told["first_token"], told["queued"]) == (128, 120, 20)


def test_times_are_rounded_to_ten_milliseconds() -> None:
    assert [line(seen(at_seconds=at))["timestamp"] for at in (0.0, 0.0049, 0.0051, 12.3449)] == [0, 0, 10, 12340]


blocks = st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=20)


@given(blocks, blocks)
def test_ids_are_equal_exactly_where_the_hashes_are(one: list[int], other: list[int]) -> None:
    keys = Keys(SECRET)
    first, second = (msgspec.json.decode(keys.line(seen(*hashes)))["hash_ids"] for hashes in (one, other))
    equal = [(i, j) for i, left in enumerate(one) for j, right in enumerate(other) if left == right]
    assert [(i, j) for i, left in enumerate(first) for j, right in enumerate(second) if left == right] == equal


def test_no_hash_of_ours_nor_a_session_stands_in_a_line() -> None:
    written = Keys(SECRET).line(seen(123456789, session="alice@example.com"))
    assert b"123456789" not in written
    assert b"alice" not in written


def test_two_recordings_have_no_id_in_common() -> None:
    one, other = line(seen(1, 2, session="mine")), line(seen(1, 2, session="mine"), OTHER)
    assert not set(one["hash_ids"]) & set(other["hash_ids"])
    assert one["session_id"] != other["session_id"]


def test_small_blocks_are_told_in_runs_of_sixty_four_tokens_or_more() -> None:
    keys = Keys(SECRET)
    fine = msgspec.json.decode(keys.line(seen(*range(10), size=16)))
    coarse = msgspec.json.decode(keys.line(seen(3, 7)))
    assert fine["block_size"] == 64
    assert fine["hash_ids"] == coarse["hash_ids"]  # of the fourth and the eighth, each of which names all before it
    assert [line(seen(*range(130), size=size))["block_size"] for size in (1, 20, 48, 64, 784)] == [64, 80, 96, 64, 784]
    assert len(line(seen(*range(130), size=1))["hash_ids"]) == 2


def test_a_prompt_of_unknown_tokens_has_no_ids_but_a_size() -> None:
    told = line(Sighting(0.0, 900, 20, 2.5, None, 0, None))
    assert (told["hash_ids"], told["block_size"], told["input_length"]) == ([], 64, 900)


def test_a_request_is_told_in_the_finest_blocks_it_has() -> None:
    small, large = array("Q", [1, 2]), array("Q", [3])
    assert finest({64: large, 16: small}) == (small, 16)
    assert finest({16: array("Q"), 64: large}) == (large, 64)
    assert finest({}) == (None, 0)


def test_more_ids_than_are_remembered_stay_the_same() -> None:
    keys = Keys(SECRET)
    once = keys.line(seen(1, 2, 3))
    for start in range(10, 250_000, 50_000):
        keys.line(seen(*range(start, start + 50_000)))
    assert keys.line(seen(1, 2, 3)) == once
