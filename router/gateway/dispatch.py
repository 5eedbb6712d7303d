"""Sends a request to a replica, and to another one when the first fails before commitment (R 2.1).

A retry is simply: decide again, excluding those tried. What an attempt's end means is one table, `verdict`. An answer
that another replica might better is kept until that other one was found: if there is none, the client gets it as it is.

Under a policy that holds (policy/hold.py) the first attempt may wait for its turn; a retry has waited enough.

A 500 counts against a replica only when another one then answers the same request: a request that breaks every engine
it meets must not open every breaker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from router.clock import Clock
from router.errors import NoReplica, UpstreamError
from router.fleet.health import Health
from router.fleet.replica import Seat
from router.gateway.account import Account
from router.gateway.admission import Admission, Place
from router.gateway.exchange import Exchange
from router.gateway.failures import Phase, ProtocolFault, TimedOut
from router.gateway.headers import RawHeaders
from router.gateway.holding import Holding
from router.gateway.response import Response
from router.gateway.shadowing import Shadowing
from router.gateway.upstream import Upstream
from router.metrics import Metrics
from router.policy.decider import AllBusy, Decider
from router.policy.decision import Decision

MAX_ATTEMPTS = 2
RETRY_SHARE = 0.1
RETRY_RESERVE = 100.0  # so that a replica dying under a quiet hour's burst still loses nobody


class Verdict(Enum):
    """What the end of an attempt before commitment means."""

    PASS = "pass"
    BUSY = "busy"  # try elsewhere; the replica did nothing wrong
    DOUBTFUL = "doubtful"  # try elsewhere; whose fault it was, the next one tells
    FAILED = "failed"  # try elsewhere, and count it against the replica
    FATAL = "fatal"  # no retry can help


STATUS_VERDICTS: Mapping[int, Verdict] = {
    429: Verdict.BUSY,
    500: Verdict.DOUBTFUL,
    502: Verdict.FAILED,
    503: Verdict.FAILED,
}


def verdict(end: Answer | UpstreamError) -> Verdict:
    if isinstance(end, Answer):
        return STATUS_VERDICTS.get(end.response.status, Verdict.PASS)
    if isinstance(end, TimedOut):
        return Verdict.FAILED if end.phase is Phase.CONNECT else Verdict.FATAL
    if isinstance(end, ProtocolFault) and end.body_started:
        return Verdict.FATAL
    return Verdict.FAILED


@dataclass(slots=True)
class RetryBudget:
    """At most a tenth of requests are retried in the long run, so that a failing fleet is not drowned in retries."""

    left: float = RETRY_RESERVE

    def earn(self) -> None:
        self.left = min(RETRY_RESERVE, self.left + RETRY_SHARE)

    def allows(self) -> bool:
        return self.left >= 1

    def spend(self) -> None:
        self.left -= 1


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A committed answer: its head and its first body bytes (empty: a body of length nought)."""

    seat: Seat
    response: Response
    chunk: bytes


class Dispatch:
    """From a decided request to an answer worth passing on."""

    def __init__(
        self,
        decider: Decider,
        health: Health,
        account: Account,
        admission: Admission,
        upstreams: Mapping[Seat, Upstream],
        metrics: Metrics,
        clock: Clock,
        shadowing: Shadowing | None = None,
        holding: Holding | None = None,
    ) -> None:
        self._decider = decider
        self._health = health
        self._account = account
        self._admission = admission
        self._upstreams = upstreams
        self._clock = clock
        self._shadowing = shadowing
        self._holding = holding
        self._decision_times = metrics.decision
        self._decision_row = metrics.decision.row(decider.policy.name)
        self._budget = RetryBudget()

    async def send(
        self, exchange: Exchange, place: Place, headers: RawHeaders, body: Sequence[bytes | memoryview]
    ) -> Answer:
        """The answer to pass on. Its lease stays open for the caller to close.

        Raises NoReplica, AllBusy, or the UpstreamError of the last attempt.
        """
        self._budget.earn()
        tried: list[Seat] = []
        kept: Answer | UpstreamError | None = None
        doubted: Seat | None = None
        meaning = Verdict.PASS
        while True:
            try:
                if self._holding is None or tried:
                    seat = self._place(exchange, place, tried)
                else:
                    seat = await self._in_turn(exchange, place, self._holding)
            except (NoReplica, AllBusy):
                if kept is None:
                    raise
                return self._given(kept)
            if isinstance(kept, Answer):
                kept.response.abort()
            if tried:
                self._budget.spend()
                self._account.retried(exchange, meaning.value)
            tried.append(seat)
            end = await self._attempt(exchange, seat, headers, body)
            meaning = verdict(end)
            if meaning is Verdict.PASS:
                if doubted is not None:
                    self._health.failed(doubted, self._clock.now())
                self._health.succeeded(seat, self._clock.now())
                return self._given(end)
            self._tell(exchange, seat, meaning)
            if meaning is Verdict.FATAL or len(tried) >= MAX_ATTEMPTS or not self._budget.allows():
                return self._given(end)
            doubted = seat if meaning is Verdict.DOUBTFUL else None
            kept = end
            self._admission.nudge()  # the failed attempt's room

    def _place(self, exchange: Exchange, place: Place, tried: Sequence[Seat]) -> Seat:
        """Decide, and charge the ledger before anything is awaited: requests deciding now must see each other."""
        now = self._clock.now()
        return self._charge(exchange, place, self._decide(exchange, tried, now), now)

    async def _in_turn(self, exchange: Exchange, place: Place, holding: Holding) -> Seat:
        """The same, as soon as the replica that is chosen has room."""
        now = self._clock.now()
        decision: Decision | None = None
        try:
            decision = self._decide(exchange, (), now)
            if holding.rule.has_room(decision):
                return self._charge(exchange, place, decision, now)
        except AllBusy:
            pass  # one of them will not be for long

        def goes(forced: bool) -> bool:
            now = self._clock.now()
            try:
                decision = self._decide(exchange, (), now)
            except AllBusy:
                if forced:
                    raise
                return False
            if not forced and not holding.rule.has_room(decision):
                return False
            self._charge(exchange, place, decision, now)
            return True

        place.started()  # whoever waits here takes no room yet from other models' requests at the door
        try:
            await holding.wait(exchange.model, decision, goes)
        except BaseException:
            if exchange.attempting:  # hung up just when it was let go
                assert exchange.decision is not None
                self._health.abandoned(exchange.decision.seat, self._clock.now(), trial=exchange.trial)
            raise
        exchange.held_seconds = exchange.sent_seconds - now
        assert exchange.decision is not None
        return exchange.decision.seat

    def _decide(self, exchange: Exchange, tried: Sequence[Seat], now: float) -> Decision:
        decision = self._decider.decide(exchange.ask(frozenset(tried)), now)
        self._decision_times.observe(self._decision_row, self._clock.now() - now)
        return decision

    def _charge(self, exchange: Exchange, place: Place, decision: Decision, now: float) -> Seat:
        exchange.trial = self._health.admit(decision.seat, now)
        self._account.open(exchange, decision, now)
        place.started()
        if self._shadowing is not None:
            self._shadowing.consider(exchange)
        return decision.seat

    async def _attempt(
        self, exchange: Exchange, seat: Seat, headers: RawHeaders, body: Sequence[bytes | memoryview]
    ) -> Answer | UpstreamError:
        answered = False
        try:
            response = await self._upstreams[seat].request("POST", exchange.endpoint.value, headers, body)
            try:
                chunk = await response.chunk()
                answered = True
            finally:
                if not answered:
                    response.abort()
        except UpstreamError as fault:
            self._account.attempt_failed(exchange, str(fault), self._clock.now())
            return fault
        except BaseException:  # hung up, or shutting down: neither good nor bad
            self._health.abandoned(seat, self._clock.now(), trial=exchange.trial)
            raise
        answer = Answer(seat, response, chunk)
        if verdict(answer) is not Verdict.PASS:
            self._account.attempt_failed(exchange, f"status {response.status}", self._clock.now())
        return answer

    def died(self, answer: Answer) -> None:
        """The replica failed after commitment."""
        self._health.failed(answer.seat, self._clock.now())

    def _tell(self, exchange: Exchange, seat: Seat, meaning: Verdict) -> None:
        now = self._clock.now()
        if meaning is Verdict.FAILED:
            self._health.failed(seat, now)
        else:
            self._health.abandoned(seat, now, trial=exchange.trial)

    def _given(self, end: Answer | UpstreamError) -> Answer:
        if isinstance(end, UpstreamError):
            raise end
        return end
