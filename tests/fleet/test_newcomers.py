"""How much a replica that has just come may be given."""

from __future__ import annotations

import numpy as np
import pytest

from router.fleet.newcomers import Newcomers
from router.fleet.replica import Seat

RAMP = 30.0
SEATS = np.array([0, 1, 2])
NEW = Seat(2)


def fleet(*, new_at: float = 100.0) -> Newcomers:
    """Two replicas that came at 0 and a third that came later."""
    newcomers = Newcomers(RAMP)
    for seat, at in ((Seat(0), 0.0), (Seat(1), 0.0), (NEW, new_at)):
        newcomers.came(seat, at)
    return newcomers


def may_take(
    newcomers: Newcomers,
    now: float,
    *,
    busy: tuple[int, int, int] = (10, 10, 0),
    warm: tuple[int, int, int] = (0, 0, 0),
    allowed: tuple[bool, bool, bool] = (True, True, True),
) -> list[int]:
    eased = newcomers.eased(
        SEATS, np.array(allowed), np.array(busy, dtype=np.float64), np.array(warm, dtype=np.float64), now
    )
    return [int(seat) for seat in SEATS[eased]]


def test_a_newcomer_gets_one_request_at_once_and_its_share_grows_with_time() -> None:
    newcomers = fleet()
    most = []
    for now in (100.0, 107.5, 115.0, 122.5, 129.9):
        taken = 0
        while NEW in may_take(newcomers, now, busy=(10, 10, taken)):
            taken += 1
        most.append(taken)
    assert most == [1, 3, 6, 9, 11]


def test_after_the_ramp_nothing_is_said() -> None:
    newcomers = fleet()
    assert newcomers.settled_at_seconds == 130.0
    assert may_take(newcomers, 130.0, busy=(0, 0, 50)) == [0, 1, 2]


def test_a_prompt_that_is_warmest_at_the_newcomer_goes_there_however_busy_it_is() -> None:
    newcomers = fleet()
    assert may_take(newcomers, 101.0, busy=(10, 10, 5), warm=(512, 0, 1024)) == [0, 1, 2]
    assert may_take(newcomers, 101.0, busy=(10, 10, 5), warm=(1024, 0, 1024)) == [0, 1]


def test_where_nobody_is_settled_everyone_takes_all() -> None:
    newcomers = fleet(new_at=10.0)
    assert may_take(newcomers, 20.0, busy=(0, 0, 9)) == [0, 1, 2]


def test_where_no_settled_one_is_left_the_newcomer_takes_what_there_is() -> None:
    newcomers = fleet()
    assert may_take(newcomers, 101.0, busy=(10, 10, 9), allowed=(False, False, True)) == [2]


def test_a_restarted_replica_is_a_newcomer_again() -> None:
    newcomers = fleet()
    newcomers.came(Seat(0), 200.0)
    assert may_take(newcomers, 201.0, busy=(1, 10, 10)) == [1, 2]


@pytest.mark.parametrize("now", [0.0, 1e6])
def test_a_ramp_of_nothing_makes_nobody_a_newcomer(now: float) -> None:
    newcomers = Newcomers(0.0)
    newcomers.came(Seat(0), now)
    assert newcomers.settled_at_seconds < now


def test_another_ramp_holds_also_for_who_has_come_already() -> None:
    newcomers = Newcomers(RAMP)
    newcomers.came(Seat(0), 100.0)
    newcomers.heed(2 * RAMP)
    assert newcomers.settled_at_seconds == 100.0 + 2 * RAMP
    newcomers.heed(0.0)
    assert newcomers.settled_at_seconds < 0.0, "nobody is new"
    newcomers.came(Seat(1), 101.0)
    assert newcomers.settled_at_seconds < 0.0
