"""The other routers as they tell of themselves: who lives, and what each has open where.

- A peer is one process: a router's name and its boot. A restart is another peer; the old one falls silent.
- Whoever says nothing for SILENT_SECONDS is gone, and so is its load: a router killed outright cannot take it back
  itself. Each speaks at least every second (`teller`), so that two lost messages are forgiven.
- A number that is left out is a gap: rows told in it are unknown. Rows are absolute, so what comes after is right all
  the same; the next whole message, at most a second later, mends the rest. Until then the peer is `torn`.

Sums by replica are kept as whole numbers and changed by differences, so they are exactly zero when all peers are gone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import msgspec

from router.sharing.message import MOST_LEASES, MOST_MODELS, Lent, Rate, Row, Told

SILENT_SECONDS = 3.0
MOST_PEERS = 256  # past that a Redis holds more than routers of one fleet


LeaseName: TypeAlias = tuple[str, str, int]  # router, boot, and its own number there


class Heard(StrEnum):
    """What a message was to us."""

    OWN = "own"  # our own, come back: the way there and back works
    NEW = "new"  # of a peer not known, or known and silent for too long
    KNOWN = "known"
    GAP = "gap"  # of a known peer, and one or more before it were lost
    OLD = "old"  # told before: left out
    LEFT = "left"  # a peer's last word
    CROWDED = "crowded"  # of one peer too many: left out


@dataclass(frozen=True, slots=True)
class Load:
    """Open requests and what the ledger charges for them."""

    requests: int = 0
    queued_tokens: int = 0
    context_tokens: int = 0

    def __bool__(self) -> bool:
        return self.requests > 0 or self.queued_tokens > 0 or self.context_tokens > 0

    def plus(self, more: Load, sign: int = 1) -> Load:
        return Load(
            self.requests + sign * more.requests,
            self.queued_tokens + sign * more.queued_tokens,
            self.context_tokens + sign * more.context_tokens,
        )


NOTHING = Load()


@dataclass(slots=True)
class Peer:
    """One other router. Changed by `Peers` only."""

    router: str
    boot: str
    heard_at_seconds: float
    number: int
    torn: bool  # some rows are unknown until its next whole message
    gaps: int = 0
    loads: dict[str, Load] = field(default_factory=dict)  # by replica id, none of nothing
    rates: tuple[Rate, ...] = ()
    leases: dict[int, Lent] = field(default_factory=dict)  # by their numbers

    @property
    def total(self) -> Load:
        total = NOTHING
        for load in self.loads.values():
            total = total.plus(load)
        return total


class Peers:
    """All other routers. Changed by their messages (`fold`) and by silence (`expire`)."""

    def __init__(self, router: str, boot: str) -> None:
        """Our own name and boot, so that we do not count ourselves."""
        self._own = (router, boot)
        self._peers: dict[tuple[str, str], Peer] = {}
        self._sums: dict[str, Load] = {}
        self._changed: set[str] = set()
        self._known_rates: dict[str, float] = {}
        self._leases: dict[LeaseName, Lent | None] = {}  # changed since they were taken

    def __len__(self) -> int:
        return len(self._peers)

    def all(self) -> list[Peer]:
        return sorted(self._peers.values(), key=lambda peer: (peer.router, peer.boot))

    def load(self, replica: str) -> Load:
        """Of all peers together on one replica."""
        return self._sums.get(replica, NOTHING)

    def take_changed(self) -> set[str]:
        """The replicas whose load is another than when this was last asked."""
        changed, self._changed = self._changed, set()
        return changed

    def take_leases(self) -> dict[LeaseName, Lent | None]:
        """What others' requests use of caches and will put there, where it is another than when this was last asked;
        None: closed."""
        changed, self._leases = self._leases, {}
        return changed

    def has_namesake(self) -> bool:
        """Whether another process calls itself as we do."""
        return any(router == self._own[0] for router, _ in self._peers)

    def fold(self, told: Told, now_seconds: float) -> Heard:
        """Take one message."""
        who = (told.router, told.boot)
        if who == self._own:
            return Heard.OWN
        peer = self._peers.get(who)
        if told.leaving:
            if peer is not None:
                self._drop(who)
            return Heard.LEFT
        if peer is None:
            if len(self._peers) >= MOST_PEERS:
                return Heard.CROWDED
            heard = Heard.NEW
            peer = self._peers[who] = Peer(*who, now_seconds, told.number, torn=True)
        elif told.number <= peer.number:
            return Heard.OLD
        else:
            heard = Heard.KNOWN if told.number == peer.number + 1 else Heard.GAP
        peer.heard_at_seconds, peer.number = now_seconds, told.number
        if heard is Heard.GAP:
            peer.torn = True
            peer.gaps += 1
        if told.whole:
            peer.torn, peer.rates = False, told.rates
            named = {row.replica for row in told.rows}
            for replica in [replica for replica in peer.loads if replica not in named]:
                self._set(peer, replica, NOTHING)
        for row in told.rows:
            self._set(peer, row.replica, _load(row))
        self._lend(peer, told)
        return heard

    def expire(self, now_seconds: float) -> list[Peer]:
        """Those that have just fallen silent for too long; their load is gone."""
        silent = [who for who, peer in self._peers.items() if now_seconds - peer.heard_at_seconds >= SILENT_SECONDS]
        return [self._drop(who) for who in silent]

    def rates(self) -> dict[str, float]:
        """By model, how fast all peers together saw it, in tokens per second: the mean of logarithms by observations.
        What peers that are gone saw stays known: a rate is no less true for who told it."""
        sums: dict[str, tuple[float, int]] = {}
        for peer in self._peers.values():
            for rate in peer.rates:
                log_sum, count = sums.get(rate.model, (0.0, 0))
                log_sum += rate.observations * math.log(rate.tokens_per_second)
                sums[rate.model] = (log_sum, count + rate.observations)
        for model, (log_sum, count) in sums.items():
            if model in self._known_rates or len(self._known_rates) < MOST_MODELS:
                self._known_rates[model] = math.exp(log_sum / count)
        return self._known_rates

    def _drop(self, who: tuple[str, str]) -> Peer:
        peer = self._peers[who]
        for replica in list(peer.loads):
            self._set(peer, replica, NOTHING)
        self._close(peer, list(peer.leases))
        del self._peers[who]
        return peer

    def _lend(self, peer: Peer, told: Told) -> None:
        for lent in told.lent:
            if len(peer.leases) < MOST_LEASES:
                peer.leases[lent.lease] = self._leases[peer.router, peer.boot, lent.lease] = lent
        for lease, first in told.firsts:
            known = peer.leases.get(lease)
            if known is not None and known.first != first:
                moved = msgspec.structs.replace(known, first=first)
                peer.leases[lease] = self._leases[peer.router, peer.boot, lease] = moved
        if told.whole:
            standing = {lease for lease, _ in told.firsts}
            self._close(peer, [lease for lease in peer.leases if lease not in standing])
        else:
            self._close(peer, [lease for lease in told.closed if lease in peer.leases])

    def _close(self, peer: Peer, leases: list[int]) -> None:
        for lease in leases:
            del peer.leases[lease]
            self._leases[peer.router, peer.boot, lease] = None

    def _set(self, peer: Peer, replica: str, load: Load) -> None:
        before = peer.loads.get(replica, NOTHING)
        if load == before:
            return
        if load:
            peer.loads[replica] = load
        else:
            del peer.loads[replica]
        total = self.load(replica).plus(before, -1).plus(load)
        if total:
            self._sums[replica] = total
        else:
            del self._sums[replica]
        self._changed.add(replica)


def _load(row: Row) -> Load:
    return Load(row.requests, row.queued_tokens, row.context_tokens)
