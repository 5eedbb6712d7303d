from __future__ import annotations

import pytest

from router.clock import ManualClock
from router.gateway.readiness import Readiness


@pytest.mark.parametrize(
    ("healthy", "caught_up", "waited_seconds", "missing"),
    [
        (True, True, 0.0, 0),
        (False, True, 0.0, 1),
        (True, False, 0.0, 1),
        (False, False, 0.0, 2),
        (True, False, 10.0, 0),  # a cold index is no reason to refuse traffic for ever
        (False, True, 10.0, 1),
    ],
)
def test_traffic_may_come_when_a_replica_is_well_and_the_index_had_its_chance(
    healthy: bool, caught_up: bool, waited_seconds: float, missing: int
) -> None:
    clock = ManualClock()
    readiness = Readiness(clock, lambda: healthy, lambda: caught_up)
    clock.advance(waited_seconds)
    assert len(readiness.waiting_for()) == missing


def test_a_process_that_is_stopping_wants_no_more_traffic() -> None:
    readiness = Readiness(ManualClock(), lambda: True, lambda: True)
    assert not readiness.waiting_for()
    readiness.draining = True
    assert readiness.waiting_for()
