"""What other routers tell, written where our decisions read it: their load into the ledger, their rates into ours."""

from __future__ import annotations

from router.fleet.ledger import Ledger
from router.fleet.rates import Rates
from router.fleet.replica import ReplicaId, Seat
from router.fleet.roster import Roster
from router.sharing.peers import Peers

SMALLEST_RATE_CHANGE = 0.01  # a share; less would make every decision look at all rates anew, for nothing


class Mirror:
    """Peers into ledger and rates. Call `reflect` after every change of peers, and now and then for the roster's."""

    def __init__(self, peers: Peers, roster: Roster, ledger: Ledger, rates: Rates) -> None:
        self._peers = peers
        self._roster = roster
        self._ledger = ledger
        self._rates = rates
        self._version = -1
        self._expected: dict[str, float] = {}

    def reflect(self) -> bool:
        """Returns whether any replica of ours has less of others' load than before: somebody may wait for its room."""
        changed = self._peers.take_changed()
        if self._version != self._roster.version:
            self._version = self._roster.version
            changed.update(self._roster.replica(seat).id for seat in self._roster.present())
        freed = False
        for replica in changed:
            seat = self._roster.seat_of(ReplicaId(replica))
            if seat is not None and self._roster.is_present(seat):
                freed |= self._write(seat, replica)
        return freed

    def learn(self) -> None:
        """Models start from what the others saw. Call when rates were told."""
        for model, rate in self._peers.rates().items():
            before = self._expected.get(model)
            if before is None or abs(rate - before) > SMALLEST_RATE_CHANGE * before:
                self._expected[model] = rate
                self._rates.expect(model, rate)

    def _write(self, seat: Seat, replica: str) -> bool:
        load, before = self._peers.load(replica), self._ledger.peer_requests(seat)
        self._ledger.peers(seat, load.requests, load.queued_tokens, load.context_tokens)
        return load.requests < before
