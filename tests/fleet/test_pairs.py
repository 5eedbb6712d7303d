"""Which pairs may carry requests, and how long each takes to hand over."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.pairs import (
    EXPECTED_FIXED_SECONDS,
    EXPECTED_TOKEN_SECONDS,
    MOST_TIMES_EXPECTED,
    Pairs,
)
from router.fleet.replica import IntArray, Seat

P, D, OTHER = Seat(0), Seat(1), Seat(30)


def seats(*numbers: int) -> IntArray:
    return np.array(numbers, dtype=np.int64)


def seconds(pairs: Pairs, tokens: float, donor: Seat = P, taker: Seat = D) -> float:
    return float(pairs.seconds_between(seats(donor), seats(taker), np.array([tokens])).item())


def test_a_pair_is_open_from_its_warm_up_until_either_side_restarts() -> None:
    pairs = Pairs()
    assert not pairs.is_open(P, D)
    pairs.opened(P, D)
    pairs.opened(OTHER, D)
    between = pairs.open_between(seats(P, D, OTHER), seats(P, D))
    assert between.tolist() == [[False, True], [False, False], [False, True]]
    pairs.forget(P)
    assert not pairs.is_open(P, D)
    assert pairs.is_open(OTHER, D)
    pairs.closed(OTHER, D)
    assert not pairs.is_open(OTHER, D)


def test_an_unknown_pair_takes_what_is_expected_of_one() -> None:
    assert seconds(Pairs(), 0) == EXPECTED_FIXED_SECONDS
    assert np.isclose(seconds(Pairs(), 8000), EXPECTED_FIXED_SECONDS + 8000 * EXPECTED_TOKEN_SECONDS)


@given(
    fixed=st.floats(0.001, 0.06),
    per_token=st.floats(0.000002, 0.00003),
    tokens=st.lists(st.integers(100, 30_000), min_size=40, max_size=60),
)
def test_what_a_pair_shows_is_what_it_is_expected_to_take(fixed: float, per_token: float, tokens: list[int]) -> None:
    pairs = Pairs()
    for count in (*tokens, 200, 8_000, 30_000, *tokens[:10], 200, 30_000):
        pairs.observe(P, D, tokens=count, seconds=fixed + count * per_token)
    for count in (200, 8_000, 30_000):
        expected, true = seconds(pairs, count), fixed + count * per_token
        assert expected >= 0
        assert abs(expected - true) <= 0.35 * true + 0.02


def test_pairs_learn_apart() -> None:
    pairs = Pairs()
    for _ in range(30):
        pairs.observe(P, D, tokens=8000, seconds=0.4)
    assert seconds(pairs, 8000) > 0.3
    assert seconds(pairs, 8000, taker=OTHER) < 0.12


def test_one_pause_counts_for_no_more_than_some_times_what_was_expected() -> None:
    paused, slow = Pairs(), Pairs()
    expected = seconds(paused, 1000)
    paused.observe(P, D, tokens=1000, seconds=60.0)
    slow.observe(P, D, tokens=1000, seconds=MOST_TIMES_EXPECTED * expected)
    assert seconds(paused, 1000) == seconds(slow, 1000)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 5)), max_size=30))
def test_no_pair_is_ever_expected_to_take_less_than_nothing(seen: list[tuple[int, float]]) -> None:
    pairs = Pairs()
    for tokens, took in seen:
        pairs.observe(P, D, tokens=tokens, seconds=took)
    fixed, per_token = pairs.figures(P, D)
    assert fixed >= 0
    assert per_token >= 0


def test_a_replica_that_restarts_is_unknown_again() -> None:
    pairs = Pairs()
    for _ in range(30):
        pairs.observe(P, D, tokens=8000, seconds=0.4)
    pairs.forget(D)
    assert pairs.figures(P, D) == (EXPECTED_FIXED_SECONDS, EXPECTED_TOKEN_SECONDS)
