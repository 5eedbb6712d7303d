"""What open leases lend: exactly the longest prefix shared with an open request, and nothing after they are gone."""

from __future__ import annotations

from array import array

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from router.fleet.replica import Seat
from router.index.budget import Budget
from router.index.memory import MemoryIndex
from router.index.recent import GRACE_SECONDS
from tests.index.contract import DEPTH, PROMPTS, block

SEATS = (Seat(0), Seat(1))
HERE, THERE = SEATS

prompts = st.tuples(st.sampled_from((*PROMPTS, PROMPTS[0], PROMPTS[1])), st.integers(1, DEPTH)).map(
    lambda choice: tuple(block(position) for position in choice[0][: choice[1]])
)
steps = st.lists(
    st.tuples(
        st.sampled_from(("open", "open", "open", "store", "gone", "first token", "time", "clear")),
        st.sampled_from(SEATS),
        prompts,
        st.integers(0, 5),
    ),
    min_size=4,
    max_size=40,
)


def index_of() -> MemoryIndex:
    index = MemoryIndex(Budget(1 << 30))
    for seat in SEATS:
        index.join(seat)
    return index


def expected(index: MemoryIndex, hashes: array[int]) -> list[int]:
    return [int(blocks) for blocks in index.match(hashes, np.array(SEATS)).expected]


def shared_blocks(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@settings(max_examples=150, deadline=None)
@given(steps=steps)
def test_expected_is_the_longer_of_what_is_held_and_what_an_open_request_shares(
    steps: list[tuple[str, Seat, tuple[int, ...], int]],
) -> None:
    index = index_of()
    lent: dict[int, tuple[Seat, tuple[int, ...]]] = {}
    due: list[tuple[float, int]] = []
    now = 0.0
    for lease, (kind, seat, prompt, which) in enumerate(steps):
        chosen = list(lent)[which % len(lent)] if lent else None
        if kind == "open":
            hashes = array("Q", prompt)
            index.recent.open(lease, seat, hashes, expected(index, hashes)[seat])
            lent[lease] = (seat, prompt)
        elif kind == "store":
            index.store_run(seat, list(prompt), None)
        elif kind == "gone" and chosen is not None:
            (index.recent.close if which % 2 else index.recent.withdraw)(chosen)
            del lent[chosen]
        elif kind == "first token" and chosen is not None:
            index.recent.first_token(chosen, now)
            due.append((now + GRACE_SECONDS, chosen))
        elif kind == "time":
            now += which * 0.7
            index.recent.expire(now)
            for _, lease_due in [entry for entry in due if entry[0] <= now]:
                lent.pop(lease_due, None)
        elif kind == "clear":
            index.clear(seat)
            index.purge(which)
            lent = {lease: loan for lease, loan in lent.items() if loan[0] != seat}
        for positions in PROMPTS:
            asked = tuple(block(position) for position in positions)
            match = index.match(array("Q", asked), np.array(SEATS))
            for row, seat_asked in enumerate(SEATS):
                loans = [shared_blocks(asked, loan) for owner, loan in lent.values() if owner == seat_asked]
                assert match.expected[row] == max([int(match.held[row]), *loans])
    for lease in range(len(steps)):
        index.recent.close(lease)
    assert (len(index.recent), index.recent.masks) == (0, {})


def test_a_sibling_counts_on_blocks_no_event_has_told_of() -> None:
    index = index_of()
    index.store_run(HERE, [1], None)
    index.recent.open(1, HERE, array("Q", [1, 2, 3]), 1)
    match = index.match(array("Q", [1, 2, 4]), np.array(SEATS))
    assert (match.held.tolist(), match.expected.tolist()) == ([1, 0], [2, 0])


def test_a_lease_is_dropped_two_seconds_after_its_first_token() -> None:
    index = index_of()
    hashes = array("Q", [1, 2])
    index.recent.open(1, HERE, hashes, 0)
    index.recent.first_token(1, 10.0)
    index.recent.expire(11.9)
    assert expected(index, hashes) == [2, 0]
    index.recent.expire(12.0)
    assert expected(index, hashes) == [0, 0]


def test_a_request_that_counted_on_a_withdrawn_one_still_computes_its_whole_prompt() -> None:
    index = index_of()
    index.recent.open(1, HERE, array("Q", [1, 2, 3, 4]), 0)
    index.recent.open(2, HERE, array("Q", [1, 2, 3, 9]), 3)
    index.recent.withdraw(1)
    assert expected(index, array("Q", [1, 2, 3, 4])) == [3, 0]
    assert expected(index, array("Q", [1, 2, 3, 9])) == [4, 0]


def test_a_lease_that_ignored_what_is_lent_already_takes_nothing_away_when_it_goes() -> None:
    index = index_of()
    index.recent.open(1, HERE, array("Q", [1, 2]), 0)
    index.recent.open(2, HERE, array("Q", [1, 2]), 0)
    index.recent.close(2)
    assert expected(index, array("Q", [1, 2])) == [2, 0]


def test_a_seat_that_never_joined_is_lent_nothing() -> None:
    index = index_of()
    index.recent.open(1, Seat(9), array("Q", [1, 2]), 0)
    index.recent.close(1)
    assert len(index.recent) == 0


def test_whoever_lends_a_block_is_found_by_it() -> None:
    index = index_of()
    index.recent.open(7, HERE, array("Q", [1, 2, 3]), 1)
    index.recent.open(8, HERE, array("Q", [1, 2, 3, 4]), 3)
    assert index.recent.lenders(HERE, array("Q", [1, 2, 9]), 1) == [7]
    assert index.recent.lenders(HERE, array("Q", [1, 2, 3, 4]), 3) == [8]
    assert index.recent.lenders(HERE, array("Q", [1, 2]), 0) == []
