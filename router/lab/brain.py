"""The real router in virtual time: its decider, ledger, index, ingest and accounts, driven by a virtual fleet.

Nothing here decides. Requests become what the gateway would have made of them, the engines' events what the wire would
have brought, and time is what the fleet says it is. What the gateway learns from probes comes from `up` and `down`,
one probe interval late.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from xxhash import xxh3_64_intdigest

from router.clock import ManualClock
from router.errors import NoReplica
from router.events.ingest import Ingest
from router.events.kinds import Cleared, EngineHash, Removed, Stored
from router.events.silence import Silence
from router.fleet.health import Health
from router.fleet.ledger import Ledger
from router.fleet.newcomers import Newcomers
from router.fleet.pairs import Pairs
from router.fleet.rates import Rates
from router.fleet.replica import Facts, Replica, ReplicaId, Role, Seat, ServedModel
from router.fleet.roster import Roster
from router.fleet.sessions import Sessions
from router.gateway.account import Account, Books
from router.gateway.exchange import Exchange
from router.gateway.journal import Journal
from router.gateway.misses import Misses
from router.gateway.receipts import Receipts
from router.gateway.stream import Usage
from router.gateway.told import log_line
from router.gateway.trust import EffectiveTrust
from router.index.accuracy import Accuracy
from router.index.budget import Budget
from router.index.counters import Counters
from router.index.guessed import Guessed
from router.index.in_flight import InFlight
from router.index.memory import MemoryIndex
from router.index.open_blocks import OpenBlocks
from router.metrics import Metrics
from router.policy.decider import AllBusy, Decider, open_blocks_for
from router.policy.hold import Line
from router.policy.pipeline import Policy
from router.policy.split import Decision, Split
from router.prompt.blocks import TOKEN_BYTES, BlockHasher, TokenIds, root_hash
from router.prompt.members import read_members
from router.prompt.prompt import Prompt
from router.prompt.read import PREFIX_TOKENS
from router.prompt.request import Endpoint, InferenceRequest
from router.sharing.side import Side
from router.sim.virtual import Arrival, Unsent
from router.sim.wire import BlockRemoved, BlockStored, Event
from router.sim.wires import Legs

MODEL = "sim"
HEARTBEAT_SECONDS = 0.2
HANDSHAKE = "nixl"
_BODY = b"{}"


@dataclass(frozen=True, slots=True)
class Setup:
    """What a router is told before it starts."""

    policy: Policy
    replicas: int
    block_size_tokens: int
    cache_blocks: int
    hears_events: bool = True  # else caches are guessed from what was sent
    prior_tokens_per_second: float = 8_000.0
    max_in_flight: int | None = None
    roles: tuple[Role, ...] = ()  # by replica, of a fleet that can hand KV over; empty: it cannot
    slow_start_seconds: float = 0.0
    open_blocks: Callable[[Iterable[Policy]], OpenBlocks | None] = open_blocks_for


class Brain:
    """One router. `watch` is told every decision, for reports."""

    def __init__(self, setup: Setup, seed: int, watch: Callable[[Exchange], None] | None = None) -> None:
        self._setup = setup
        self._watch = watch
        self._clock = ManualClock()
        self._roster, self._health, self._ledger = Roster(), Health(), Ledger()
        self._rates = Rates(prior_tokens_per_second=setup.prior_tokens_per_second)
        self._sessions = Sessions()
        self._newcomers = Newcomers(setup.slow_start_seconds)
        self.index = MemoryIndex(Budget(1 << 34))
        self._guessed, self.accuracy = Guessed(self.index), Accuracy()
        self._ingest = Ingest(self.index, hash_seed=0)
        self._trust = EffectiveTrust(self._ingest, self.accuracy, lambda *_: None)
        self._hasher = BlockHasher()
        self._root = root_hash(0, MODEL)
        self._open: dict[str, Exchange] = {}
        self._numbers: dict[int, int] = {}  # the next batch of each replica
        self._replaying: set[int] = set()  # replicas that were asked for what is missing
        self._beat = 0.0
        self._line = Line[Arrival]()
        self.open_blocks = setup.open_blocks([setup.policy])
        self.pairs = Pairs()
        self.decider = Decider(
            policy=setup.policy,
            roster=self._roster,
            health=self._health,
            ledger=self._ledger,
            rates=self._rates,
            index=self.index,
            trusts=self._trust,
            sessions=self._sessions,
            rng=Random(seed),
            max_in_flight=setup.max_in_flight,
            open_blocks=self.open_blocks,
            pairs=self.pairs,
            answering_whole=frozenset({HANDSHAKE}),
            newcomers=self._newcomers,
        )
        silence, counters = Silence(), Counters(self.accuracy)
        self.misses = Misses(self.index, self._ingest, self.accuracy, counters, silence)
        self._account = Account(
            Books(
                ledger=self._ledger,
                recent=self.index.recent,
                guessed=self._guessed,
                ingest=self._ingest,
                in_flight=InFlight(),
                accuracy=self.accuracy,
                trust=self._trust,
                rates=self._rates,
                sessions=self._sessions,
                receipts=Receipts(most_receipts=1),
                metrics=Metrics(),
                journal=Journal(None, log_line),
                silence=silence,
                misses=self.misses,
                counters=counters,
                open_blocks=self.open_blocks,
                pairs=self.pairs,
            ),
            self._clock,
        )
        for number in range(setup.replicas):
            role = setup.roles[number] if setup.roles else Role.BOTH
            speaks = HANDSHAKE if setup.roles else None
            seat = self._roster.join(Replica(ReplicaId(f"r{number}"), f"http://r{number}", role, handshake=speaks))
            for room in (self._health, self._ledger, self.accuracy, self._trust):
                room.join(seat)
            told = Facts((ServedModel(MODEL, MODEL),), setup.block_size_tokens, setup.cache_blocks)
            self._roster.update(seat, told)
            self._health.drain(seat, True)  # until it is up
            if setup.hears_events:
                self._ingest.join(seat, MODEL)
            else:
                self._guessed.guess(seat, setup.cache_blocks)

    @property
    def open_requests(self) -> int:
        return len(self._ledger)

    def side(self, router: str, boot: str) -> Side:
        """This router's side of what routers tell each other. Whoever carries the messages asks the fleet to let go of
        held requests after each, so nothing is to be done here where there is room again."""
        return Side(
            router,
            boot,
            roster=self._roster,
            ledger=self._ledger,
            rates=self._rates,
            index=self.index,
            open_blocks=self.open_blocks,
            freed=(),
        )

    # What the fleet tells

    def route(self, arrival: Arrival, now: float) -> int | Legs | Unsent:
        self._advance(now)
        exchange = self._open.get(arrival.request_id)
        if exchange is None:
            exchange = self._open[arrival.request_id] = self._exchange(arrival)
        decision = self._decide(exchange, now)
        rule = self._setup.policy.hold
        if rule is not None and decision is not None and not exchange.attempts and not rule.has_room(decision):
            self._line.join(arrival, rule.turn_seconds(decision, now), now + rule.most_seconds)
            return Unsent.HELD
        if decision is None:
            return Unsent.REFUSED
        self._charge(exchange, decision, now)
        return _sent_to(decision)

    def let_go(self, now: float) -> Sequence[tuple[str, int | Legs]]:
        if not len(self._line):
            return ()
        self._advance(now)
        rule = self._setup.policy.hold
        assert rule is not None
        gone: list[tuple[str, int | Legs]] = []

        def goes(arrival: Arrival, forced: bool) -> bool:
            exchange = self._open[arrival.request_id]
            decision = self._decide(exchange, now)
            if decision is None and forced:  # nobody is there: a live gateway would refuse it, which ends nothing here
                self._line.join(arrival, now, now + rule.most_seconds)
            if decision is None or not (forced or rule.has_room(decision)):
                return False
            self._charge(exchange, decision, now)
            gone.append((arrival.request_id, _sent_to(decision)))
            return True

        self._line.advance(now, goes)
        return gone

    def computed(self, request_id: str, now: float, cached_tokens: int) -> None:
        self._advance(now)
        exchange = self._open[request_id]
        assert isinstance(exchange.decision, Split)
        self._health.succeeded(exchange.decision.prefill.seat, now)
        self._account.computed(exchange, Usage(None, None, cached_tokens))

    def first_token(self, request_id: str, now: float) -> None:
        self._advance(now)
        self._account.tokens(self._open[request_id])

    def finished(self, request_id: str, now: float, cached_tokens: int) -> None:
        self._advance(now)
        exchange = self._open.pop(request_id)
        assert exchange.prompt is not None
        assert exchange.decision is not None
        exchange.status = 200
        exchange.usage = Usage(exchange.prompt.prompt_tokens, None, cached_tokens)
        self._health.succeeded(exchange.decision.seat, now)
        self._account.close(exchange, gone=False)

    def failed(self, request_id: str, now: float) -> None:
        self._advance(now)
        exchange = self._open[request_id]
        assert exchange.decision is not None
        self._health.failed(exchange.decision.seat, now)
        self._account.attempt_failed(exchange, "died", now)

    def heard(self, replica: int, number: int, events: Sequence[Event], now: float) -> int | None:
        self._advance(now)
        if not self._setup.hears_events:
            return None
        expected = self._numbers.get(replica, 0)
        if number > expected:
            if replica in self._replaying:
                return None  # it is in the answer that is on its way
            self._replaying.add(replica)
            return expected
        if number == expected:
            self._replaying.discard(replica)
            self._take(replica, number, events)
        return None

    def replayed(self, replica: int, batches: Sequence[tuple[int, Sequence[Event]]], now: float) -> None:
        self._advance(now)
        self._replaying.discard(replica)
        for number, events in batches:
            expected = self._numbers.get(replica, 0)
            if number > expected:  # rolled out of the engine's buffer: begin anew, the story's beginning missing
                self._ingest.begin(Seat(replica), whole=False)
                self._trust.refresh(Seat(replica))
            if number >= expected:
                self._take(replica, number, events)

    def down(self, replica: int, now: float) -> None:
        self._advance(now)
        self._health.drain(Seat(replica), True)
        self._ingest.stream(Seat(replica), up=False)
        self._trust.refresh(Seat(replica))

    def up(self, replica: int, now: float) -> None:
        self._advance(now)
        seat = Seat(replica)
        self._health.drain(seat, False)
        self._newcomers.came(seat, now)
        self._health.probe_succeeded(seat, now)
        if self._setup.roles:  # warmed up at once, as the gateway does within seconds
            self.pairs.forget(seat)
            for other in self._roster.present():
                self.pairs.opened(seat, other)
                self.pairs.opened(other, seat)
        self._numbers[replica] = 0
        self._replaying.discard(replica)
        if self._setup.hears_events:
            self._ingest.begin(seat, whole=True)
            self._ingest.stream(seat, up=True)
        else:
            self._guessed.clear(seat)
        self._trust.refresh(seat)

    # Parts

    def _decide(self, exchange: Exchange, now: float) -> Decision | None:
        try:
            return self.decider.decide(exchange.ask(frozenset(), now - exchange.arrived_seconds), now)
        except (NoReplica, AllBusy):
            return None

    def _charge(self, exchange: Exchange, decision: Decision, now: float) -> None:
        self._health.admit(decision.seat, now)
        self._account.open(exchange, decision, now)
        if self._watch is not None:
            self._watch(exchange)

    def _take(self, replica: int, number: int, events: Sequence[Event]) -> None:
        seat = Seat(replica)
        self._numbers[replica] = number + 1
        removed: list[EngineHash] = []
        for event in events:
            if isinstance(event, BlockRemoved):
                removed += event.block_hashes  # an event each, as the engine tells them; taken together
                continue
            if removed:
                self._ingest.apply(seat, Removed(tuple(removed)))
                removed.clear()
            if isinstance(event, BlockStored):
                assert isinstance(event.token_ids, array)
                tokens = TokenIds(event.token_ids.tobytes())
                names = tuple(event.block_hashes)
                self._ingest.apply(seat, Stored(names, event.parent_block_hash, tokens, event.block_size))
            else:
                self._ingest.apply(seat, Cleared())
        if removed:
            self._ingest.apply(seat, Removed(tuple(removed)))

    def _advance(self, now: float) -> None:
        self._clock.advance(now - self._clock.now())
        if now >= self._beat:
            self._beat = now + HEARTBEAT_SECONDS
            self.index.recent.expire(now)
            self.index.purge(1000)
            self.misses.beat(self._roster.present(), now)

    def _exchange(self, arrival: Arrival) -> Exchange:
        tokens = TokenIds(arrival.prompt.tobytes())
        count = len(arrival.prompt)
        hashes = self._hasher.hashes(tokens, self._root, self._setup.block_size_tokens)
        prompt = Prompt(
            tokens=tokens,
            prompt_tokens=count,
            total_tokens=count,
            root=self._root,
            hashes={self._setup.block_size_tokens: hashes},
            prefix_key=xxh3_64_intdigest(tokens[: PREFIX_TOKENS * TOKEN_BYTES], seed=self._root),
            prompts=1,
            unpredicted=None,
        )
        request = InferenceRequest(
            endpoint=Endpoint.CHAT,
            body=_BODY,
            members=read_members(_BODY),
            model=MODEL,
            stream=True,
            max_output_tokens=None,  # a live client seldom says how long its answer will be
        )
        exchange = self._account.arrive(Endpoint.CHAT, [])
        exchange.request, exchange.prompt = request, prompt
        exchange.model = exchange.base = MODEL
        exchange.session_key = arrival.session
        exchange.handshakes = frozenset({HANDSHAKE})
        return exchange


def _sent_to(decision: Decision) -> int | Legs:
    if isinstance(decision, Split):
        return Legs(int(decision.prefill.seat), int(decision.seat))
    return int(decision.seat)
