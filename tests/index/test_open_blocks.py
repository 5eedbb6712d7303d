"""What open requests use of a cache: each block once, until the last that uses it is closed."""

from __future__ import annotations

from array import array

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.replica import Seat
from router.index.open_blocks import OpenBlocks

SEATS = np.array([0, 1], dtype=np.int64)


def test_blocks_that_requests_share_count_once() -> None:
    blocks = OpenBlocks()
    blocks.open(1, Seat(0), array("Q", [1, 2, 3]), 16)
    blocks.open(2, Seat(0), array("Q", [1, 2, 4, 5]), 16)
    assert blocks.tokens_of(SEATS).tolist() == [5 * 16, 0]
    blocks.close(1)
    assert blocks.tokens_of(SEATS).tolist() == [4 * 16, 0]
    blocks.close(2)
    blocks.close(2)
    assert blocks.tokens_of(SEATS).tolist() == [0, 0]


def test_a_prompt_shares_its_beginning_with_what_is_open() -> None:
    blocks = OpenBlocks()
    blocks.open(1, Seat(1), array("Q", [1, 2, 3]), 16)
    assert blocks.shared_blocks(array("Q", [1, 2, 9]), SEATS).tolist() == [0, 2]
    assert blocks.shared_blocks(array("Q"), SEATS).tolist() == [0, 0]


def test_a_seat_beyond_the_first_rows_uses_nothing_yet() -> None:
    assert OpenBlocks().tokens_of(np.array([3, 400])).tolist() == [0, 0]


# Prefixes of a few trees: block ids are chained, so a block tells all before it.
prompts = st.lists(st.integers(0, 2), max_size=6).map(
    lambda path: array("Q", [hash(tuple(path[: depth + 1])) & 0xFFFF for depth in range(len(path))])
)


@given(st.lists(st.tuples(prompts, st.booleans()), max_size=20), prompts)
def test_it_equals_counting_anew(steps: list[tuple[array[int], bool]], asked: array[int]) -> None:
    blocks, still_open = OpenBlocks(), {}
    for lease, (hashes, closes) in enumerate(steps):
        blocks.open(lease, Seat(0), hashes, 1)
        still_open[lease] = hashes
        if closes:
            oldest = min(still_open)
            blocks.close(oldest)
            del still_open[oldest]
    used = set().union(*still_open.values()) if still_open else set()
    assert blocks.tokens_of(SEATS)[0] == len(used)
    expected = next((depth for depth, block in enumerate(asked) if block not in used), len(asked))
    assert blocks.shared_blocks(asked, SEATS)[0] == expected


def test_by_grains_whole_runs_are_counted_once_and_the_rest_for_each() -> None:
    blocks = OpenBlocks(grain_tokens=64)
    shared = [1, 2, 3, 4, 5, 6, 7, 8]
    blocks.open(1, Seat(0), array("Q", [*shared, 9]), 16)
    blocks.open(2, Seat(0), array("Q", [*shared, 9]), 16)
    assert blocks.tokens_of(SEATS)[0] == 8 * 16 + 2 * 16
    assert not blocks.exact
    blocks.close(1)
    assert blocks.tokens_of(SEATS)[0] == 9 * 16
    blocks.close(2)
    assert blocks.tokens_of(SEATS)[0] == 0


@given(st.lists(prompts, max_size=20), st.integers(1, 4))
def test_by_grains_nothing_is_left_and_no_less_than_all_is_counted(opened: list[array[int]], grain: int) -> None:
    blocks = OpenBlocks(grain_tokens=grain)
    for lease, hashes in enumerate(opened):
        blocks.open(lease, Seat(0), hashes, 1)
    used = blocks.tokens_of(SEATS)[0]
    assert len(set().union(*opened)) <= used <= sum(map(len, opened))
    for lease in range(len(opened)):
        blocks.close(lease)
    assert blocks.tokens_of(SEATS)[0] == 0
