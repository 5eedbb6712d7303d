"""Round trips by seat."""

from __future__ import annotations

import numpy as np
import pytest

from router.fleet.latency import PRIOR_SECONDS, Latency
from router.fleet.replica import Seat


def test_a_fresh_replica_is_neither_free_nor_far() -> None:
    latency = Latency()
    latency.join(Seat(20))
    assert latency.seconds(np.array([0, 20])).tolist() == [PRIOR_SECONDS] * 2


def test_it_settles_on_what_the_probes_see() -> None:
    latency = Latency()
    for _ in range(60):
        latency.observe(Seat(1), 0.030)
    latency.join(Seat(0))
    assert latency.seconds(np.array([1])).item() == pytest.approx(0.030, rel=0.01)
    assert latency.seconds(np.array([0])).item() == PRIOR_SECONDS


def test_one_stalled_probe_moves_it_only_so_far() -> None:
    latency = Latency()
    for _ in range(60):
        latency.observe(Seat(0), 0.002)
    latency.observe(Seat(0), 30.0)
    assert latency.seconds(np.array([0])).item() < 0.004


def test_answers_in_no_time_at_all_do_not_freeze_it_at_nothing() -> None:
    latency = Latency()
    for _ in range(200):
        latency.observe(Seat(0), 0.0)
    for _ in range(60):
        latency.observe(Seat(0), 0.010)
    assert latency.seconds(np.array([0])).item() == pytest.approx(0.010, rel=0.01)
