from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest

from router.fleet.ledger import Ledger
from router.fleet.rates import Rates
from router.fleet.replica import Replica, ReplicaId, Seat
from router.fleet.roster import Roster
from router.index.budget import Budget
from router.index.memory import MemoryIndex
from router.index.open_blocks import OpenBlocks
from router.sharing.message import Lent, Rate, Row, Told, pack_hashes
from router.sharing.mirror import Mirror
from router.sharing.peers import Peers


class Scene:
    def __init__(self, *names: str) -> None:
        self.roster, self.ledger, self.rates, self.peers = Roster(), Ledger(), Rates(), Peers("one", "b")
        self.index, self.used = MemoryIndex(Budget(1 << 20)), OpenBlocks(1024)
        self.mirror = Mirror(self.peers, self.roster, self.ledger, self.rates, self.index.elsewhere, self.used)
        self.number = 0
        for name in names:
            self.join(name)

    def join(self, name: str) -> Seat:
        return self.roster.join(Replica(ReplicaId(name), f"http://{name}:8000"))

    def tell(self, *rows: tuple[str, int], rates: tuple[Rate, ...] = ()) -> bool:
        full = tuple(Row(name, count, 10 * count, 100 * count) for name, count in rows)
        self.peers.fold(Told("two", "b", self.number, True, full, rates), 0.0)
        self.number += 1
        return self.mirror.reflect()

    def seen(self, seat: int) -> tuple[float, float, float]:
        ledger = self.ledger
        return ledger.open_requests.item(seat), ledger.queued_tokens.item(seat), ledger.context_tokens.item(seat)


def test_decisions_see_the_load_of_others_on_the_seat_a_replica_has_here() -> None:
    scene = Scene("b", "a")
    assert not scene.tell(("a", 2))
    assert (scene.seen(1), scene.seen(0)) == ((2, 20, 200), (0, 0, 0))
    assert scene.ledger.own_requests(Seat(1)) == 0


def test_less_load_than_before_makes_room_that_somebody_may_wait_for() -> None:
    scene = Scene("a")
    scene.tell(("a", 2))
    assert not scene.tell(("a", 2))
    assert scene.tell(("a", 1))
    assert scene.tell()
    assert scene.seen(0) == (0, 0, 0)


def test_a_replica_that_comes_after_others_told_of_it_has_their_load_and_a_stranger_has_none() -> None:
    scene = Scene("a")
    scene.tell(("b", 3), ("nobody's", 5))
    seat = scene.join("b")
    scene.mirror.reflect()
    assert (scene.seen(seat), scene.seen(0)) == ((3, 30, 300), (0, 0, 0))


def test_a_replica_that_left_is_not_written_to_and_has_the_load_again_when_it_is_back() -> None:
    scene = Scene("a")
    scene.tell(("a", 3))
    scene.roster.leave(ReplicaId("a"))
    scene.ledger.peers(Seat(0), 0, 0, 0)  # as a seat is left
    scene.tell(("a", 4))
    assert scene.seen(0) == (0, 0, 0)
    scene.join("a")
    scene.mirror.reflect()
    assert scene.seen(0) == (4, 40, 400)


def test_a_newcomer_starts_from_the_rates_that_others_have_learned() -> None:
    scene = Scene("a")
    scene.tell(rates=(Rate("m", 40_000.0, 100),))
    scene.mirror.learn()
    assert scene.rates.tokens_per_second("m", np.array([0, 99])).tolist() == pytest.approx([40_000.0] * 2)
    version = scene.rates.version
    scene.tell(rates=(Rate("m", 40_001.0, 101),))
    scene.mirror.learn()
    assert scene.rates.version == version, "nothing worth looking at all rates anew"


def lent(lease: int, replica: str, *ends: int, first: int = 0) -> Lent:
    return Lent(lease, replica, 2, 32, 16, first, pack_hashes(array("Q", ends)))


def test_what_others_send_is_expected_on_the_seat_and_uses_its_cache_until_it_is_closed() -> None:
    scene = Scene("a", "b")
    for seat in (0, 1):
        scene.index.join(Seat(seat))
    prompt = array("Q", [1, 2, 3, 4, 5, 6])

    def expected() -> list[float]:
        return list(map(float, scene.index.match(prompt, np.array([0, 1])).expected))

    def tell(number: int, **said: Any) -> None:
        scene.peers.fold(Told("two", "b", number, False, **said), 0.0)
        scene.mirror.reflect()

    tell(0, lent=(lent(7, "b", 2, 4), lent(8, "nobody's", 2)))
    assert (expected(), scene.used.tokens_of(np.array([0, 1])).tolist()) == ([0, 4], [0, 80])
    tell(1, firsts=((7, 2),))  # events must have told
    assert (expected(), scene.used.tokens_of(np.array([0, 1])).tolist()) == ([0, 0], [0, 80])
    tell(2, closed=(7, 8))
    assert scene.used.tokens_of(np.array([0, 1])).tolist() == [0, 0]
    assert not scene.index.elsewhere


def test_fewer_queued_tokens_make_room_too() -> None:
    scene = Scene("a")
    scene.peers.fold(Told("two", "b", 0, True, (Row("a", 1, 9000, 0),)), 0.0)
    assert not scene.mirror.reflect()
    scene.peers.fold(Told("two", "b", 1, True, (Row("a", 1, 0, 9000),)), 0.1)
    assert scene.mirror.reflect()
