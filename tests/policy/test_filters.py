"""Whom each filter keeps, and what it says of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.index.base import Trust
from router.policy.candidate import Candidates
from router.policy.filters import BoundedLoad, Filter, LongestMatch, NotOverloaded, SessionHome
from router.policy.pickers import Rendezvous
from tests.policy.makers import candidate, columns, turn


def keep(part: Filter, candidates: Candidates) -> tuple[list[int], str]:
    kept = part.keep(candidates, candidates.allowed.nonzero()[0])
    return kept.rows.tolist(), kept.rule


def test_a_bounded_load_sends_nothing_to_a_full_replica() -> None:
    candidates = columns(*(candidate(seat, open_requests=opened) for seat, opened in enumerate((10, 2, 2, 2))))
    assert keep(BoundedLoad(factor=1.25), candidates) == ([1, 2, 3], "bounded_load")


def test_a_bounded_load_says_nothing_while_the_fleet_is_even() -> None:
    candidates = columns(*(candidate(seat, open_requests=4) for seat in range(4)))
    assert keep(BoundedLoad(factor=1.25), candidates) == ([0, 1, 2, 3], "")


@given(st.lists(st.integers(0, 200), min_size=1, max_size=32), st.floats(1.0, 4.0))
def test_a_bounded_load_always_leaves_somebody(opened: list[int], factor: float) -> None:
    candidates = columns(*(candidate(seat, open_requests=count) for seat, count in enumerate(opened)))
    rows, _ = keep(BoundedLoad(factor), candidates)
    assert rows


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 8), st.sampled_from([1.0, 1.1, 1.25, 2.0]))
def test_consistent_hashing_never_loads_a_replica_beyond_its_bound(keys: list[int], count: int, factor: float) -> None:
    opened = [0] * count
    for key in keys:
        candidates = columns(*(candidate(seat, open_requests=opened[seat]) for seat in range(count)), prefix_key=key)
        kept = BoundedLoad(factor).keep(candidates, candidates.allowed.nonzero()[0])
        picked = Rendezvous().pick(candidates, np.zeros(count), kept.rows, turn())
        opened[picked.row] += 1
        assert opened[picked.row] <= math.ceil(factor * sum(opened) / count)


def test_an_overloaded_replica_is_one_whose_queue_takes_too_long_at_its_own_rate() -> None:
    candidates = columns(
        candidate(0, queued_tokens=16_000, tokens_per_second=1_000), candidate(1, queued_tokens=16_000), candidate(2)
    )
    assert keep(NotOverloaded(max_queue_seconds=5.0), candidates) == ([1, 2], "not_overloaded")


def test_longest_match_keeps_all_that_share_the_longest() -> None:
    candidates = columns(
        candidate(0, matched_tokens=2_048), candidate(1, matched_tokens=1_024), candidate(2, matched_tokens=2_048)
    )
    assert keep(LongestMatch(), candidates) == ([0, 2], "longest_match")


@pytest.mark.parametrize(("matched_tokens", "rule"), [(1_200, "short_match"), (1_201, "longest_match")])
def test_a_match_must_be_longer_than_its_share_of_the_prompt(matched_tokens: int, rule: str) -> None:
    candidates = columns(candidate(0, matched_tokens=matched_tokens), candidate(1), prompt_tokens=4_000)
    assert keep(LongestMatch(min_match_ratio=0.3), candidates)[1] == rule


def test_a_trusting_filter_follows_a_guess_in_full() -> None:
    candidates = columns(
        candidate(0, matched_tokens=2_000, trust=Trust.GUESSED), candidate(1, matched_tokens=1_500), prompt_tokens=4_000
    )
    assert keep(LongestMatch(), candidates) == ([1], "longest_match")
    assert keep(LongestMatch(trusting=True), candidates) == ([0], "longest_match")


@pytest.mark.parametrize(
    ("busiest", "idlest", "rule"),
    [
        (64, 0, "longest_match"),  # the difference is at its bound, not above it
        (65, 0, "imbalance"),
        (195, 130, "longest_match"),  # above the difference, at the ratio
        (196, 130, "imbalance"),
    ],
)
def test_the_guard_fires_above_both_bounds_and_keeps_everyone(busiest: int, idlest: int, rule: str) -> None:
    candidates = columns(
        candidate(0, matched_tokens=4_000, open_requests=busiest),
        candidate(1, open_requests=idlest),
        prompt_tokens=4_096,
    )
    rows, said = keep(LongestMatch(imbalance_requests=64, imbalance_ratio=1.5), candidates)
    assert said == rule
    assert rows == ([0, 1] if rule == "imbalance" else [0])


def test_a_busy_replica_that_may_not_be_chosen_unbalances_nobody() -> None:
    candidates = columns(
        candidate(0, open_requests=500, allowed=False),
        candidate(1, matched_tokens=4_000, open_requests=3),
        candidate(2),
    )
    assert keep(LongestMatch(), candidates) == ([1], "longest_match")


def test_a_session_goes_home() -> None:
    assert keep(SessionHome(), columns(candidate(3), candidate(5), session=5)) == ([1], "session_home")


@pytest.mark.parametrize(
    ("session", "rule"),
    [(None, "session_new"), (9, "session_home_gone"), (1, "session_home_gone"), (2, "session_home_overloaded")],
)
def test_a_session_without_a_home_fit_to_take_it_may_go_anywhere(session: int | None, rule: str) -> None:
    candidates = columns(candidate(0), candidate(1, allowed=False), candidate(2, queued_tokens=80_000), session=session)
    assert keep(SessionHome(max_queue_seconds=5.0), candidates) == ([0, 2], rule)
