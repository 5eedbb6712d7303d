"""What became of a fleet between two sightings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.discovery.members import Draining, Joined, Left, Member, Resumed, Sighting, difference, sighting
from router.fleet.replica import Replica, ReplicaId


def member(name: str, *, port: int = 8000, draining: bool = False) -> Member:
    return Member(Replica(ReplicaId(name), f"http://{name}:{port}"), draining)


members = st.builds(member, st.sampled_from("abcd"), port=st.sampled_from([1, 2]), draining=st.booleans())
sightings = st.lists(members, unique_by=lambda one: one.replica.id).map(lambda found: sighting(*found))


@given(sightings, sightings)
def test_whoever_follows_the_news_ends_with_what_is_seen(before: Sighting, now: Sighting) -> None:
    known = dict(before)
    for news in difference(before, now):
        match news:
            case Joined(replica):
                known[replica.id] = Member(replica)
            case Draining(name):
                known[name] = Member(known[name].replica, draining=True)
            case Resumed(name):
                assert known[name].draining
                known[name] = Member(known[name].replica)
            case Left(name):
                del known[name]
    assert known == now


@given(sightings)
def test_the_same_sighting_again_is_no_news(seen: Sighting) -> None:
    assert difference(seen, dict(seen)) == []


def test_another_address_under_the_same_name_is_another_process() -> None:
    moved = member("a", port=9000)
    assert difference(sighting(member("a")), sighting(moved)) == [Joined(moved.replica)]


def test_who_leaves_is_told_before_who_joins() -> None:
    news = difference(sighting(member("a")), sighting(member("b", draining=True)))
    assert news == [Left(ReplicaId("a")), Joined(member("b").replica), Draining(ReplicaId("b"))]


def test_a_name_that_stands_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="a is named twice"):
        sighting(member("a"), member("a", port=1))
