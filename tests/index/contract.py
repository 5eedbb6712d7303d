"""What every index back end owes: the law of R 4.2 against a model that only counts copies.

A back end's test inherits `IndexContract` and says how to make one. The model knows nothing of masks, hidden blocks or
slots: it keeps the copies of each (seat, tier, block) and walks each prompt block by block.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.fleet.replica import IntArray, Seat
from router.index.base import Match, Tier
from router.prompt.blocks import BlockHashes

DEPTH = 6
SEATS = tuple(Seat(seat) for seat in range(3))
TIERS = (Tier.GPU, Tier.CPU, Tier.DISK)


class WritableIndex(Protocol):
    @property
    def block_count(self) -> int: ...
    @property
    def used_bytes(self) -> int: ...
    def join(self, seat: Seat) -> None: ...
    def leave(self, seat: Seat, owned: Iterable[int] | None = None) -> None: ...
    def clear(self, seat: Seat, owned: Iterable[int] | None = None) -> None: ...
    def purge(self, max_blocks: int) -> bool: ...
    def store_run(self, seat: Seat, blocks: Sequence[int], parent: int | None, tier: Tier = ...) -> int: ...
    def remove(self, seat: Seat, block: int, tier: Tier = ...) -> bool: ...
    def match(self, hashes: BlockHashes, seats: IntArray) -> Match: ...


def block(position: int) -> int:
    """Hash of a node of a binary tree, whose root-level blocks are 1 and 2 and whose node n has children 2n+1, 2n+2."""
    return (position * 0x9E3779B97F4A7C15 + 1) % 2**64


def path(position: int) -> list[int]:
    """Positions from the root level down to this one."""
    return [*path((position - 1) // 2), position] if position > 2 else [position]


FIRST_LEAF = 2**DEPTH - 1
# A few prompts that part from the first one late, early and at once: chosen few, so that operations meet.
LEAVES = tuple(FIRST_LEAF + offset for offset in (0, 1, 4, 20, 40))
PROMPTS = [path(leaf) for leaf in LEAVES]


@dataclass(frozen=True, slots=True)
class Step:
    """One operation. What it does not need it ignores."""

    kind: str
    seat: Seat
    leaf: int
    start: int  # depth of the first block, for a removal the only one
    length: int  # blocks to store
    tier: Tier
    amount: int  # blocks to purge; of the blocks held, how many are told as owned, beyond 15 it is not told


def steps_of(*kinds: str, tiers: Sequence[Tier], whole: bool = False) -> st.SearchStrategy[Step]:
    return st.builds(
        Step,
        kind=st.sampled_from(kinds),
        seat=st.sampled_from((SEATS[0], *SEATS)),
        leaf=st.sampled_from((LEAVES[0], *LEAVES)),
        start=st.just(0) if whole else st.integers(0, DEPTH - 1),
        length=st.just(DEPTH) if whole else st.integers(1, DEPTH),
        tier=st.sampled_from(tiers),
        amount=st.integers(1, 20),
    )


def lives(*tiers: Tier) -> st.SearchStrategy[list[Step]]:
    return st.lists(
        st.one_of(
            steps_of("store", tiers=tiers, whole=True),
            steps_of("store", tiers=tiers),
            steps_of("remove", tiers=tiers),
            steps_of("remove", tiers=tiers),
            steps_of("store", "remove", "purge", "clear", "leave or join", tiers=tiers),
        ),
        min_size=8,
        max_size=40,
    )


class Copies:
    """The model. Mutable; changed by the test."""

    def __init__(self) -> None:
        self.joined: set[Seat] = set()
        self.counts: Counter[tuple[Seat, Tier, int]] = Counter()

    def forget(self, seat: Seat) -> list[int]:
        mine = [key for key in self.counts if key[0] == seat]
        for key in mine:
            del self.counts[key]
        return [block(position) for _, _, position in mine]

    def remove(self, seat: Seat, tier: Tier, position: int) -> bool:
        key = (seat, tier, position)
        if self.counts[key] > 1:
            self.counts[key] -= 1
        else:
            del self.counts[key]
        return any((seat, any_tier, position) in self.counts for any_tier in TIERS)

    def runs(self, seat: Seat, prompt: Sequence[int]) -> tuple[int, int]:
        """Leading blocks in the GPU tier, and how many the slower tiers add, each from where the faster one ended."""
        depth = 0
        held = 0
        for tier in TIERS:
            while depth < len(prompt) and self.counts.get((seat, tier, prompt[depth])):
                depth += 1
            if tier is Tier.GPU:
                held = depth
        return held, depth - held


class IndexContract:
    def make(self) -> WritableIndex:
        raise NotImplementedError

    @settings(max_examples=250, deadline=None)
    @given(steps=lives(Tier.GPU) | lives(Tier.GPU, Tier.GPU, Tier.GPU, Tier.CPU, Tier.CPU, Tier.DISK))
    def test_any_interleaving_equals_brute_force_on_every_prefix(self, steps: list[Step]) -> None:
        index, model = self.make(), Copies()
        for seat in SEATS:
            index.join(seat)
            model.joined.add(seat)
        for step in steps:
            take(step, index, model)
            assert_equal(index, model)
        for seat in SEATS:
            index.leave(seat)
        while index.purge(7):
            pass
        assert (index.block_count, index.used_bytes) == (0, 0)

    @pytest.mark.parametrize("seed", range(8))
    def test_a_long_random_life_equals_brute_force_on_every_prefix(self, seed: int) -> None:
        chance = random.Random(seed)
        index, model = self.make(), Copies()
        kinds = ("store", "remove", "purge", "clear", "leave or join")
        for _ in range(400):
            step = Step(
                kind=chance.choices(kinds, (10, 14, 4, 0.3, 0.5))[0],
                seat=chance.choice(SEATS),
                leaf=chance.choice(LEAVES),
                start=chance.randrange(DEPTH),
                length=chance.randint(1, DEPTH),
                tier=chance.choices(TIERS, (6, 2, 1) if seed % 2 else (1, 0, 0))[0],
                amount=chance.randint(1, 20),
            )
            take(step, index, model)
            assert_equal(index, model)

    def test_a_prompt_nobody_holds_and_an_empty_prompt_match_nothing(self) -> None:
        index = self.make()
        for seat in SEATS:
            index.join(seat)
        for hashes in (array("Q"), array("Q", [1, 2, 3])):
            match = index.match(hashes, np.array(SEATS, np.int64))
            assert match.held.tolist() == match.slower.tolist() == match.expected.tolist() == [0, 0, 0]

    def test_a_block_told_below_two_parents_keeps_the_first(self) -> None:
        index = self.make()
        index.join(SEATS[0])
        index.store_run(SEATS[0], [1, 2, 3], None)
        index.store_run(SEATS[0], [3], 99)
        index.store_run(SEATS[0], [9, 3], 98)
        assert held(index, [1, 2, 3]) == 3
        index.join(SEATS[1])
        index.store_run(SEATS[1], [1, 2], None)
        index.store_run(SEATS[1], [3], 97)
        assert held(index, [1, 2, 3], SEATS[1]) == 3
        for seat in SEATS:
            index.leave(seat)
        while index.purge(7):
            pass
        assert (index.block_count, index.used_bytes) == (0, 0)

    def test_seats_are_answered_in_the_order_asked_and_strangers_hold_nothing(self) -> None:
        index = self.make()
        for seat in SEATS:
            index.join(seat)
        index.store_run(SEATS[0], [11, 12], None)
        index.store_run(SEATS[2], [11, 12, 13], None)
        match = index.match(array("Q", [11, 12, 13, 14]), np.array([2, 900, 0, 2], np.int64))
        assert match.held.tolist() == [3, 0, 2, 3]

    def test_a_child_that_arrives_before_its_parent_counts_once_the_parent_is_there(self) -> None:
        index = self.make()
        index.join(SEATS[0])
        index.store_run(SEATS[0], [3, 4], 2)
        assert held(index, [1, 2, 3, 4]) == 0
        index.store_run(SEATS[0], [2], 1)
        assert held(index, [1, 2, 3, 4]) == 0
        index.store_run(SEATS[0], [1], None)
        assert held(index, [1, 2, 3, 4]) == 4

    def test_each_copy_is_removed_by_itself(self) -> None:
        index = self.make()
        index.join(SEATS[0])
        index.store_run(SEATS[0], [1, 2], None)
        index.store_run(SEATS[0], [2], 1)
        assert index.remove(SEATS[0], 2)
        assert held(index, [1, 2]) == 2
        assert not index.remove(SEATS[0], 2)
        assert held(index, [1, 2]) == 1

    def test_a_cleared_seat_holds_nothing_at_once_and_its_bit_never_lies_for_another(self) -> None:
        index = self.make()
        index.join(SEATS[0])
        index.store_run(SEATS[0], list(range(1, 50)), None)
        index.clear(SEATS[0])
        assert held(index, [1, 2]) == 0
        index.purge(10)
        index.join(SEATS[1])
        index.purge(30)
        index.join(SEATS[2])
        match = index.match(array("Q", range(1, 50)), np.array(SEATS, np.int64))
        assert match.held.tolist() == [0, 0, 0]


def held(index: WritableIndex, blocks: Sequence[int], seat: Seat = SEATS[0]) -> int:
    return int(index.match(array("Q", blocks), np.array([seat], np.int64)).held[0])


def take(step: Step, index: WritableIndex, model: Copies) -> None:
    """Do one operation to both, and compare what it answers."""
    seat, prompt = step.seat, path(step.leaf)
    if step.kind == "store":
        run = prompt[step.start : step.start + step.length]
        above = block(prompt[step.start - 1]) if step.start else None
        taken = index.store_run(seat, [block(position) for position in run], above, step.tier)
        if seat not in model.joined:
            assert taken == 0
        else:
            assert taken == len(run)
            model.counts.update((seat, step.tier, position) for position in run)
    elif step.kind == "remove":
        position = prompt[step.start]
        assert index.remove(seat, block(position), step.tier) is model.remove(seat, step.tier, position)
    elif step.kind == "purge":
        index.purge(step.amount)
    else:
        blocks = model.forget(seat)
        owned = None if step.amount > 15 else blocks[: step.amount]
        if step.kind == "clear":
            index.clear(seat, owned)
        elif seat in model.joined:
            index.leave(seat, owned)
            model.joined.remove(seat)
        else:
            index.join(seat)
            model.joined.add(seat)


def assert_equal(index: WritableIndex, model: Copies) -> None:
    asked = np.array(SEATS, np.int64)
    for prompt in PROMPTS:
        match = index.match(array("Q", [block(position) for position in prompt]), asked)
        told = list(zip(match.held.tolist(), match.slower.tolist(), strict=True))
        assert told == [model.runs(seat, prompt) for seat in SEATS]
