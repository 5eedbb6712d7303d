"""The breaker (R 2.4)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.health import BreakerLimits, Health, State
from router.fleet.replica import Seat

A, B = Seat(0), Seat(1)
BOTH = np.array([A, B])


def health(seats: int = 2, limits: BreakerLimits | None = None) -> Health:
    made = Health() if limits is None else Health(limits)
    for seat in range(seats):
        made.join(Seat(seat))
    return made


def fail(breakers: Health, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        breakers.failed(A, now)


def test_three_failures_in_a_row_open_one_replica_and_leave_the_others() -> None:
    breakers = health()
    fail(breakers, 2)
    assert breakers.allowed(BOTH, 0.0).tolist() == [True, True]
    fail(breakers, 1)
    assert breakers.allowed(BOTH, 0.0).tolist() == [False, True]
    assert breakers.state(A, 0.0) is State.OPEN


def test_a_success_between_starts_the_count_anew() -> None:
    breakers = health()
    for _ in range(5):
        fail(breakers, 2)
        breakers.succeeded(A, 0.0)
        breakers.succeeded(A, 0.0)
    assert breakers.state(A, 0.0) is State.CLOSED


def test_half_of_the_last_twenty_failing_opens() -> None:
    breakers = health()
    for turn in range(19):
        (breakers.failed if turn % 2 else breakers.succeeded)(A, 0.0)
    assert breakers.state(A, 0.0) is State.CLOSED
    breakers.failed(A, 0.0)
    assert breakers.state(A, 0.0) is State.OPEN


def test_only_the_last_twenty_count() -> None:
    breakers = health()
    for _ in range(100):
        breakers.succeeded(A, 0.0)
    for turn in range(18):
        (breakers.succeeded if turn % 2 else breakers.failed)(A, 0.0)
    assert breakers.state(A, 0.0) is State.CLOSED
    breakers.failed(A, 0.0)
    assert breakers.state(A, 0.0) is State.OPEN


def test_after_the_back_off_exactly_one_request_passes() -> None:
    breakers = health()
    fail(breakers, 3)
    assert not breakers.allowed(BOTH, 0.99)[A]
    assert breakers.allowed(BOTH, 1.0)[A]
    assert breakers.state(A, 1.0) is State.HALF_OPEN
    breakers.admit(A, 1.0)
    assert not breakers.allowed(BOTH, 1.0)[A]
    assert breakers.state(A, 1.0) is State.HALF_OPEN


def test_the_half_open_requests_success_closes() -> None:
    breakers = health()
    fail(breakers, 3)
    breakers.admit(A, 1.0)
    breakers.succeeded(A, 1.2)
    assert breakers.state(A, 1.2) is State.CLOSED
    fail(breakers, 2)
    assert breakers.state(A, 1.2) is State.CLOSED


def test_each_failed_trial_doubles_the_back_off_up_to_a_cap() -> None:
    breakers = health()
    now, waits = 0.0, []
    fail(breakers, 3)
    for _ in range(9):
        opened_at = now
        while not breakers.allowed(BOTH, now)[A]:
            now += 0.25
        waits.append(now - opened_at)
        breakers.admit(A, now)
        breakers.failed(A, now)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_replica_that_flaps_waits_longer_each_time_until_it_has_been_well_for_a_while() -> None:
    breakers = health()
    fail(breakers, 3)
    breakers.admit(A, 1.0)
    breakers.succeeded(A, 1.0)
    fail(breakers, 3, now=1.0)
    assert not breakers.allowed(BOTH, 2.5)[A]
    breakers.admit(A, 3.0)
    for _ in range(20):
        breakers.succeeded(A, 3.0)
    fail(breakers, 3, now=4.0)
    assert breakers.allowed(BOTH, 5.0)[A]


def test_an_abandoned_trial_gives_its_place_to_the_next_request() -> None:
    breakers = health()
    fail(breakers, 3)
    breakers.admit(A, 1.0)
    breakers.abandoned(A, 1.5)
    assert breakers.allowed(BOTH, 1.5)[A]
    breakers.admit(A, 1.5)
    assert not breakers.allowed(BOTH, 1.5)[A]


def test_abandoned_requests_say_nothing_about_a_closed_breaker() -> None:
    breakers = health()
    fail(breakers, 2)
    breakers.abandoned(A, 0.0)
    fail(breakers, 1)
    assert breakers.state(A, 0.0) is State.OPEN


def test_a_trial_that_is_never_reported_keeps_others_out_only_for_a_while() -> None:
    breakers = health()
    fail(breakers, 3)
    breakers.admit(A, 1.0)
    assert not breakers.allowed(BOTH, 30.9)[A]
    assert breakers.allowed(BOTH, 31.0)[A]


def test_late_results_do_not_move_an_open_breaker() -> None:
    breakers = health()
    fail(breakers, 10)
    breakers.succeeded(A, 0.5)
    assert breakers.state(A, 0.5) is State.OPEN
    assert breakers.allowed(BOTH, 1.0)[A]


def test_a_trials_failure_told_after_its_place_was_given_back_still_opens() -> None:
    breakers = health()
    fail(breakers, 3)
    breakers.admit(A, 1.0)
    breakers.abandoned(A, 1.1)
    breakers.failed(A, 1.2)
    assert breakers.state(A, 1.2) is State.OPEN


def test_a_hung_replica_is_found_by_its_probe_and_gets_nothing_until_a_probe_succeeds() -> None:
    breakers = health()
    breakers.probe_failed(A)
    assert breakers.allowed(BOTH, 0.0)[A]
    breakers.probe_failed(A)
    assert not breakers.allowed(BOTH, 1e9)[A]
    assert breakers.state(A, 1e9) is State.OPEN
    breakers.probe_succeeded(A, 1e9)
    assert breakers.state(A, 1e9) is State.CLOSED


def test_a_probe_does_not_close_what_requests_opened() -> None:
    breakers = health()
    fail(breakers, 3)
    breakers.probe_succeeded(A, 0.5)
    assert breakers.state(A, 0.5) is State.OPEN


def test_a_replica_back_from_the_dead_is_tried_at_once() -> None:
    breakers = health()
    fail(breakers, 3)
    breakers.probe_failed(A)
    breakers.probe_failed(A)
    breakers.probe_succeeded(A, 0.5)
    assert breakers.state(A, 0.5) is State.HALF_OPEN
    assert breakers.allowed(BOTH, 0.5)[A]


def test_a_draining_replica_gets_nothing_and_comes_back_as_it_was() -> None:
    breakers = health()
    breakers.drain(A)
    assert breakers.is_draining(A)
    assert breakers.allowed(BOTH, 0.0).tolist() == [False, True]
    breakers.drain(A, False)
    assert breakers.allowed(BOTH, 0.0).tolist() == [True, True]


def test_a_replica_that_left_gets_nothing_and_starts_clean_when_it_returns() -> None:
    breakers = health()
    fail(breakers, 3)
    breakers.leave(A)
    assert not breakers.allowed(BOTH, 1e9)[A]
    breakers.join(A)
    assert breakers.allowed(BOTH, 0.0)[A]


def test_nobody_is_healthy_before_anybody_was_heard_from() -> None:
    breakers = health()
    assert not breakers.any_healthy(0.0)
    breakers.probe_succeeded(A, 0.0)
    assert breakers.any_healthy(0.0)
    fail(breakers, 3)
    assert not breakers.any_healthy(0.0)
    assert breakers.any_healthy(1.0)
    breakers.drain(A)
    assert not breakers.any_healthy(1.0)


def test_the_wait_told_to_a_client_is_the_soonest_trial_within_bounds() -> None:
    breakers = health(limits=BreakerLimits(first_open_seconds=7.0))
    fail(breakers, 3)
    assert breakers.retry_after_seconds(np.array([A]), 2.0) == pytest.approx(5.0)
    assert breakers.retry_after_seconds(np.array([A]), 6.9) == 1.0
    breakers.leave(A)
    assert breakers.retry_after_seconds(np.array([A]), 0.0) == 2.0  # nobody there: the next probe may tell otherwise
    assert breakers.retry_after_seconds(np.array([], dtype=np.int64), 0.0) == 2.0


steps = st.sampled_from(["admit", "succeeded", "failed", "abandoned", "probe_succeeded", "probe_failed", "wait"])


@given(st.lists(steps, max_size=60))
def test_whatever_happened_good_news_brings_a_replica_back_within_the_longest_back_off(taken: list[str]) -> None:
    breakers = health()
    now = 0.0
    for step in taken:
        if step == "wait":
            now += 0.7
        elif step == "probe_failed":
            breakers.probe_failed(A)
        else:
            getattr(breakers, step)(A, now)
    breakers.probe_succeeded(A, now)
    now += 60.0
    assert breakers.allowed(BOTH, now)[A]
    breakers.admit(A, now)
    breakers.succeeded(A, now)
    assert breakers.state(A, now) is State.CLOSED
    assert breakers.allowed(BOTH, now)[A]


def test_only_the_trial_itself_gives_its_place_to_the_next() -> None:
    health = Health()
    health.join(Seat(0))
    for _ in range(3):
        health.failed(Seat(0), 0.0)
    assert health.admit(Seat(0), 2.0)
    health.abandoned(Seat(0), 2.1, trial=False)  # an older request's client hung up
    assert not health.allowed(np.array([0]), 2.2)[0]
    health.abandoned(Seat(0), 2.3, trial=True)
    assert health.allowed(np.array([0]), 2.4)[0]


def test_a_fleet_is_calm_while_nothing_keeps_any_replica_out() -> None:
    health = Health()
    for seat in (Seat(0), Seat(1)):
        health.join(seat)
    assert health.calm
    health.drain(Seat(1))
    assert not health.calm
    health.drain(Seat(1), draining=False)
    assert health.calm
