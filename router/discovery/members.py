"""Who a discovery source sees, and what became of the fleet between two looks at it. Pure.

A source tells *sightings*, each the whole of what it sees now, and the news `Joined`, `Draining`, `Resumed` and `Left`
are taken from the difference of two. So a source that lost its connection, started over or was told the same thing
twice says what is there, and nothing happens to a replica that has been there all along; a lost increment would be
wrong for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from router.fleet.replica import Replica, ReplicaId


@dataclass(frozen=True, slots=True)
class Member:
    """One server as a source tells of it. `draining`: it is to be sent nothing new, and finishes what it has."""

    replica: Replica
    draining: bool = False


Sighting: TypeAlias = Mapping[ReplicaId, Member]


@dataclass(frozen=True, slots=True)
class Joined:
    """It is there; or it is there otherwise than before, at another address say, which is another process."""

    replica: Replica


@dataclass(frozen=True, slots=True)
class Draining:
    name: ReplicaId


@dataclass(frozen=True, slots=True)
class Resumed:
    """It was draining and takes requests again."""

    name: ReplicaId


@dataclass(frozen=True, slots=True)
class Left:
    name: ReplicaId


News: TypeAlias = Joined | Draining | Resumed | Left


def sighting(*members: Member) -> Sighting:
    """The members by name. Raises ValueError for a name that stands there twice."""
    found: dict[ReplicaId, Member] = {}
    for member in members:
        if member.replica.id in found:
            raise ValueError(f"{member.replica.id} is named twice; give each replica its own id")
        found[member.replica.id] = member
    return found


def difference(before: Sighting, now: Sighting) -> list[News]:
    """What happened in between: who left, then who joined, in the order of `now`, then whose draining changed."""
    news: list[News] = [Left(name) for name in before if name not in now]
    drains: list[News] = []
    for name, member in now.items():
        known = before.get(name)
        is_new = known is None or known.replica != member.replica
        if is_new:
            news.append(Joined(member.replica))
        was_draining = known is not None and known.draining and not is_new
        if member.draining != was_draining:
            drains.append(Draining(name) if member.draining else Resumed(name))
    return news + drains
