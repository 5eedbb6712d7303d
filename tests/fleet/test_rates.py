"""Learned prefill rates (R 5.3)."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.rates import FASTEST_TOKENS_PER_SECOND, SLOWEST_TOKENS_PER_SECOND, Rates
from router.fleet.replica import Seat


def rate(rates: Rates, seat: int, model: str = "m") -> float:
    return rates.tokens_per_second(model, np.array([seat])).item()


def observe(rates: Rates, seat: int, tokens_per_second: float, times: int = 1) -> None:
    for _ in range(times):
        rates.observe(
            "m",
            Seat(seat),
            streamed=True,
            uncached_tokens=4096,
            ttft_seconds=4096 / tokens_per_second,
            predicted_queue_seconds=0.0,
        )


def test_a_model_never_seen_has_the_prior() -> None:
    rates = Rates()
    assert rates.tokens_per_second("m", np.array([0, 5, 300])).tolist() == [8000.0] * 3
    assert rates.model_tokens_per_second("m") == 8000.0


def test_a_model_learns_its_rate_and_a_fresh_replica_starts_there() -> None:
    rates = Rates()
    observe(rates, 0, 40_000, times=100)
    observe(rates, 1, 40_000, times=100)
    assert rate(rates, 0) == pytest.approx(40_000, rel=0.1)
    assert rate(rates, 7) == pytest.approx(40_000, rel=0.1)
    assert rate(rates, 7, "another") == 8000.0


def test_a_straggler_prices_itself_out_without_dragging_the_others() -> None:
    rates = Rates()
    for _ in range(30):
        for seat in range(4):
            observe(rates, seat, 2_000 if seat == 3 else 20_000)
    assert rate(rates, 3) < 4_000
    assert rate(rates, 0) == pytest.approx(20_000, rel=0.2)


def test_one_observation_moves_a_replica_only_a_little_from_its_model() -> None:
    rates = Rates()
    observe(rates, 0, 20_000, times=100)
    observe(rates, 1, 2_000)
    assert 12_000 < rate(rates, 1) < 20_000


def test_a_third_of_stalled_answers_does_not_move_the_rate() -> None:
    rates, chance = Rates(), Random(3)
    for _ in range(300):
        stalled = chance.random() < 0.3
        observe(rates, 0, (600 if stalled else 20_000) * chance.uniform(0.95, 1.05))
    assert rate(rates, 0) == pytest.approx(20_000, rel=0.1)


def test_a_replica_that_slows_down_is_known_within_its_window() -> None:
    rates = Rates()
    observe(rates, 0, 20_000, times=200)
    observe(rates, 1, 20_000, times=200)
    observe(rates, 1, 5_000, times=32)
    assert rate(rates, 1) < 8_000


@pytest.mark.parametrize(
    ("streamed", "uncached_tokens", "queue_seconds"),
    [(False, 4096, 0.0), (True, 511, 0.0), (True, 4096, 0.05)],
    ids=["not streamed", "too few tokens", "a queue of a tenth"],
)
def test_requests_that_cannot_tell_are_not_learned_from(
    streamed: bool, uncached_tokens: int, queue_seconds: float
) -> None:
    rates = Rates()
    assert not rates.observe(
        "m",
        Seat(0),
        streamed=streamed,
        uncached_tokens=uncached_tokens,
        ttft_seconds=0.5,
        predicted_queue_seconds=queue_seconds,
    )
    assert rate(rates, 0) == 8000.0


def test_a_short_queue_is_taken_off_the_time() -> None:
    rates = Rates()
    for _ in range(200):
        assert rates.observe(
            "m",
            Seat(0),
            streamed=True,
            uncached_tokens=1000,
            ttft_seconds=0.1,
            predicted_queue_seconds=0.009,
        )
    assert rate(rates, 0) == pytest.approx(1000 / 0.091, rel=0.02)


def test_a_time_of_nothing_is_not_learned_from() -> None:
    assert not Rates().observe(
        "m", Seat(0), streamed=True, uncached_tokens=1000, ttft_seconds=0.0, predicted_queue_seconds=0.0
    )


def test_a_restarted_replica_starts_at_its_models_rate_again() -> None:
    rates = Rates()
    observe(rates, 0, 20_000, times=100)
    observe(rates, 1, 2_000, times=20)
    rates.forget(Seat(1))
    rates.forget(Seat(99))
    assert rate(rates, 1) == pytest.approx(rates.model_tokens_per_second("m"))


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(1e-3, 1e12)), max_size=80))
def test_no_observation_leads_out_of_the_clamp(observations: list[tuple[int, float]]) -> None:
    rates = Rates()
    for seat, tokens_per_second in observations:
        observe(rates, seat, tokens_per_second)
    learned = rates.tokens_per_second("m", np.arange(8))
    assert learned.min() >= SLOWEST_TOKENS_PER_SECOND
    assert learned.max() <= FASTEST_TOKENS_PER_SECOND


def test_a_model_that_others_know_starts_there_and_soon_follows_what_is_seen_here() -> None:
    rates = Rates()
    rates.expect("m", 40_000.0)
    assert rate(rates, 0) == pytest.approx(40_000.0)
    assert rate(rates, 300) == pytest.approx(40_000.0)
    assert rates.observed() == []
    observe(rates, 0, 4_000, times=100)
    assert rate(rates, 0) == pytest.approx(4_000, rel=0.15)
    ((model, seen, count),) = rates.observed()
    assert (model, round(seen), count) == ("m", 4_000, 100)
    rates.expect("m", 4_000.0)
    assert rate(rates, 0) == pytest.approx(4_000)


def test_what_others_expect_stays_within_what_a_rate_can_be() -> None:
    rates = Rates()
    rates.expect("m", 1e9)
    assert rate(rates, 0) == pytest.approx(FASTEST_TOKENS_PER_SECOND)


def test_equal_replicas_have_one_rate_however_noisy_their_first_tokens() -> None:
    rates, chance = Rates(), Random(1)
    for _ in range(60):
        for seat in range(8):
            observe(rates, seat, 20_000 * chance.lognormvariate(0.0, 0.15))
    assert len({rate(rates, seat) for seat in range(8)}) == 1
