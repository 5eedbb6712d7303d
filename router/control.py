"""The operator's hand on the fleet: what the admin port's control routes ask for, over membership and seating."""

from __future__ import annotations

from router.config import ReplicaSettings
from router.discovery import static
from router.discovery.membership import Membership, Standing
from router.fleet.replica import ReplicaId
from router.seating import Seating


class Operator:
    """One per house. All but `standings` and `open_requests` raise UnknownReplica or Conflict."""

    def __init__(self, membership: Membership, seating: Seating) -> None:
        self._membership = membership
        self._seating = seating
        self.drain = membership.drain
        self.resume = membership.resume
        self.remove = membership.remove

    def add(self, settings: ReplicaSettings) -> None:
        (replica,) = static.replicas([settings])
        self._membership.add(replica)

    def standings(self) -> list[Standing]:
        return self._membership.standings()

    def open_requests(self, name: ReplicaId) -> int:
        return self._seating.open_requests(name)
