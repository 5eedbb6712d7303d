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
            model.capacity_blocks = guessed.reach_blocks(HERE) or 0
            model.use(prompt)
        elif kind == "resize":
            guessed.guess(HERE, 4 * (told + 1))
            model.capacity_blocks = guessed.reach_blocks(HERE) or 0
            model.shrink()
        else:
            guessed.clear(HERE)
            index.purge(told)
            model.stamps.clear()
            model.capacity_blocks = guessed.reach_blocks(HERE) or 0
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


def prompt(number: int, blocks: int) -> array[int]:
    """A prompt of its own, shared with nobody."""
    return array("Q", [1000 * number + at for at in range(1, blocks + 1)])


def converse(guessed: Guessed, index: MemoryIndex, real: Guessed, truth: MemoryIndex, turns: int) -> tuple[int, int]:
    """Conversations come back in turn to a replica that really is `real`. Blocks predicted, and of them found."""
    predicted = found = 0
    for turn in range(turns):
        hashes = prompt(turn % 24, 8)
        guess, held = index.held_depth(HERE, hashes), truth.held_depth(HERE, hashes)
        guessed.sent(HERE, hashes)
        real.sent(HERE, hashes)
        guessed.reported(HERE, hashes, held, guess)
        predicted, found = predicted + guess, found + min(guess, held)
    return predicted, found


def replica(capacity_blocks: int) -> tuple[Guessed, MemoryIndex]:
    index = MemoryIndex(Budget(1 << 30))
    guessed = Guessed(index)
    guessed.guess(HERE, capacity_blocks)
    return guessed, index


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 256))
def test_a_guess_that_is_right_is_left_alone(capacity_blocks: int) -> None:
    (guessed, index), (real, truth) = replica(capacity_blocks), replica(capacity_blocks)
    predicted, found = converse(guessed, index, real, truth, 100)
    assert predicted == found
    assert guessed.reach_blocks(HERE) == capacity_blocks


def test_a_cache_under_pressure_is_believed_to_forget_sooner() -> None:
    """24 conversations of 8 blocks in turn need 192 blocks; the replica is told to have 200 and keeps 100 for us."""
    (guessed, index), (real, truth) = replica(200), replica(100)
    predicted, found = converse(guessed, index, real, truth, 48)
    assert predicted > found
    converse(guessed, index, real, truth, 24 * 10)
    reach = guessed.reach_blocks(HERE)
    assert reach is not None
    assert reach < 192
    predicted, found = converse(guessed, index, real, truth, 24 * 4)
    assert predicted <= 8 * 4  # what comes back is past the reach, and gone indeed


def test_when_the_pressure_ends_more_is_believed_again() -> None:
    (guessed, index), (real, truth) = replica(200), replica(100)
    converse(guessed, index, real, truth, 24 * 10)
    real.guess(HERE, 200)
    converse(guessed, index, real, truth, 24 * 10)
    predicted, found = converse(guessed, index, real, truth, 96)
    assert predicted == found == 8 * 96


@settings(max_examples=50, deadline=None)
@given(st.integers(16, 400), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)), max_size=60))
def test_reach_stays_between_a_sixteenth_of_the_size_and_the_size(
    capacity_blocks: int, reports: list[tuple[int, int]]
) -> None:
    guessed, index = replica(capacity_blocks)
    for number, held in reports:
        hashes = prompt(number, 8)
        guess = index.held_depth(HERE, hashes)
        guessed.sent(HERE, hashes)
        guessed.reported(HERE, hashes, held, guess)
        reach = guessed.reach_blocks(HERE)
        assert reach is not None
        assert max(1, capacity_blocks // 16) <= reach <= capacity_blocks
        assert index.held_blocks(HERE) <= reach
