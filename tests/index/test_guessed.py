"""The imagined cache equals an LRU that stamps every block of every prompt."""

from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from router.fleet.replica import Seat
from router.index.budget import Budget
from router.index.guessed import Guessed
from router.index.memory import MemoryIndex
from tests.index.contract import DEPTH, PROMPTS, block

HERE = Seat(3)


class StampedBlocks:
    """The model: the last use of each block; the least lately used goes first, of one prompt the deepest."""

    def __init__(self, capacity_blocks: int) -> None:
        self.capacity_blocks = capacity_blocks
        self.stamps: dict[int, tuple[int, int]] = {}
        self.now = 0

    def use(self, prompt: list[int]) -> None:
        self.now += 1
        for depth, position in enumerate(prompt[: self.capacity_blocks]):
            self.stamps[position] = (self.now, -depth)
        self.shrink()

    def shrink(self) -> None:
        while len(self.stamps) > self.capacity_blocks:
            del self.stamps[min(self.stamps, key=self.stamps.__getitem__)]

    def forget(self, position: int) -> None:
        if position in self.stamps:
            del self.stamps[position]
            for child in (2 * position + 1, 2 * position + 2):
                self.forget(child)

    def depth(self, prompt: list[int]) -> int:
        return next((depth for depth, position in enumerate(prompt) if position not in self.stamps), len(prompt))


steps = st.lists(
    st.tuples(
        st.sampled_from(("sent", "sent", "sent", "reported", "resize", "clear")),
        st.sampled_from(PROMPTS),
        st.integers(1, DEPTH),
        st.integers(0, DEPTH),
    ),
    min_size=3,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(capacity_blocks=st.integers(1, 24), steps=steps)
def test_the_imagined_cache_equals_an_lru_that_stamps_every_block(
    capacity_blocks: int, steps: list[tuple[str, list[int], int, int]]
) -> None:
    index = MemoryIndex(Budget(1 << 30))
    guessed, model = Guessed(index), StampedBlocks(capacity_blocks)
    guessed.guess(HERE, capacity_blocks)
    for kind, whole, length, told in steps:
        prompt = whole[:length]
        hashes = hashes_of(prompt)
        if kind == "sent":
            guessed.sent(HERE, hashes)
            model.use(prompt)
        elif kind == "reported":
            predicted, cached = model.depth(prompt), min(told, length)
            guessed.reported(HERE, hashes, cached, predicted)
            if cached < predicted:
                model.forget(prompt[cached])
            model.use(prompt)
        elif kind == "resize":
            model.capacity_blocks = 4 * (told + 1)
            guessed.guess(HERE, model.capacity_blocks)
            model.shrink()
        else:
            guessed.clear(HERE)
            index.purge(told)
            model.stamps.clear()
        for asked in PROMPTS:
            assert index.held_depth(HERE, hashes_of(asked)) == model.depth(asked)
    guessed.leave(HERE)
    while index.purge(5):
        pass
    assert (index.used_bytes, index.block_count) == (0, 0)


def hashes_of(prompt: list[int]) -> array[int]:
    return array("Q", [block(position) for position in prompt])


def test_a_report_of_fewer_blocks_forgets_what_hung_below_the_first_missing_one() -> None:
    index = MemoryIndex(Budget(1 << 30))
    guessed = Guessed(index)
    guessed.guess(HERE, 100)
    guessed.sent(HERE, array("Q", [1, 2, 3, 4]))
    guessed.sent(HERE, array("Q", [1, 2, 3, 7]))
    guessed.reported(HERE, array("Q", [1, 2, 3, 7]), 1, 3)
    assert index.held_depth(HERE, array("Q", [1, 2, 3, 4])) == 3
    assert index.held_depth(HERE, array("Q", [1, 2, 3, 7])) == 4


def test_a_report_of_more_blocks_than_guessed_is_learned() -> None:
    index = MemoryIndex(Budget(1 << 30))
    guessed = Guessed(index)
    guessed.guess(HERE, 100)
    guessed.reported(HERE, array("Q", [1, 2, 3, 4]), 3, 0)
    assert index.held_depth(HERE, array("Q", [1, 2, 3, 9])) == 3


def test_a_seat_that_is_not_guessed_is_left_alone() -> None:
    index = MemoryIndex(Budget(1 << 30))
    guessed = Guessed(index)
    index.join(HERE)
    guessed.sent(HERE, array("Q", [1, 2]))
    guessed.reported(HERE, array("Q", [1, 2]), 0, 2)
    guessed.clear(HERE)
    assert not guessed.guesses(HERE)
    assert index.held_depth(HERE, array("Q", [1, 2])) == 0
    guessed.guess(HERE, 5)
    guessed.sent(HERE, array("Q", [1, 2]))
    guessed.guess(HERE, None)
    assert index.held_depth(HERE, array("Q", [1, 2])) == 0
