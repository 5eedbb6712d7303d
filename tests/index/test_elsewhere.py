"""What other routers' leases lend: whole grains of what a prompt shares with them, and nothing once they close."""

from __future__ import annotations

from array import array

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.replica import Seat
from router.index.budget import Budget
from router.index.memory import MemoryIndex

HERE, THERE = Seat(0), Seat(1)
GRAIN = 3


def chained(*steps: int) -> array[int]:
    """Block hashes that tell all before them, as real ones do."""
    return array("Q", [hash(steps[: at + 1]) & (2**64 - 1) for at in range(len(steps))])


def index_of() -> MemoryIndex:
    index = MemoryIndex(Budget(1 << 30))
    index.join(HERE)
    index.join(THERE)
    return index


def expected(index: MemoryIndex, prompt: array[int]) -> list[int]:
    return [int(blocks) for blocks in index.match(prompt, np.array([HERE, THERE])).expected]


def grains(prompt: array[int], first: int = 0) -> list[int]:
    return prompt[GRAIN - 1 :: GRAIN].tolist()[first:]


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=14).map(lambda steps: chained(*steps))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.sampled_from([HERE, THERE]), prompts), max_size=30))
def test_a_prompt_is_expected_as_deep_as_the_grains_it_shares_with_an_open_lease(
    steps: list[tuple[bool, int, Seat, array[int]]],
) -> None:
    index = index_of()
    lent: dict[int, tuple[Seat, array[int]]] = {}
    for opens, lease, seat, prompt in steps:
        if opens:
            index.elsewhere.open(lease, seat, GRAIN, grains(prompt))
            lent[lease] = (seat, prompt)
        else:
            index.elsewhere.close(lease)
            lent.pop(lease, None)
        depths = [
            max(
                (
                    sum(ours == theirs for ours, theirs in zip(grains(prompt), grains(other), strict=False)) * GRAIN
                    for where, other in lent.values()
                    if where == asked
                ),
                default=0,
            )
            for asked in (HERE, THERE)
        ]
        assert expected(index, prompt) == depths
    for lease in range(6):
        index.elsewhere.close(lease)
    assert not index.elsewhere
    assert index.elsewhere._masks == {}
    assert not index.elsewhere._again


def test_a_lease_goes_on_where_events_end_and_ours_where_it_ends_and_so_on() -> None:
    index, prompt = index_of(), chained(*range(14))
    index.store_run(HERE, prompt[:4], None)
    index.elsewhere.open("a", HERE, GRAIN, grains(prompt, first=1)[:1])  # blocks 4 and 5
    assert expected(index, prompt) == [6, 0]
    index.recent.open(1, HERE, prompt[:8], 6)
    assert expected(index, prompt) == [8, 0]
    index.elsewhere.open("b", HERE, GRAIN, grains(prompt, first=2))
    assert expected(index, prompt) == [12, 0]
    assert [int(blocks) for blocks in index.match(prompt, np.array([HERE, THERE])).held] == [4, 0]


def test_a_replica_that_forgets_everything_forgets_what_others_lent_it_and_its_place_waits_for_them() -> None:
    index, prompt = index_of(), chained(*range(6))
    index.elsewhere.open("a", HERE, GRAIN, grains(prompt))
    index.clear(HERE)
    assert expected(index, prompt) == [0, 0]
    index.purge(100)
    index.join(Seat(2))
    assert index.match(prompt, np.array([2])).expected.tolist() == [0], "the old bit is not given out while it is lent"
    index.elsewhere.close("a")
    index.purge(100)
    index.elsewhere.open("a", HERE, GRAIN, grains(prompt))
    assert expected(index, prompt) == [6, 0]


def test_a_replica_without_a_place_is_lent_nothing() -> None:
    index = index_of()
    index.elsewhere.open("a", Seat(9), GRAIN, [1, 2])
    assert not index.elsewhere
