from __future__ import annotations

import pytest

from loadtest.routers import unevenness
from router.sim.record import Record


def record(replica: str | None, at: float, total: float, tokens: int) -> Record:
    return Record("c", 0, at, 0.0, 200, None, 0.1, total, None, tokens, 0, 1, replica)


def test_load_spread_evenly_is_one_and_all_on_one_replica_is_as_many_as_there_are() -> None:
    even = [record("a", 0.0, 10.0, 100), record("b", 0.0, 10.0, 100)]
    assert unevenness(even, 2) == pytest.approx(1.0)
    assert unevenness(even[:1], 2) == pytest.approx(2.0)


def test_a_moment_counts_by_the_tokens_that_are_in_flight_then() -> None:
    # Ten seconds even with 200 tokens, ten with 100 on one replica of two.
    records = [record("a", 0.0, 20.0, 100), record("b", 0.0, 10.0, 100)]
    assert unevenness(records, 2) == pytest.approx((100 + 100) / (100 + 50), rel=0.01)
