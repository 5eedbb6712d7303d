"""The decider: gathers what is known about every replica that could answer, lets the policy choose, and says why.

One synchronous stretch: nothing may happen between the reading of load and the caller's charge on the ledger, or two
requests would both see the same idle replica. So `decide` never awaits, and the caller charges right after it.

Constraints are enforced here, closed: model, health, exclusions, the cap on requests in flight. Preferences are the
policy's, and fail open: without hashes, trust or a match the columns say 0 and load decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

import msgspec
import numpy as np

from router.errors import HomingError, NoReplica
from router.fleet.pairs import Pairs
from router.fleet.replica import BoolArray, Facts, FloatArray, IntArray, ReplicaId, Seat
from router.index.base import Index
from router.index.open_blocks import GRAIN_TOKENS, OpenBlocks
from router.policy.candidate import Ask, Candidates, KeyArray, id_keys
from router.policy.decision import chosen
from router.policy.divider import Divider
from router.policy.pickers import Turn
from router.policy.pipeline import Policy
from router.policy.pools import Pools, pools_of
from router.policy.sources import Health, Ledger, Newcomers, Rates, Roster, Sessions, Trusts, UsedBlocks
from router.policy.split import Decision

SLOW_START = "slow_start"  # in the rule of a decision for which newcomers were passed over

# A fleet has one pattern of trust while all is well; this many are kept while replicas join and catch up.
REMEMBERED_BELIEFS = 32


class AllBusy(HomingError):
    """Healthy replicas serve the model, but each has all the requests it may have: wait for one to finish."""

    status = 429
    kind = "rate_limit_error"
    retry_after_seconds = 1.0


@dataclass(frozen=True, slots=True)
class _Column:
    """The replicas of one block size: their rows among the model's, and their seats."""

    block_size_tokens: int
    rows: IntArray
    seats: IntArray


@dataclass(frozen=True, slots=True)
class _Fleet:
    """What only a change of the roster can change, for one model."""

    base: str
    seats: IntArray
    ids: tuple[ReplicaId, ...]
    id_keys: KeyArray
    block_sizes: tuple[int | None, ...]
    columns: tuple[_Column, ...]
    cache_tokens: FloatArray
    no_tokens: FloatArray  # zeros
    everyone: BoolArray  # all true
    every_row: IntArray
    pools: Pools | None  # None: nobody has a role


@dataclass(frozen=True, slots=True)
class _Known:
    """What a model's replicas showed of themselves, as columns: read anew only when some of it changed."""

    versions: tuple[int, int]
    tokens_per_second: FloatArray
    seconds_per_token: FloatArray
    trust: IntArray
    belief: FloatArray
    all_believed: bool


class Decider:
    """Decides for all models of one fleet under one policy. Holds only whose turn it is and what the roster implies."""

    def __init__(
        self,
        *,
        policy: Policy,
        roster: Roster,
        health: Health,
        ledger: Ledger,
        rates: Rates,
        index: Index,
        trusts: Trusts,
        sessions: Sessions,
        rng: Random,
        max_in_flight: int | None = None,  # open requests per replica
        open_blocks: UsedBlocks | None = None,  # for a policy that reads them
        pairs: Pairs | None = None,  # for fleets whose replicas have roles
        answering_whole: frozenset[str] = frozenset(),  # handshakes whose engines can answer alone
        newcomers: Newcomers | None = None,  # None: whoever comes gets what its price draws
    ) -> None:
        self._roster = roster
        self._health = health
        self._ledger = ledger
        self._rates = rates
        self._index = index
        self._trusts = trusts
        self._sessions = sessions
        self._rng = rng
        self._pairs = pairs
        self._answering_whole = answering_whole
        self.heed(policy, max_in_flight, open_blocks)
        self._newcomers = newcomers
        self._fleets: dict[str, _Fleet] = {}
        self._known: dict[str, _Known] = {}
        self._fleets_version = -1
        self._turns: dict[str, Turn] = {}  # bounded by the models ever served

    def heed(self, policy: Policy, max_in_flight: int | None, open_blocks: UsedBlocks | None) -> None:
        """Decide by this policy from now on. What is known of replicas and whose turn it is stays."""
        self.policy = policy
        self._max_in_flight = max_in_flight
        self._open_blocks = open_blocks
        splitter, pairs = policy.splitter, self._pairs
        self._divider = None if splitter is None or pairs is None else Divider(policy, splitter, pairs)

    def decide(self, ask: Ask, now_seconds: float) -> Decision:
        """Where the request goes. Raises UnknownModel, NoReplica (nobody healthy is left to try) or AllBusy."""
        fleet = self._fleet(ask.model)
        seats = fleet.seats
        self._ledger.advance(now_seconds)
        open_requests = self._ledger.open_requests[seats]
        cap = self._max_in_flight
        full = cap is not None and len(self._ledger) + self._ledger.all_peer_requests >= cap  # one of them may be
        if self._health.calm and not ask.exclude and not full and fleet.ids:
            allowed, rows = fleet.everyone, fleet.every_row
        else:
            allowed = self._allowed(ask, seats, open_requests, now_seconds)
            rows = allowed.nonzero()[0]
            if not len(rows):
                raise self._refusal(ask, seats, now_seconds)
        pools, able, splittable = fleet.pools, allowed, allowed
        if pools is not None:
            able = pools.able_alone(allowed)
            rows = able.nonzero()[0]
        held, slower, expected = self._matched(ask, fleet)
        newcomers, eased = self._newcomers, False
        if newcomers is not None and now_seconds < newcomers.settled_at_seconds:

            def ease(among: BoolArray) -> BoolArray:
                return newcomers.eased(seats, among, open_requests, expected, now_seconds)

            fewer = ease(able).nonzero()[0]
            rows, eased = fewer, len(fewer) < len(rows)
            if pools is not None:
                splittable = pools.eased(allowed, ease)
        used = shared = fleet.no_tokens
        if self._open_blocks is not None:
            used = self._open_blocks.tokens_of(seats)
            if self._open_blocks.exact:
                shared = self._shared(ask, fleet, self._open_blocks)
        known = self._known.get(ask.model)
        if known is None or known.versions != (self._rates.version, self._trusts.version):
            known = self._known[ask.model] = self._look_again(fleet)
        session_key = ask.session_key
        candidates = Candidates(
            ids=fleet.ids,
            id_keys=fleet.id_keys,
            seats=seats,
            held_tokens=held,
            slower_tokens=slower,
            expected_tokens=expected,
            queued_tokens=self._ledger.queued_tokens[seats],
            open_requests=open_requests,
            context_tokens=self._ledger.context_tokens[seats],
            used_tokens=used,
            shared_tokens=shared,
            cache_tokens=fleet.cache_tokens,
            tokens_per_second=known.tokens_per_second,
            seconds_per_token=known.seconds_per_token,
            trust=known.trust,
            belief=known.belief,
            all_believed=known.all_believed,
            allowed=allowed,
            prompt_tokens=ask.prompt_tokens,
            other_tokens=ask.other_tokens,
            prefix_key=ask.prefix_key,
            session_seat=None if session_key is None else self._sessions.get(session_key, now_seconds),
            waited_seconds=ask.waited_seconds,
            able_alone=None if pools is None else able,
        )
        turn = self._turns.get(ask.model)
        if turn is None:
            turn = self._turns[ask.model] = Turn(self._rng)
        if pools is not None:
            return self._in_pools(ask, fleet, pools, candidates, splittable, rows, turn, eased=eased)
        row, rule, total_seconds = self.policy.choose(candidates, rows, turn)
        if eased:
            rule = f"{SLOW_START}+{rule}"
        turn.last_seat = Seat(seats.item(row))
        return chosen(candidates, row, fleet.block_sizes[row], self.policy, rule, total_seconds)

    def _in_pools(
        self,
        ask: Ask,
        fleet: _Fleet,
        pools: Pools,
        candidates: Candidates,
        splittable: BoolArray,
        rows: IntArray,
        turn: Turn,
        *,
        eased: bool,
    ) -> Decision:
        """Where replicas have roles: on one of `rows`, which may be none, or split over two of `splittable`."""
        alone = self.policy.choose(candidates, rows, turn) if len(rows) else None
        why = "whole_never_split"
        if self._divider is not None:
            prices = self.policy.price(candidates) if alone is None else alone.cost_seconds
            divided = self._divider.divide(ask, pools, candidates, splittable, prices, alone, fleet.block_sizes, turn)
            spares_newcomers = splittable is not candidates.allowed
            if isinstance(divided, str) and alone is None and spares_newcomers:  # which is a preference, no refusal
                spares_newcomers = False
                divided = self._divider.divide(
                    ask, pools, candidates, candidates.allowed, prices, alone, fleet.block_sizes, turn
                )
            if not isinstance(divided, str):
                turn.last_seat = divided.seat
                if spares_newcomers:
                    return msgspec.structs.replace(divided, rule=f"{SLOW_START}+{divided.rule}")
                return divided
            why = divided
        if alone is None:
            raise NoReplica(
                f"No replica of `{ask.model}` that is left can answer a request alone, and it was not split "
                f"({why.removeprefix('whole_').replace('_', ' ')}). Policies that split: disaggregated."
            )
        turn.last_seat = Seat(candidates.seats.item(alone.row))
        rule = f"{SLOW_START}+{alone.rule}+{why}" if eased else f"{alone.rule}+{why}"
        return chosen(candidates, alone.row, fleet.block_sizes[alone.row], self.policy, rule, alone.cost_seconds)

    def _fleet(self, model: str) -> _Fleet:
        if self._fleets_version != self._roster.version:
            self._fleets, self._known = {}, {}
            self._fleets_version = self._roster.version
        fleet = self._fleets.get(model)
        if fleet is None:
            fleet = self._fleets[model] = _fleet_of(self._roster, model, self._answering_whole)
        return fleet

    def _look_again(self, fleet: _Fleet) -> _Known:
        rates = self._rates.tokens_per_second(fleet.base, fleet.seats)
        belief = self._trusts.belief(fleet.seats)
        return _Known(
            versions=(self._rates.version, self._trusts.version),
            tokens_per_second=rates,
            seconds_per_token=1.0 / rates,
            trust=self._trusts.effective(fleet.seats),
            belief=belief,
            all_believed=bool((belief == 1.0).all()),
        )

    def _allowed(self, ask: Ask, seats: IntArray, open_requests: FloatArray, now_seconds: float) -> BoolArray:
        allowed = self._health.allowed(seats, now_seconds)
        cap = self._max_in_flight
        if cap is not None and len(seats) and open_requests.item(open_requests.argmax()) >= cap:
            allowed = allowed & (open_requests < cap)
        if ask.exclude:
            allowed = allowed & ~np.isin(seats, list(ask.exclude))
        return allowed

    def _refusal(self, ask: Ask, seats: IntArray, now_seconds: float) -> HomingError:
        healthy = seats[self._health.allowed(seats, now_seconds)]
        if not len(healthy):
            return NoReplica(
                f"None of the {len(seats)} replicas that serve `{ask.model}` is healthy.",
                retry_after_seconds=self._health.retry_after_seconds(seats, now_seconds) if len(seats) else 1.0,
            )
        if ask.exclude.issuperset(healthy.tolist()):
            return NoReplica(f"Every healthy replica that serves `{ask.model}` has been tried for this request.")
        return AllBusy(
            f"Every healthy replica that serves `{ask.model}` has its {self._max_in_flight} requests in flight.",
            code="all_busy",
        )

    def _matched(self, ask: Ask, fleet: _Fleet) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Held, slower and expected tokens by row. One index lookup per distinct block size, none without hashes."""
        if not ask.hashes:
            return fleet.no_tokens, fleet.no_tokens, fleet.no_tokens
        held = slower = expected = fleet.no_tokens
        for column in fleet.columns:
            size = column.block_size_tokens
            hashes = ask.hashes.get(size)
            if not hashes:
                continue
            # The hit rule: a prompt's last token is always computed, so its last block never hits when it is full.
            reachable = (ask.prompt_tokens - 1) // size
            if len(hashes) > reachable:
                hashes = hashes[:reachable]
            match = self._index.match(hashes, column.seats, size)
            if len(column.rows) == len(fleet.ids):
                return match.held, match.slower, match.expected
            if held is fleet.no_tokens:
                held, slower, expected = held.copy(), held.copy(), held.copy()
            held[column.rows] = match.held
            slower[column.rows] = match.slower
            expected[column.rows] = match.expected
        return held, slower, expected

    def _shared(self, ask: Ask, fleet: _Fleet, open_blocks: UsedBlocks) -> FloatArray:
        """By row, the leading tokens of this prompt that open requests use there."""
        shared = fleet.no_tokens.copy()
        for column in fleet.columns:
            hashes = ask.hashes.get(column.block_size_tokens)
            if hashes:
                blocks = open_blocks.shared_blocks(hashes, column.seats)
                shared[column.rows] = blocks * column.block_size_tokens
        return shared


def open_blocks_for(policies: Iterable[Policy]) -> OpenBlocks | None:
    """What these policies have to be told about the blocks that open requests use: nothing, by grains, or all."""
    policies = list(policies)
    if not any(policy.reads_open_blocks for policy in policies):
        return None
    return OpenBlocks(None if any(policy.reads_shared_blocks for policy in policies) else GRAIN_TOKENS)


def _fleet_of(roster: Roster, model: str, answering_whole: frozenset[str]) -> _Fleet:
    seats, ids = roster.serving(model), roster.serving_ids(model)
    facts = [roster.facts(Seat(seat)) for seat in seats.tolist()]
    block_sizes = tuple(told.block_size_tokens for told in facts)
    columns = []
    for size in sorted({size for size in block_sizes if size is not None}):
        rows = np.array([row for row, of_row in enumerate(block_sizes) if of_row == size], dtype=np.int64)
        columns.append(_Column(size, rows, seats[rows]))
    cache_tokens = np.array([_cache_tokens(told) for told in facts], dtype=np.float64)
    no_tokens = np.zeros(len(seats))
    everyone = np.ones(len(seats), dtype=np.bool_)
    every_row = np.arange(len(seats), dtype=np.int64)
    for shared in (cache_tokens, no_tokens, everyone, every_row):
        shared.setflags(write=False)
    return _Fleet(
        base=roster.served(model).base,
        seats=seats,
        ids=ids,
        id_keys=id_keys(ids),
        block_sizes=block_sizes,
        columns=tuple(columns),
        cache_tokens=cache_tokens,
        no_tokens=no_tokens,
        everyone=everyone,
        every_row=every_row,
        pools=pools_of([roster.replica(Seat(seat)) for seat in seats.tolist()], facts, answering_whole),
    )


def _cache_tokens(told: Facts) -> float:
    if told.cache_blocks is None or told.block_size_tokens is None:
        return math.inf
    return told.cache_blocks * told.block_size_tokens
