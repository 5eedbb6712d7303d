"""The in-memory index: the shared contract, and what only it promises."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from router.fleet.replica import Seat
from router.index.base import Tier
from router.index.budget import Budget
from router.index.lookup import table_depths
from router.index.memory import MemoryIndex
from router.index.table import ROW_BYTES
from tests.index.contract import IndexContract, held

HERE, THERE = Seat(0), Seat(1)


def index_of(*seats: Seat, limit_bytes: int = 1 << 30) -> MemoryIndex:
    index = MemoryIndex(Budget(limit_bytes))
    for seat in seats:
        index.join(seat)
    return index


class TestMemoryIndex(IndexContract):
    def make(self) -> MemoryIndex:
        return index_of()


class TestLookup:
    @pytest.mark.parametrize("replicas", [8, 128])
    def test_long_prompts_at_many_depths_match_each_replica_exactly(self, replicas: int) -> None:
        index = index_of(*map(Seat, range(replicas)))
        prompt = list(range(1, 3001))
        depths = [(seat * 991) % 3001 for seat in range(replicas)]
        for seat, depth in enumerate(depths):
            if depth:
                index.store_run(Seat(seat), prompt[:depth], None)
        match = index.match(array("Q", prompt), np.arange(replicas))
        assert match.held.tolist() == depths
        assert [index.held_depth(Seat(seat), array("Q", prompt)) for seat in range(replicas)] == depths

    @pytest.mark.parametrize("purged", [True, False])
    def test_a_seat_that_left_disturbs_no_other_whether_purged_or_not(self, purged: bool) -> None:
        index = index_of(HERE, THERE)
        prompt = list(range(1, 101))
        index.store_run(HERE, prompt[:40], None)
        index.store_run(THERE, prompt[:90], None)
        index.leave(THERE)
        while purged and index.purge(10):
            pass
        assert index.match(array("Q", prompt), np.array([0, 1])).held.tolist() == [40, 0]

    def test_blocks_hidden_below_a_gap_do_not_mislead_the_bisection(self) -> None:
        index = index_of(HERE, THERE)
        prompt = list(range(1, 65))
        index.store_run(HERE, prompt, None)
        index.store_run(THERE, prompt[:20], None)
        for block in prompt[10:25]:
            index.remove(HERE, block)
        for block in prompt[10:20]:
            index.remove(THERE, block)
        with pytest.raises(KeyError):
            table_depths(index._holdings.table.values, array("Q", prompt), index.slots.live)
        assert index.match(array("Q", prompt), np.array([0, 1])).held.tolist() == [10, 10]
        index.store_run(HERE, prompt[10:25], prompt[9])
        assert index.match(array("Q", prompt), np.array([0, 1])).held.tolist() == [64, 10]


class TestTiers:
    def test_a_slower_tier_counts_from_where_the_faster_run_ends(self) -> None:
        index = index_of(HERE)
        index.store_run(HERE, [1, 2], None)
        index.store_run(HERE, [2, 3, 4], 1, Tier.CPU)
        index.store_run(HERE, [5], 4, Tier.DISK)
        match = index.match(array("Q", [1, 2, 3, 4, 5, 6]), np.array([HERE]))
        assert (match.held.tolist(), match.slower.tolist()) == ([2], [3])
        assert index.remove(HERE, 2)
        match = index.match(array("Q", [1, 2, 3, 4, 5, 6]), np.array([HERE]))
        assert (match.held.tolist(), match.slower.tolist()) == ([1], [4])

    def test_gpu_blocks_beyond_a_slower_run_do_not_lengthen_it(self) -> None:
        index = index_of(HERE)
        index.store_run(HERE, [1], None)
        index.store_run(HERE, [2], 1, Tier.CPU)
        index.store_run(HERE, [3], 2)
        match = index.match(array("Q", [1, 2, 3]), np.array([HERE]))
        assert (match.held.tolist(), match.slower.tolist()) == ([1], [1])


class TestBudget:
    def test_blocks_that_find_no_room_are_refused_from_the_first_and_counted(self) -> None:
        index = index_of(HERE, limit_bytes=3 * ROW_BYTES)
        assert index.store_run(HERE, [1, 2, 3, 4, 5], None) == 3
        assert index.refused_blocks == 2
        assert held(index, [1, 2, 3, 4, 5]) == 3
        assert not index.remove(HERE, 5)
        assert not index.remove(HERE, 3)
        assert index.store_run(HERE, [9], 2) == 1

    def test_blocks_already_known_cost_no_row_and_are_never_refused(self) -> None:
        index = index_of(HERE, THERE, limit_bytes=3 * ROW_BYTES)
        index.store_run(HERE, [1, 2, 3], None)
        assert index.store_run(THERE, [1, 2, 3], None) == 3
        assert index.used_bytes == 3 * ROW_BYTES

    def test_a_child_of_an_unknown_parent_is_refused_unless_both_fit(self) -> None:
        index = index_of(HERE, limit_bytes=ROW_BYTES)
        assert index.store_run(HERE, [2], 1) == 0
        assert (index.used_bytes, index.block_count) == (0, 0)


class TestPurge:
    def test_a_clear_costs_nothing_at_once_and_the_purge_goes_in_steps(self) -> None:
        index = index_of(HERE)
        blocks = list(range(1, 101))
        index.store_run(HERE, blocks, None)
        index.clear(HERE, blocks)
        assert (held(index, blocks), index.block_count) == (0, 100)
        steps = 1
        while index.purge(10):
            steps += 1
        assert (steps, index.block_count, index.used_bytes) == (11, 0, 0)

    def test_the_owned_blocks_may_be_a_generator_that_frees_its_map_on_the_way(self) -> None:
        index = index_of(HERE)
        names = {name: name + 1 for name in range(50)}
        index.store_run(HERE, list(names.values()), None)
        index.leave(HERE, (names.popitem()[1] for _ in range(len(names))))
        index.purge(20)
        assert len(names) == 30

    def test_slots_are_used_again_so_that_restarts_do_not_widen_the_masks(self) -> None:
        index = index_of(HERE, THERE)
        for _ in range(50):
            index.store_run(HERE, [1, 2, 3], None)
            index.clear(HERE)
            while index.purge(100):
                pass
        assert index.slots.count <= 4

    def test_a_slot_waits_for_the_leases_that_carry_it(self) -> None:
        index = index_of(HERE)
        index.recent.open(7, HERE, array("Q", [1, 2]), 0)
        index.clear(HERE)
        index.purge(100)
        index.join(THERE)
        assert index.match(array("Q", [1, 2]), np.array([HERE, THERE])).expected.tolist() == [0, 0]
        before = index.slots.count
        index.recent.close(7)
        index.purge(100)
        index.join(Seat(2))
        assert index.slots.count == before
