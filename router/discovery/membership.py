"""Who is in the fleet, by whose word: several discovery sources, and the operator at the admin port. Pure.

Each source tells what it sees (`seen`), and the operator adds, drains and removes. The fleet is

    what the operator added, then what each source sees, in the order in which they first spoke,
    less what the operator removed, draining what its source or the operator says is draining.

A name belongs to the first that tells it; whoever tells it second is told so, once. The operator's word holds until
the operator takes it back, also over a replica's absence: a pod that was drained by hand and was not ready for a moment
does not come back into traffic by itself.

A source that is lost changes nothing: the fleet stays as it was last seen. Engines that died are found by their probes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from router.discovery.members import Draining, Joined, Left, Member, Resumed, Sighting, difference
from router.errors import Conflict, UnknownReplica
from router.fleet.replica import Replica, ReplicaId

OPERATOR = "operator"


class Fleet(Protocol):
    """What follows when a server joins, drains or leaves. Called in one stretch for all the news of one sighting."""

    def join(self, replica: Replica) -> None: ...
    def drain(self, name: ReplicaId, draining: bool) -> None: ...
    def leave(self, name: ReplicaId) -> None: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """One server and the words that hold for it."""

    name: ReplicaId
    url: str
    source: str
    draining: bool
    drained_by_operator: bool
    removed_by_operator: bool


class Membership:
    """Changed by sources, through `seen`, and by the operator."""

    def __init__(self, fleet: Fleet, say: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._say = say
        self._seen: dict[str, Sighting] = {OPERATOR: {}}
        self._drained: set[ReplicaId] = set()
        self._removed: set[ReplicaId] = set()
        self._now: Sighting = {}
        self._contested: set[tuple[str, ReplicaId]] = set()

    def seen(self, source: str, sighting: Sighting) -> None:
        """All that the source sees now."""
        self._seen[source] = sighting
        self._settle()

    # What the operator says

    def add(self, replica: Replica) -> None:
        """Raises Conflict for a name that is there, or that a source tells of."""
        for source, told in self._seen.items():
            if replica.id in told:
                remedy = "resume it" if replica.id in self._drained | self._removed else "give another id"
                raise Conflict(f"{replica.id} is told by {source} already; {remedy}.", code="replica_exists")
        self._removed.discard(replica.id)
        self._drained.discard(replica.id)
        self.seen(OPERATOR, {**self._seen[OPERATOR], replica.id: Member(replica)})

    def drain(self, name: ReplicaId) -> None:
        """Nothing new is sent there from now on; what is under way ends. Raises UnknownReplica."""
        self._known(name)
        self._drained.add(name)
        self._settle()

    def resume(self, name: ReplicaId) -> None:
        """Take back a drain or a removal. A drain that its source demands stays. Raises UnknownReplica."""
        if name not in self._removed | self._drained:
            self._known(name)
        self._removed.discard(name)
        self._drained.discard(name)
        self._settle()

    def remove(self, name: ReplicaId) -> None:
        """It is forgotten; what is under way there ends. Raises UnknownReplica."""
        self._known(name)
        self._drained.discard(name)
        added = dict(self._seen[OPERATOR])
        if added.pop(name, None) is None:
            self._removed.add(name)  # its source goes on telling of it
        self.seen(OPERATOR, added)

    # What is asked

    def standings(self) -> list[Standing]:
        """Every server that is told of, those removed by the operator included."""
        return [
            Standing(
                name=name,
                url=member.replica.url,
                source=source,
                draining=member.draining or name in self._drained,
                drained_by_operator=name in self._drained,
                removed_by_operator=name in self._removed,
            )
            for name, (source, member) in self._told().items()
        ]

    def counts(self) -> Mapping[str, int]:
        """How many servers each source tells of."""
        return {source: len(told) for source, told in self._seen.items()}

    # Parts

    def _known(self, name: ReplicaId) -> None:
        if name not in self._now:
            raise UnknownReplica(f"No replica is called {name}. Known: {_listed(self._now)}.", code="no_such_replica")

    def _told(self) -> dict[ReplicaId, tuple[str, Member]]:
        told: dict[ReplicaId, tuple[str, Member]] = {}
        contested: set[tuple[str, ReplicaId]] = set()
        for source, members in self._seen.items():
            for name, member in members.items():
                owner = told.setdefault(name, (source, member))[0]
                if owner != source:
                    contested.add((source, name))
                    if (source, name) not in self._contested:
                        self._say(f"{name}: told by {owner} and by {source}; what {owner} tells counts")
        self._contested = contested
        return told

    def _settle(self) -> None:
        now = {
            name: Member(member.replica, member.draining or name in self._drained)
            for name, (_, member) in self._told().items()
            if name not in self._removed
        }
        news, self._now = difference(self._now, now), now
        for one in news:
            match one:
                case Joined(replica):
                    self._fleet.join(replica)
                case Draining(name):
                    self._say(f"{name}: drains; it is sent nothing new")
                    self._fleet.drain(name, True)
                case Resumed(name):
                    self._say(f"{name}: takes requests again")
                    self._fleet.drain(name, False)
                case Left(name):
                    self._say(f"{name}: has left")
                    self._fleet.leave(name)


def _listed(names: Iterable[ReplicaId]) -> str:
    return ", ".join(sorted(names)) or "none"
