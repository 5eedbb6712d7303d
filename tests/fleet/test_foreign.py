from __future__ import annotations

import pytest

from router.fleet.foreign import Foreign
from router.fleet.ledger import LeaseId, Ledger
from router.fleet.replica import Seat

SEAT = Seat(0)


class Scene:
    """A ledger with some leases of ours on one seat."""

    def __init__(self, places: int = 100) -> None:
        self.ledger = Ledger()
        self.ledger.join(SEAT)
        self.foreign = Foreign(SEAT, self.ledger, places)
        self.leases: list[LeaseId] = []

    def send(self, count: int) -> None:
        for _ in range(count):
            self.leases.append(
                self.ledger.open(
                    SEAT,
                    uncached_tokens=10,
                    prompt_tokens=10,
                    output_tokens_estimate=1,
                    streamed=True,
                    now_seconds=0.0,
                    prefill_ends_at_seconds=0.0,
                )
            )

    def end(self, count: int) -> None:
        for _ in range(count):
            self.ledger.close(self.leases.pop())

    @property
    def seen(self) -> int:
        return int(self.ledger.open_requests[SEAT])


def test_what_a_replica_runs_beyond_our_own_leases_is_foreign_and_counts_as_open() -> None:
    scene = Scene()
    scene.send(3)
    assert scene.foreign.told(7) == 4
    assert (scene.seen, scene.ledger.own_requests(SEAT), scene.ledger.foreign_requests(SEAT)) == (7, 3, 4)
    scene.send(1)
    assert scene.foreign.told(8) == 4
    assert scene.seen == 8
    scene.end(4)
    scene.foreign.told(4)
    scene.foreign.told(4)
    assert (scene.foreign.told(4), scene.seen) == (4, 4)
    scene.foreign.silent()
    assert scene.seen == 0


@pytest.mark.parametrize("told", [0, 5, 10])
def test_requests_of_ours_that_have_just_ended_are_not_taken_for_foreign_ones(told: int) -> None:
    scene = Scene()
    scene.send(10)
    scene.end(10)
    assert scene.foreign.told(told) == 0
    assert scene.foreign.told(told) == 0, "a figure may be a whole round old"
    assert scene.foreign.told(told) == told


def test_requests_of_ours_that_have_just_begun_hide_foreign_load_and_never_invent_any() -> None:
    scene = Scene()
    assert scene.foreign.told(2) == 2
    scene.send(5)
    assert scene.foreign.told(2) == 0  # the figure is from before they arrived, or they are in it: it cannot be told
    assert scene.seen == 5
    assert scene.foreign.told(7) == 2


def test_foreign_load_never_fills_a_replica_by_itself() -> None:
    scene = Scene(places=8)
    assert scene.foreign.told(1000) == 4


def test_a_ledger_that_grows_keeps_its_foreign_load() -> None:
    scene = Scene()
    scene.foreign.told(2)
    scene.ledger.join(Seat(100))
    scene.ledger.foreign(Seat(100), 3)
    assert (scene.seen, scene.ledger.own_requests(Seat(100))) == (2, 0)


def test_what_other_routers_tell_of_is_not_foreign_as_well() -> None:
    scene = Scene()
    scene.send(2)
    scene.ledger.peers(SEAT, 3, 0, 0)
    assert (scene.foreign.told(7), scene.seen) == (2, 7)
    scene.ledger.peers(SEAT, 0, 0, 0)
    assert scene.foreign.told(4) == 0, "the figure may be of the moment before theirs ended"
    assert (scene.foreign.told(4), scene.foreign.told(4)) == (0, 2)
