"""One router's side of what routers tell each other, whatever carries it: its teller, its picture of the others, and
where its decisions read that.

Who carries the messages calls `tell` every TELL_SECONDS, `take` with each that comes, and `sweep` every SWEEP_SECONDS.
Pure: over Redis (`redis`) and in virtual time (`lab/channel`) it is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.fleet.ledger import Ledger
from router.fleet.rates import Rates
from router.fleet.roster import Roster
from router.index.memory import MemoryIndex
from router.index.open_blocks import OpenBlocks
from router.sharing.lending import Lending
from router.sharing.message import Told, pack
from router.sharing.mirror import Mirror
from router.sharing.peers import Heard, Peer, Peers
from router.sharing.teller import Teller

TELL_SECONDS = 0.025  # a burst is one message; a router hears of a request within this and one way through Redis
SWEEP_SECONDS = 0.25  # how often silence is looked for


class Side:
    """Mutable; changed by whoever carries the messages."""

    def __init__(
        self,
        router: str,
        boot: str,
        *,
        roster: Roster,
        ledger: Ledger,
        rates: Rates,
        index: MemoryIndex,
        open_blocks: OpenBlocks | None,
        freed: Sequence[Callable[[], None]],
    ) -> None:
        """`freed` are called when a replica has room that others took before."""
        self.peers = Peers(router, boot)
        lending = Lending(index.recent, ledger, roster)
        self._teller = Teller(router, boot, ledger, rates, lending, lambda seat: roster.replica(seat).id)
        self._mirror = Mirror(self.peers, roster, ledger, rates, index.elsewhere, open_blocks)
        self._freed = freed

    def anew(self) -> None:
        """Somebody may have missed what we told: the next message is whole."""
        self._teller.anew()

    def tell(self, now_seconds: float) -> bytes | None:
        """The next message; None when there is nothing to say yet."""
        told = self._teller.tell(now_seconds)
        return None if told is None else pack(told)

    def farewell(self) -> bytes:
        return pack(self._teller.farewell())

    def take(self, told: Told, now_seconds: float) -> Heard:
        """What somebody told, us included."""
        heard = self.peers.fold(told, now_seconds)
        if heard is Heard.OWN:
            return heard
        if heard is Heard.NEW:
            self._teller.anew()  # it does not know us either
        if told.whole:
            self._mirror.learn()
        self._reflect()
        return heard

    def sweep(self, now_seconds: float) -> list[Peer]:
        """Those that have just fallen silent for too long."""
        silent = self.peers.expire(now_seconds)
        self._reflect()
        return silent

    def _reflect(self) -> None:
        if self._mirror.reflect():
            for wake in self._freed:
                wake()
