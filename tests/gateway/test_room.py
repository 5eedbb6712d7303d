"""How many more requests a model's replicas can take."""

from __future__ import annotations

from router.clock import ManualClock
from router.fleet.health import Health
from router.fleet.ledger import LeaseId, Ledger
from router.fleet.replica import Facts, Replica, ReplicaId, Seat, ServedModel
from router.fleet.roster import Roster
from router.gateway.room import Room


class Fleet:
    """Two replicas of one model, two requests each."""

    def __init__(self) -> None:
        self.roster, self.health, self.ledger = Roster(), Health(), Ledger()
        for name in "ab":
            seat = self.roster.join(Replica(ReplicaId(name), f"http://{name}"))
            self.roster.update(seat, Facts(models=(ServedModel("m", base="m"),)))
            self.health.join(seat)
        self.room = Room(self.roster, self.health, self.ledger, ManualClock(), most_per_replica=2)

    def open(self, seat: int) -> LeaseId:
        return self.ledger.open(
            Seat(seat),
            uncached_tokens=1,
            prompt_tokens=1,
            output_tokens_estimate=1,
            streamed=True,
            now_seconds=0.0,
            prefill_ends_at_seconds=0.0,
        )


def test_each_open_request_takes_a_slot_of_its_replica() -> None:
    fleet = Fleet()
    assert fleet.room("m") == 4
    for _ in range(3):
        fleet.open(0)
    assert fleet.room("m") == 2
    lease = fleet.open(1)
    fleet.open(1)
    assert fleet.room("m") == 0
    fleet.ledger.close(lease)
    assert fleet.room("m") == 1


def test_only_healthy_replicas_count() -> None:
    fleet = Fleet()
    fleet.health.drain(Seat(0))
    assert fleet.room("m") == 2


def test_with_nobody_to_serve_the_model_there_is_nothing_to_wait_for() -> None:
    fleet = Fleet()
    assert fleet.room("unheard of") is None
    fleet.health.drain(Seat(0))
    fleet.health.drain(Seat(1))
    assert fleet.room("m") is None
