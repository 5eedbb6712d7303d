"""What other routers tell, written where our decisions read it: their load into the ledger, their rates into ours, and
what their requests use of caches, and will put there, beside what ours do."""

from __future__ import annotations

from router.fleet.ledger import Ledger
from router.fleet.rates import Rates
from router.fleet.replica import ReplicaId, Seat
from router.fleet.roster import Roster
from router.index.elsewhere import LentElsewhere
from router.index.open_blocks import OpenBlocks
from router.sharing.peers import Peers

SMALLEST_RATE_CHANGE = 0.01  # a share; less would make every decision look at all rates anew, for nothing


class Mirror:
    """Peers into ledger, rates and index. Call `reflect` after every change of peers, and now and then for roster's."""

    def __init__(
        self,
        peers: Peers,
        roster: Roster,
        ledger: Ledger,
        rates: Rates,
        elsewhere: LentElsewhere,
        open_blocks: OpenBlocks | None,
    ) -> None:
        """`open_blocks`: None where no policy asks what open requests use."""
        self._peers = peers
        self._roster = roster
        self._ledger = ledger
        self._rates = rates
        self._elsewhere = elsewhere
        self._open_blocks = open_blocks
        self._version = -1
        self._expected: dict[str, float] = {}

    def reflect(self) -> bool:
        """Returns whether any replica of ours has less of others' load than before: somebody may wait for its room."""
        self._lend()
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

    def _lend(self) -> None:
        """Leases on a replica that is not here are left out: should it come, they will soon be over."""
        used = self._open_blocks
        for name, lent in self._peers.take_leases().items():
            seat = None if lent is None else self._roster.seat_of(ReplicaId(lent.replica))
            if lent is None or seat is None or not self._roster.is_present(seat):
                self._elsewhere.close(name)
                if used is not None:
                    used.close(name)
                continue
            hashes = lent.hashes
            self._elsewhere.open(name, seat, lent.grain_blocks, hashes[lent.first :])
            if used is not None:
                used.open_elsewhere(name, seat, hashes, lent.grain_tokens, lent.rest_tokens)

    def _write(self, seat: Seat, replica: str) -> bool:
        load, requests = self._peers.load(replica), self._ledger.peer_requests(seat)
        queued_tokens = self._ledger.peer_queued_tokens(seat)
        self._ledger.peers(seat, load.requests, load.queued_tokens, load.context_tokens)
        return load.requests < requests or load.queued_tokens < queued_tokens
