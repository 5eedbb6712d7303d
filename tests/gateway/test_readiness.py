from __future__ import annotations

import pytest

from router.clock import ManualClock
from router.gateway.readiness import CaughtUp, Readiness

WHOLE, BEHIND, UNHEARD = CaughtUp(True, 1.0), CaughtUp(True, 0.4), CaughtUp(False, 0.0)


@pytest.mark.parametrize(
    ("healthy", "replica", "waited_seconds", "missing"),
    [
        (True, WHOLE, 0.0, 0),
        (False, WHOLE, 0.0, 1),
        (True, UNHEARD, 0.0, 1),
        (False, UNHEARD, 0.0, 2),
        (True, UNHEARD, 10.0, 0),  # a cold index is no reason to refuse traffic for ever
        (False, WHOLE, 10.0, 1),
        (True, BEHIND, 0.0, 0),  # how much of the cache is known is nothing to wait for unless configured
    ],
)
def test_traffic_may_come_when_a_replica_is_well_and_the_index_had_its_chance(
    healthy: bool, replica: CaughtUp, waited_seconds: float, missing: int
) -> None:
    clock = ManualClock()
    readiness = Readiness(clock, lambda: healthy, lambda: [WHOLE, replica])
    clock.advance(waited_seconds)
    assert len(readiness.waiting_for()) == missing


def test_a_coverage_may_be_waited_for_with_a_deadline() -> None:
    clock = ManualClock()
    replicas = [WHOLE, BEHIND]
    readiness = Readiness(clock, lambda: True, lambda: replicas, coverage_ratio=0.9, wait_seconds=30.0)
    clock.advance(29.0)
    assert readiness.waiting_for() == ["a coverage of 0.9; the replica furthest behind has 0.40"]
    assert (readiness.coverage_ratio(), readiness.waits_still_seconds()) == (0.4, 1.0)
    replicas[1] = CaughtUp(True, 0.95)
    assert not readiness.waiting_for()
    replicas[1] = BEHIND
    clock.advance(1.0)
    assert not readiness.waiting_for()


def test_a_process_that_is_stopping_wants_no_more_traffic() -> None:
    readiness = Readiness(ManualClock(), lambda: True, list)
    assert not readiness.waiting_for()
    readiness.draining = True
    assert readiness.waiting_for()
