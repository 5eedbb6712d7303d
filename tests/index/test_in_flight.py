"""An identical prompt in flight is seen as long as it is there."""

from __future__ import annotations

from router.fleet.replica import Seat
from router.index.in_flight import InFlight

A, B = Seat(0), Seat(1)


def test_an_identical_prompt_in_flight_there_is_seen_until_it_left() -> None:
    in_flight = InFlight()
    assert not in_flight.enter(A, 7)
    assert not in_flight.enter(B, 7)
    assert in_flight.enter(A, 7)
    in_flight.leave(A, 7)
    assert in_flight.enter(A, 7)
    for seat in (A, A, B):
        in_flight.leave(seat, 7)
    assert len(in_flight) == 0
    assert not in_flight.enter(A, 7)
