"""Who is in the fleet, by whose word."""

from __future__ import annotations

import pytest

from router.discovery.members import Member, Sighting, sighting
from router.discovery.membership import Membership
from router.errors import Conflict, UnknownReplica
from router.fleet.replica import Replica, ReplicaId
from tests.discovery.test_members import member

A, B = ReplicaId("a"), ReplicaId("b")


class Fleet:
    """Remembers what was done to it, and who is in it, draining or not."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.draining: dict[ReplicaId, bool] = {}

    def join(self, replica: Replica) -> None:
        self.done.append(f"join {replica.url}")
        self.draining[replica.id] = False

    def drain(self, name: ReplicaId, draining: bool) -> None:
        self.done.append(f"{'drain' if draining else 'resume'} {name}")
        self.draining[name] = draining

    def leave(self, name: ReplicaId) -> None:
        self.done.append(f"leave {name}")
        del self.draining[name]


class Scene:
    def __init__(self) -> None:
        self.fleet, self.said = Fleet(), list[str]()
        self.membership = Membership(self.fleet, self.said.append)

    def seen(self, source: str, *members: Member) -> Sighting:
        told = sighting(*members)
        self.membership.seen(source, told)
        return told

    @property
    def there(self) -> dict[ReplicaId, bool]:
        return self.fleet.draining


def test_the_fleet_is_what_all_sources_see_together() -> None:
    scene = Scene()
    scene.seen("config", member("a"))
    scene.seen("file", member("b"), member("c"))
    scene.seen("file", member("c"))
    assert scene.there == {"a": False, "c": False}
    assert scene.membership.counts() == {"operator": 0, "config": 1, "file": 1}


def test_a_name_told_twice_belongs_to_the_first_and_that_is_said_once() -> None:
    scene = Scene()
    scene.seen("config", member("a"))
    for _ in range(2):
        scene.seen("file", member("a", port=9000))
    assert scene.fleet.done == ["join http://a:8000"]
    assert [line for line in scene.said if "told by config and by file" in line] == scene.said
    assert len(scene.said) == 1


def test_when_the_first_stops_telling_of_it_the_seconds_word_counts() -> None:
    scene = Scene()
    scene.seen("kubernetes", member("a"))
    scene.seen("file", member("a", port=9000))
    scene.seen("kubernetes")
    assert scene.fleet.done == ["join http://a:8000", "join http://a:9000"]


def test_a_drain_by_hand_outlives_an_absence_and_ends_by_hand() -> None:
    scene = Scene()
    scene.seen("kubernetes", member("a"))
    scene.membership.drain(A)
    scene.seen("kubernetes")
    scene.seen("kubernetes", member("a"))
    assert scene.there == {"a": True}
    scene.membership.resume(A)
    assert scene.there == {"a": False}


def test_a_drain_that_the_source_demands_cannot_be_taken_back_by_hand() -> None:
    scene = Scene()
    scene.seen("kubernetes", member("a", draining=True))
    scene.membership.resume(A)
    assert scene.there == {"a": True}


def test_removed_by_hand_stays_away_though_its_source_tells_of_it_until_resumed() -> None:
    scene = Scene()
    scene.seen("config", member("a"), member("b"))
    scene.membership.remove(A)
    scene.seen("config", member("a"), member("b"))
    assert scene.there == {"b": False}
    (standing,) = [one for one in scene.membership.standings() if one.name == A]
    assert standing.removed_by_operator
    with pytest.raises(Conflict, match="resume it"):
        scene.membership.add(member("a").replica)
    scene.membership.resume(A)
    assert scene.there == {"b": False, "a": False}


def test_added_by_hand_it_is_there_once_and_removed_it_is_gone() -> None:
    scene = Scene()
    scene.membership.add(member("a").replica)
    with pytest.raises(Conflict, match="told by operator already; give another id"):
        scene.membership.add(member("a", port=1).replica)
    scene.membership.remove(A)
    assert scene.fleet.done == ["join http://a:8000", "leave a"]
    assert scene.membership.standings() == []


def test_a_name_nobody_knows_is_refused_with_those_that_are_known() -> None:
    scene = Scene()
    scene.seen("config", member("a"))
    for act in (scene.membership.drain, scene.membership.resume, scene.membership.remove):
        with pytest.raises(UnknownReplica, match=r"No replica is called b\. Known: a\."):
            act(B)
