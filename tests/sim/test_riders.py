"""Requests that decode, as one: their counts are what counting each step would give."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.sim.riders import Rider, Riders, Stride


def rider(order: int, computed: int = 10) -> Rider:
    return Rider(known=computed + 1, computed=computed, order=order)


def test_riders_are_given_back_when_due_in_order_and_with_their_counts() -> None:
    riders = Riders[Rider]()
    late, second, first = rider(1), rider(3, computed=20), rider(2, computed=30)
    riders.mount(late, 5)
    riders.mount(second, 2)
    riders.mount(first, 2)
    assert riders.free_steps() == 2
    assert riders.advance(1) == []
    assert riders.context_tokens == 11 + 21 + 31
    assert riders.advance(1) == [first, second]
    assert (first.computed, first.known, first.answered) == (32, 33, 2)
    assert (riders.count, riders.context_tokens, riders.free_steps()) == (1, 12, 3)


def test_one_that_gets_off_early_is_never_due() -> None:
    riders = Riders[Rider]()
    one, other = rider(1), rider(2)
    riders.mount(one, 2)
    riders.mount(other, 4)
    riders.advance(1)
    riders.dismount(one)
    assert one.computed == 11
    assert riders.free_steps() == 3
    riders.dismount(one)
    assert riders.count == 1, "getting off twice is getting off once"
    riders.mount(one, 3)
    assert riders.advance(3) == [one, other]
    assert riders.advance(1) == []


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 50), st.integers(1, 4)), min_size=1, max_size=20))
def test_context_is_the_sum_of_what_each_has_computed(script: list[tuple[int, int, int]]) -> None:
    riders, by_hand = Riders[Rider](), list[tuple[Rider, int]]()
    for order, (steps, computed, wait) in enumerate(script):
        one = rider(order, computed)
        riders.mount(one, steps)
        by_hand.append((one, computed))
        for _ in range(wait):
            gone = riders.advance(1)
            by_hand = [(other, tokens + 1) for other, tokens in by_hand]
            assert all(other.computed == tokens for other, tokens in by_hand if other in gone)
            by_hand = [pair for pair in by_hand if pair[0] not in gone]
            assert riders.context_tokens == sum(tokens for _, tokens in by_hand)


def test_a_stride_is_cut_at_the_end_of_the_step_that_runs() -> None:
    stride = Stride(began=10.0, steps=8, first_seconds=1.0, longer_seconds=0.5)
    assert stride.seconds(3) == 1.0 + 1.5 + 2.0
    assert stride.steps_begun_by(10.0) == 1
    assert stride.steps_begun_by(12.4) == 2
    assert stride.steps_begun_by(12.5) == 2
    assert stride.steps_begun_by(99.0) == 8
