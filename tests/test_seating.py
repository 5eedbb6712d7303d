"""Seats of replicas that come and go: given back, and then another's."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import cast

import numpy as np

from router.clock import ManualClock
from router.config import Config
from router.events.ingest import Ingest
from router.events.silence import Silence
from router.fleet.health import Health
from router.fleet.latency import PRIOR_SECONDS, Latency
from router.fleet.ledger import Ledger
from router.fleet.newcomers import Newcomers
from router.fleet.pairs import Pairs
from router.fleet.rates import Rates
from router.fleet.replica import Replica, ReplicaId, Seat
from router.fleet.roster import Roster
from router.fleet.sessions import Sessions
from router.gateway.admission import Admission
from router.gateway.misses import Misses
from router.gateway.trust import EffectiveTrust
from router.index.accuracy import Accuracy
from router.index.base import Trust
from router.index.budget import Budget
from router.index.counters import Counters
from router.index.guessed import Guessed
from router.index.memory import MemoryIndex
from router.metrics import Metrics
from router.seating import KEPT_SECONDS, Rooms, Seating


class House:
    """All rooms of seats. Admission is not asked here."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        index, accuracy, silence = MemoryIndex(Budget(1 << 20)), Accuracy(), Silence()
        ingest, counters = Ingest(index, hash_seed=0), Counters(accuracy)
        self.rooms = Rooms(
            roster=Roster(),
            health=Health(),
            ledger=Ledger(),
            latency=Latency(),
            newcomers=Newcomers(),
            rates=Rates(),
            sessions=Sessions(),
            accuracy=accuracy,
            counters=counters,
            trust=EffectiveTrust(ingest, accuracy, lambda *_: None),
            ingest=ingest,
            guessed=Guessed(index),
            silence=silence,
            admission=cast(Admission, SimpleNamespace(nudge=lambda: None)),
            metrics=Metrics(),
            misses=Misses(index, ingest, accuracy, counters, silence),
            pairs=Pairs(),
            upstreams={},
        )
        self.seating = Seating(Config.model_construct(), self.rooms, self.clock)

    def sit(self, name: str) -> Seat:
        return self.seating.sit(Replica(ReplicaId(name), f"http://{name}:8000"), ())

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.seating.sweep()


def test_a_replica_that_returns_soon_has_its_old_seat() -> None:
    house = House()
    seat = house.sit("a")
    house.seating.rise(seat)
    house.later(KEPT_SECONDS / 2)
    assert house.sit("a") == seat
    house.later(KEPT_SECONDS)
    assert house.rooms.roster.is_present(seat)


def test_a_seat_is_anothers_only_after_the_last_request_there_has_ended_and_a_while_has_gone_by() -> None:
    house = House()
    seat = house.sit("a")
    lease = house.rooms.ledger.open(
        seat, uncached_tokens=10, prompt_tokens=10, output_tokens_estimate=1, streamed=True, now_seconds=0.0,
        prefill_ends_at_seconds=0.0,
    )  # fmt: skip
    house.seating.rise(seat)
    house.later(10 * KEPT_SECONDS)
    assert house.sit("b") != seat
    house.rooms.ledger.close(lease)
    house.later(0.0)
    assert house.sit("c") != seat
    house.later(KEPT_SECONDS)
    assert house.sit("d") == seat


def test_whoever_takes_a_seat_begins_without_a_past() -> None:
    house = House()
    rooms, seat = house.rooms, house.sit("a")
    rooms.latency.observe(seat, 0.004)
    rooms.accuracy.judge(seat, predicted_tokens=64, reported_tokens=0, block_size_tokens=16, stream=Trust.EXACT)
    rooms.rates.observe("m", seat, streamed=True, uncached_tokens=1000, ttft_seconds=0.01, predicted_queue_seconds=0.0)
    rooms.pairs.opened(seat, Seat(7))
    house.seating.rise(seat)
    rooms.sessions.bind("talk", seat, house.clock.now())  # by an answer that came after it had left
    house.later(KEPT_SECONDS)
    assert house.sit("b") == seat
    assert rooms.latency.seconds(np.array([seat])).tolist() == [PRIOR_SECONDS]
    assert (int(rooms.accuracy.judged[seat]), rooms.accuracy.truth(seat)) == (0, Trust.EXACT)
    assert rooms.sessions.get("talk", house.clock.now()) is None
    assert not rooms.pairs.open_between(np.array([seat]), np.array([7])).any()
    assert rooms.rates.tokens_per_second("m", np.array([seat]))[0] == rooms.rates.model_tokens_per_second("m")


def test_a_fleet_that_rolls_for_a_year_has_no_more_seats_than_replicas_at_one_time() -> None:
    house, rng = House(), Random(1)
    here = {f"pod-{number}": house.sit(f"pod-{number}") for number in range(4)}
    for number in range(4, 400):
        gone = rng.choice(sorted(here))
        house.seating.rise(here.pop(gone))
        house.later(KEPT_SECONDS)
        here[f"pod-{number}"] = house.sit(f"pod-{number}")
    assert max(here.values()) < 8
    assert len(house.rooms.roster.present()) == 4
