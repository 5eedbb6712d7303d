"""The books of a request: charged before anything is awaited, released exactly once, reconciled with what came of it.

`open` is called in the same synchronous stretch as the decision. What it charged is released by whoever comes first:
`attempt_failed`, `release` or `close`; the last is called once per exchange, on every exit path.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace
from random import Random

from router.clock import Clock
from router.errors import NoReplica, Overloaded, UpstreamTimeout
from router.events.ingest import Ingest
from router.events.silence import Silence
from router.fleet.ledger import Ledger
from router.fleet.pairs import Pairs
from router.fleet.rates import Rates
from router.fleet.sessions import Sessions
from router.gateway.exchange import Exchange
from router.gateway.headers import RawHeaders, first
from router.gateway.holding import Holding
from router.gateway.journal import Journal
from router.gateway.legs import charged_alone, handed_over, note_legs, prefill_leg
from router.gateway.misses import Missed, Misses
from router.gateway.receipts import Receipt, Receipts, Tried
from router.gateway.recorder import Recorder
from router.gateway.stream import Usage
from router.gateway.told import receipt_of
from router.gateway.trust import EffectiveTrust
from router.index.accuracy import Accuracy, Unjudged, Verdict
from router.index.base import Trust
from router.index.counters import Counters
from router.index.guessed import Guessed
from router.index.in_flight import InFlight
from router.index.open_blocks import OpenBlocks
from router.index.recent import OpenLeases
from router.metrics import Metrics, Outcome
from router.policy.split import Decision, Split
from router.prompt.blocks import BlockHashes
from router.prompt.prompt import Unpredicted
from router.prompt.request import Endpoint

# Of a request that does not say how much it wants: the median answer of the traces we know is shorter.
OUTPUT_TOKENS_ESTIMATE = 256
NO_REPLICA_LABEL = "none"  # the metric label of a request that was sent nowhere
NO_HASHES: BlockHashes = array("Q")  # of a prompt shorter than a block


@dataclass(frozen=True, slots=True)
class Books:
    """Everything a request is entered into."""

    ledger: Ledger
    recent: OpenLeases
    guessed: Guessed
    ingest: Ingest
    in_flight: InFlight
    accuracy: Accuracy
    trust: EffectiveTrust
    rates: Rates
    sessions: Sessions
    receipts: Receipts
    metrics: Metrics
    journal: Journal[Receipt]
    silence: Silence
    misses: Misses
    counters: Counters
    open_blocks: OpenBlocks | None = None  # kept only for a policy that reads them
    pairs: Pairs | None = None  # kept for policies that split
    recorder: Recorder = field(default_factory=Recorder)
    holding: Holding | None = None  # told of room, for policies that hold requests


class Account:
    """Opens and closes the books of every request."""

    def __init__(self, books: Books, clock: Clock) -> None:
        self._ids = Random()  # seeded by the system: no two processes give the same ids
        self._books = books
        self._clock = clock
        self._open: dict[int, Exchange] = {}  # by lease, those with blocks

    def keep_blocks(self, open_blocks: OpenBlocks | None) -> None:
        """From now on in this book, which is empty. The requests that are open are entered first: a policy that has
        just come sees what they use."""
        if open_blocks is not None:
            for lease, exchange in self._open.items():
                assert exchange.decision is not None
                size = exchange.decision.block_size_tokens
                if exchange.hashes is not None and size is not None:
                    open_blocks.open(lease, exchange.decision.seat, exchange.hashes, size)
        self._books = replace(self._books, open_blocks=open_blocks)

    @property
    def open_blocks(self) -> OpenBlocks | None:
        return self._books.open_blocks

    def arrive(self, endpoint: Endpoint, headers: RawHeaders) -> Exchange:
        client_id = first(headers, b"x-request-id")
        return Exchange(
            id=self._ids.randbytes(16).hex(),
            client_id=client_id.decode("latin-1") if client_id is not None else None,
            endpoint=endpoint,
            arrived_seconds=self._clock.now(),
            arrived_wall_seconds=self._clock.wall(),
            explained=first(headers, b"x-homing-explain") == b"1",
        )

    def open(self, exchange: Exchange, decision: Decision, now_seconds: float) -> None:
        """Charge the chosen replica with the request; of a split one both, the donor through an exchange of its own."""
        request, prompt, books = exchange.request, exchange.prompt, self._books
        assert request is not None
        assert prompt is not None
        seat, uncached_tokens = decision.seat, decision.uncached_tokens
        exchange.predicted_cached_tokens = decision.predicted_cached_tokens
        exchange.expected_cached_tokens = decision.expected_cached_tokens
        here = charged_alone(decision)
        exchange.donor = None
        if isinstance(decision, Split):
            exchange.donor, uncached_tokens = prefill_leg(exchange), 0  # the taker computes nothing
            self.open(exchange.donor, decision.prefill, now_seconds)
            books.metrics.splits.add(exchange.model, decision.rule)
        predicted_tokens, expected_tokens = here.predicted_cached_tokens, here.expected_cached_tokens
        exchange.queue_seconds = decision.queue_seconds
        output_tokens = request.max_output_tokens
        lease = books.ledger.open(
            seat,
            uncached_tokens=uncached_tokens,
            prompt_tokens=prompt.total_tokens,
            output_tokens_estimate=min(output_tokens or OUTPUT_TOKENS_ESTIMATE, OUTPUT_TOKENS_ESTIMATE),
            streamed=request.stream,
            now_seconds=now_seconds,
            prefill_ends_at_seconds=0.0 if request.stream else now_seconds + decision.first_token_seconds,
        )
        exchange.decision, exchange.lease, exchange.sent_seconds = decision, lease, now_seconds
        exchange.attempting, exchange.sent = True, None
        exchange.stream_trust = books.ingest.trust(seat)
        exchange.batches_before = books.silence.batches(seat)
        exchange.sibling = expected_tokens > predicted_tokens
        size = decision.block_size_tokens
        hashes = prompt.hashes.get(size) if size is not None else None
        exchange.hashes = hashes
        if hashes is None or size is None or not len(hashes):
            return
        expected_blocks = expected_tokens // size
        if exchange.sibling:
            # The engine may take the newcomer first: then it is the one before us that finds our blocks.
            for lender in books.recent.lenders(seat, hashes, expected_blocks - 1):
                if lender in self._open:
                    self._open[lender].sibling = True
        self._open[lease] = exchange
        books.recent.open(lease, seat, hashes, expected_blocks)
        exchange.sibling |= books.in_flight.enter(seat, hashes[-1])
        books.guessed.sent(seat, hashes)
        if books.open_blocks is not None:
            books.open_blocks.open(lease, seat, hashes, size)
        if prompt.tokens is not None:
            exchange.sent = books.ingest.sent(
                seat,
                prompt.tokens,
                hashes,
                size,
                adapter=exchange.adapter,
                predicted_blocks=None if exchange.sibling else predicted_tokens // size,
            )

    def attempt_failed(self, exchange: Exchange, why: str, now_seconds: float) -> None:
        """The attempt under way came to nothing: everything it charged goes."""
        self._note_attempt(exchange, why, now_seconds)
        for one in (exchange, exchange.donor):
            if one is not None and one.lease is not None:
                self._books.recent.withdraw(one.lease)
        self.release(exchange)

    def retried(self, exchange: Exchange, reason: str) -> None:
        assert exchange.decision is not None
        self._books.metrics.retries.add(exchange.decision.replica, reason)

    def tokens(self, exchange: Exchange) -> None:
        """A chunk that carries tokens is on its way to the client."""
        now = self._clock.now()
        if exchange.token_row is not None:
            self._books.metrics.inter_token.observe(exchange.token_row, now - exchange.last_token_seconds)
        else:
            metrics = self._books.metrics
            exchange.first_token_seconds = now
            exchange.token_row = metrics.inter_token.row(exchange.model)
            metrics.ttft.observe(metrics.ttft.row(exchange.model), now - exchange.arrived_seconds)
            if exchange.donor is not None:
                handed_over(exchange, exchange.donor, metrics, self._books.pairs, now)
            if exchange.lease is not None:
                self._books.ledger.first_token(exchange.lease)
                self._books.recent.first_token(exchange.lease, now)
                if self._books.holding is not None:
                    self._books.holding.nudge()
        exchange.last_token_seconds = now

    def release(self, exchange: Exchange) -> None:
        """Give back what the attempt under way charged. Again: nothing."""
        if exchange.donor is not None:
            if exchange.carried is not None and exchange.carried.prefill is not None:
                exchange.carried.prefill.cancel()  # nobody waits for it any more; once it is done: nothing
            self.release(exchange.donor)
        lease = exchange.lease
        if lease is None or not self._books.ledger.close(lease):
            return
        exchange.lease = None
        if self._books.holding is not None:
            self._books.holding.nudge()
        self._open.pop(lease, None)
        self._books.recent.close(lease)
        if self._books.open_blocks is not None:
            self._books.open_blocks.close(lease)
        hashes = exchange.hashes
        if hashes is not None and len(hashes):
            assert exchange.decision is not None
            self._books.in_flight.leave(exchange.decision.seat, hashes[-1])

    def close(self, exchange: Exchange, *, gone: bool) -> None:
        """The exchange is over, however it ended. Called once."""
        now = self._clock.now()
        books = self._books
        self.release(exchange)
        served = exchange.attempting
        if served:
            self._note_attempt(exchange, "client hung up" if gone else _ending(exchange), now)
        outcome = exchange.outcome = Outcome.CLIENT_GONE if gone else _outcome(exchange)
        leg = exchange.donor  # of a split request it alone is judged: what the taker reports is not its cache's doing
        verdict = leg.verdict if leg is not None else None
        if leg is None and served and outcome is Outcome.OK:
            verdict = self._reconcile(exchange)
        decision = exchange.decision
        replica = decision.replica if decision is not None else NO_REPLICA_LABEL
        books.metrics.requests.add(exchange.model, replica, outcome)
        receipt = receipt_of(exchange, outcome, verdict, now)
        books.receipts.add(receipt)
        books.journal.write(receipt)
        if books.recorder.recording is not None and outcome is not Outcome.CLIENT_ERROR:
            books.recorder.recording.note(exchange, _answer_tokens(exchange), now)

    def explain_headers(self, exchange: Exchange) -> RawHeaders:
        """What a client that asked gets to know with its answer."""
        if not exchange.explained:
            return []
        told = [(b"x-homing-request-id", exchange.id.encode())]
        if exchange.decision is not None:
            told.append((b"x-homing-replica", exchange.decision.replica.encode()))
            if isinstance(exchange.decision, Split):
                told.append((b"x-homing-prefill-replica", exchange.decision.prefill.replica.encode()))
            told.append((b"x-homing-predicted-cached-tokens", b"%d" % exchange.predicted_cached_tokens))
        return told

    def _note_attempt(self, exchange: Exchange, ending: str, now_seconds: float) -> None:
        assert exchange.decision is not None
        exchange.attempting = False
        if exchange.donor is not None:
            note_legs(exchange, exchange.donor, ending, now_seconds)
            return
        exchange.attempts.append(Tried(exchange.decision.replica, ending, now_seconds - exchange.sent_seconds))

    def computed(self, exchange: Exchange, usage: Usage | None) -> None:
        """The donor of a split request has computed the prompt, and reported this."""
        leg, now = exchange.donor, self._clock.now()
        if leg is None or leg.lease is None:
            return  # the attempt is over
        leg.usage, leg.first_token_seconds = usage, now
        metrics = self._books.metrics
        metrics.legs.observe(metrics.legs.row("prefill"), now - leg.sent_seconds)
        leg.verdict = self._reconcile(leg)
        self.release(leg)

    def _reconcile(self, exchange: Exchange) -> Verdict:
        """Hold what the replica reports against what was predicted, and learn from it (R 5)."""
        request, prompt, decision, books = exchange.request, exchange.prompt, exchange.decision, self._books
        assert request is not None
        assert prompt is not None
        assert decision is not None
        seat, size = decision.seat, decision.block_size_tokens
        reported = exchange.usage.cached_tokens if exchange.usage is not None else None
        if exchange.session_key is not None:
            books.sessions.bind(exchange.session_key, seat, self._clock.now())
        verdict = books.accuracy.judge(
            seat,
            predicted_tokens=exchange.predicted_cached_tokens if prompt.unpredicted is None else None,
            reported_tokens=reported,
            block_size_tokens=size,
            stream=exchange.stream_trust,
            prompts=request.prompts,
            choices=request.choices,
            prompt_logprobs=request.prompt_logprobs,
            sibling_in_flight=exchange.sibling,
        )
        if verdict.miss is not None or verdict.cause is not None:
            self._look_closer(exchange, verdict)
        books.trust.refresh(seat)
        self._count(exchange, verdict, reported)
        if size is not None and exchange.hashes is not None and reported is not None and request.prompts == 1:
            cached_blocks = reported // size
            books.guessed.reported(seat, exchange.hashes, cached_blocks, exchange.predicted_cached_tokens // size)
            if exchange.sent is not None:
                books.ingest.reported(seat, exchange.sent, reported)
        if size is not None and exchange.hashes and not request.prompt_logprobs:
            cached_blocks = (exchange.predicted_cached_tokens if reported is None else reported) // size
            if min(len(exchange.hashes), (prompt.prompt_tokens - 1) // size) > cached_blocks:
                books.silence.finished(seat, exchange.batches_before)
        if exchange.first_token_seconds is not None:
            cached = reported if reported is not None else exchange.expected_cached_tokens
            books.rates.observe(
                exchange.base,
                seat,
                streamed=request.stream,
                uncached_tokens=max(0, prompt.total_tokens - cached),
                ttft_seconds=exchange.first_token_seconds - exchange.sent_seconds,
                predicted_queue_seconds=exchange.queue_seconds,
            )
        return verdict

    def _look_closer(self, exchange: Exchange, verdict: Verdict) -> None:
        """What an exact request needs not: why it was not, or what stands in for a report that did not come."""
        request, prompt, decision, books = exchange.request, exchange.prompt, exchange.decision, self._books
        assert request is not None
        assert prompt is not None
        assert decision is not None
        seat, size = decision.seat, decision.block_size_tokens
        if verdict.miss is not None and size is not None:
            missed = Missed(
                verdict.miss,
                seat,
                exchange.sent_seconds,
                verdict.reported_tokens,
                size,
                exchange.hashes or NO_HASHES,
                prompt.tokens,
                in_namespace=request.cache_salt is not None or exchange.adapter is not None,
                is_proof=exchange.sent is not None,
            )
            books.misses.saw(missed, self._clock.now())
        elif verdict.cause is Unjudged.NO_REPORT and size is not None:
            books.counters.finished(
                seat,
                prompt_tokens=prompt.total_tokens,
                predicted_tokens=exchange.predicted_cached_tokens,
                block_size_tokens=size,
                lower_bound=exchange.stream_trust is Trust.CATCHING_UP,
            )
        elif prompt.unpredicted is Unpredicted.EXTRA_KEY:
            books.misses.unseen_key(seat)

    def _count(self, exchange: Exchange, verdict: Verdict, reported_tokens: int | None) -> None:
        metrics, decision, prompt = self._books.metrics, exchange.decision, exchange.prompt
        assert decision is not None
        assert prompt is not None
        metrics.prompt_tokens.add(exchange.model, count=prompt.total_tokens)
        metrics.predicted.add(exchange.model, count=exchange.predicted_cached_tokens)
        if reported_tokens is not None:
            metrics.reported.add(exchange.model, count=reported_tokens)
        if verdict.cause is not None:
            metrics.unjudged.add(verdict.cause.value)
        else:
            told = "exact" if verdict.exact else "missed" if verdict.missed else "near"
            metrics.judged.add(decision.replica, told)


def _answer_tokens(exchange: Exchange) -> int:
    """As reported, else as the ledger takes it to be."""
    usage, request = exchange.usage, exchange.request
    if usage is not None and usage.completion_tokens is not None:
        return usage.completion_tokens
    asked = request.max_output_tokens if request is not None else None
    return min(asked or OUTPUT_TOKENS_ESTIMATE, OUTPUT_TOKENS_ESTIMATE)


def _ending(exchange: Exchange) -> str:
    if exchange.fault is not None:
        return exchange.fault.message
    return "ok" if exchange.status is not None and exchange.status < 400 else f"status {exchange.status}"


def _outcome(exchange: Exchange) -> Outcome:
    fault = exchange.fault
    if isinstance(fault, NoReplica):
        return Outcome.NO_REPLICA
    if isinstance(fault, Overloaded):
        return Outcome.OVERLOAD
    if isinstance(fault, UpstreamTimeout):
        return Outcome.TIMEOUT
    status = exchange.status if fault is None else fault.status
    if status is None or status >= 500:
        return Outcome.UPSTREAM_ERROR
    if status == 429:
        return Outcome.OVERLOAD
    return Outcome.OK if status < 400 else Outcome.CLIENT_ERROR
