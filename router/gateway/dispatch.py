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

from router.clock import Clock
from router.errors import NoReplica, UpstreamError
from router.fleet.health import Health
from router.fleet.pairs import Pairs
from router.fleet.replica import Seat
from router.gateway.account import Account
from router.gateway.admission import Admission, Place
from router.gateway.exchange import Answer, Carried, Exchange
from router.gateway.failures import Phase, ProtocolFault, TimedOut
from router.gateway.first import first_of
from router.gateway.handoff import Ended, Handoff
from router.gateway.headers import RawHeaders
from router.gateway.holding import Holding
from router.gateway.shadowing import Shadowing
from router.gateway.stream import usage_of
from router.gateway.upstream import Upstream
from router.metrics import Metrics
from router.policy.decider import AllBusy, Decider
from router.policy.split import Decision, Split

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
        return STATUS_VERDICTS.get(end.status, Verdict.PASS)
    if isinstance(end, TimedOut):
        return Verdict.FAILED if end.phase is Phase.CONNECT else Verdict.FATAL
    if isinstance(end, ProtocolFault) and end.body_started:
        return Verdict.FATAL
    return Verdict.FAILED


def leg_verdict(ended: Ended) -> Verdict:
    """As of any attempt, but that no end of a prefill leg is fatal: nothing of its body was for the client."""
    meaning = verdict(ended.end)
    return Verdict.FAILED if meaning is Verdict.FATAL and ended.in_prefill else meaning


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
        *,
        shadowing: Shadowing | None = None,
        holding: Holding | None = None,
        handoff: Handoff | None = None,
        pairs: Pairs | None = None,
    ) -> None:
        """`handoff` and `pairs`: for policies that split."""
        self._decider = decider
        self._health = health
        self._account = account
        self._admission = admission
        self._upstreams = upstreams
        self._clock = clock
        self._shadowing = shadowing
        self._holding = holding
        self._handoff = handoff
        self._pairs = pairs
        self._leg_ends = metrics.leg_ends
        self._decision_times = metrics.decision
        self._decision_row = metrics.decision.row(decider.policy.name)
        self._splits = decider.policy.splitter is not None
        self._budget = RetryBudget()

    def heed(self, shadowing: Shadowing | None) -> None:
        """The decider's policy is another one, or its shadow is."""
        policy = self._decider.policy
        self._shadowing = shadowing
        self._decision_row = self._decision_times.row(policy.name)
        self._splits = policy.splitter is not None

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
        spared: Seat | None = None
        attempts, charged = 0, True
        if self._splits and self._handoff is not None and exchange.request is not None:
            exchange.handshakes = self._handoff.takes(exchange.request)
        while True:
            try:
                if self._holding is None or self._holding.rule is None or attempts:
                    decision = self._place(exchange, place, tried)
                else:
                    decision = await self._in_turn(exchange, place, self._holding)
            except (NoReplica, AllBusy):
                if spared in tried:
                    tried.remove(spared)
                    continue
                if kept is None:
                    raise
                return self._given(kept)
            if isinstance(kept, Answer):
                kept.response.abort()
            if kept is not None:
                if charged:
                    self._budget.spend()
                self._account.retried(exchange, meaning.value)
            attempts += 1
            seat = decision.seat
            if isinstance(decision, Split):
                ended = await self._attempt_split(exchange, decision, headers, body)
                end, seat = ended.end, ended.seat
                spared = self._after_split(exchange, decision, ended, tried)
                meaning = leg_verdict(ended)
            else:
                end = await self._attempt(exchange, seat, headers, body)
                meaning = verdict(end)
            if isinstance(end, UpstreamError):
                end.__traceback__ = None  # a ring with the response that failed; see serve.py
            tried.append(seat)
            if meaning is Verdict.PASS:
                if doubted is not None:
                    self._health.failed(doubted, self._clock.now())
                self._health.succeeded(seat, self._clock.now())
                return self._given(end)
            self._tell(exchange, seat, meaning)
            # A split request that goes on whole costs the fleet no more than one that never was, and a donor's death
            # meets all its requests at once: no budget for that. And of two legs nobody knows whose fault a 500 was.
            whole = not isinstance(decision, Split)
            if meaning is Verdict.FATAL or attempts >= MAX_ATTEMPTS or (whole and not self._budget.allows()):
                return self._given(end)
            doubted = seat if meaning is Verdict.DOUBTFUL and whole else None
            kept, charged = end, whole
            self._admission.nudge()  # the failed attempt's room

    def _place(self, exchange: Exchange, place: Place, tried: Sequence[Seat]) -> Decision:
        """Decide, and charge the ledger before anything is awaited: requests deciding now must see each other."""
        now = self._clock.now()
        return self._charge(exchange, place, self._decide(exchange, tried, now), now)

    async def _in_turn(self, exchange: Exchange, place: Place, holding: Holding) -> Decision:
        """The same, as soon as the replica that is chosen has room."""
        began = self._clock.now()
        decision: Decision | None = None
        try:
            decision = self._decide(exchange, (), began)
            if holding.has_room(decision):
                return self._charge(exchange, place, decision, began)
        except AllBusy:
            pass  # one of them will not be for long

        def goes(forced: bool) -> bool:
            now = self._clock.now()
            try:
                decision = self._decide(exchange, (), now, now - began)
            except AllBusy:
                if forced:
                    raise
                return False
            if not forced and not holding.has_room(decision):
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
                if isinstance(exchange.decision, Split) and exchange.donor is not None:
                    donor = exchange.decision.prefill.seat
                    self._health.abandoned(donor, self._clock.now(), trial=exchange.donor.trial)
            raise
        exchange.held_seconds = exchange.sent_seconds - began
        assert exchange.decision is not None
        return exchange.decision

    def _decide(self, exchange: Exchange, tried: Sequence[Seat], now: float, waited_seconds: float = 0.0) -> Decision:
        decision = self._decider.decide(exchange.ask(frozenset(tried), waited_seconds), now)
        self._decision_times.observe(self._decision_row, self._clock.now() - now)
        return decision

    def _charge(self, exchange: Exchange, place: Place, decision: Decision, now: float) -> Decision:
        exchange.trial = self._health.admit(decision.seat, now)
        self._account.open(exchange, decision, now)
        if isinstance(decision, Split) and exchange.donor is not None:
            exchange.donor.trial = self._health.admit(decision.prefill.seat, now)
        place.started()
        if self._shadowing is not None:
            self._shadowing.consider(exchange)
        return decision

    async def _attempt(
        self, exchange: Exchange, seat: Seat, headers: RawHeaders, body: Sequence[bytes | memoryview]
    ) -> Answer | UpstreamError:
        try:
            answer = await first_of(self._upstreams[seat], exchange.endpoint.value, headers, body, seat)
        except UpstreamError as fault:
            self._account.attempt_failed(exchange, str(fault), self._clock.now())
            return fault
        except BaseException:  # hung up, or shutting down: neither good nor bad
            self._health.abandoned(seat, self._clock.now(), trial=exchange.trial)
            raise
        if verdict(answer) is not Verdict.PASS:
            self._account.attempt_failed(exchange, f"status {answer.status}", self._clock.now())
        return answer

    async def _attempt_split(
        self, exchange: Exchange, split: Split, headers: RawHeaders, body: Sequence[bytes | memoryview]
    ) -> Ended:
        """Both legs. The donor's health is told here, that of the leg that ended it by the caller."""
        assert self._handoff is not None
        assert exchange.request is not None
        assert exchange.donor is not None
        donor, taker, now = split.prefill.seat, split.seat, self._clock.now
        leg = exchange.donor
        carried = exchange.carried = Carried()
        exchange.counts_whole_prompt = self._handoff.handshake(donor).counts_whole_prompt

        def computed(answer: bytes) -> None:
            self._health.succeeded(donor, now())
            self._leg_ends.add(split.prefill.replica, "prefill", "ok")
            self._account.computed(exchange, usage_of(answer))

        try:
            ended = await self._handoff.carry(exchange.request, donor, taker, headers, body, carried, computed)
        except BaseException:  # hung up, or shutting down: neither good nor bad
            self._health.abandoned(taker, now(), trial=exchange.trial)
            self._health.abandoned(donor, now(), trial=leg.trial)
            raise
        meaning = leg_verdict(ended)
        if ended.in_prefill:
            self._health.abandoned(taker, now(), trial=exchange.trial)
        elif leg.first_token_seconds is None and meaning is not Verdict.PASS:
            self._health.abandoned(donor, now(), trial=leg.trial)
        name = split.prefill.replica if ended.in_prefill else split.replica
        self._leg_ends.add(
            name, "prefill" if ended.in_prefill else "decode", "ok" if meaning is Verdict.PASS else meaning.value
        )
        if meaning is not Verdict.PASS:
            why = str(ended.end) if isinstance(ended.end, UpstreamError) else f"status {ended.end.status}"
            self._account.attempt_failed(exchange, f"{'prefill' if ended.in_prefill else 'decode'} leg: {why}", now())
        return ended

    def _after_split(self, exchange: Exchange, split: Split, ended: Ended, tried: list[Seat]) -> Seat | None:
        """What the next attempt may do; who may be tried again if nobody else can be.

        Whole, where a replica of such a pool can answer alone: the same body without transfer parameters. A taker's
        500 may be its donor's doing, and the taker is then still the best there is.
        """
        assert self._handoff is not None
        if self._handoff.handshake(split.prefill.seat).answers_whole:
            exchange.handshakes = frozenset()
        if ended.in_prefill or verdict(ended.end) is not Verdict.DOUBTFUL:
            return None
        if self._pairs is not None:
            self._pairs.closed(split.prefill.seat, split.seat)
        tried.append(split.prefill.seat)
        return split.seat

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
