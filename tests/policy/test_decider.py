"""The decider over the real roster, health, ledger, rates, sessions and index."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest

from router.errors import NoReplica, UnknownModel
from router.fleet.health import Health
from router.fleet.ledger import LeaseId, Ledger
from router.fleet.newcomers import Newcomers
from router.fleet.rates import Rates
from router.fleet.replica import Facts, FloatArray, IntArray, Replica, ReplicaId, Seat, ServedModel
from router.fleet.roster import Roster
from router.fleet.sessions import Sessions
from router.index.base import Match, Trust
from router.index.budget import Budget
from router.index.memory import MemoryIndex
from router.index.open_blocks import OpenBlocks
from router.policy.belief import BELIEF_BY_TRUST
from router.policy.candidate import Ask
from router.policy.decider import AllBusy, Decider
from router.policy.decision import Whole
from router.policy.load import load
from router.prompt.blocks import BlockHashes

BLOCK = 16


class Trusted:
    """Trust by seat, as the stream and the responses together would say."""

    def __init__(self) -> None:
        self.by_seat = np.full(256, Trust.EXACT, dtype=np.int64)
        self.confirmed = np.full(256, 0.5)
        self.version = 0

    def put(self, seat: int, trust: Trust) -> None:
        self.by_seat[seat] = trust
        self.version += 1

    def effective(self, seats: IntArray) -> IntArray:
        trust: IntArray = self.by_seat[seats]
        return trust

    def belief(self, seats: IntArray) -> FloatArray:
        trust = self.by_seat[seats]
        belief: FloatArray = np.where(trust == Trust.GUESSED, self.confirmed[seats], BELIEF_BY_TRUST[trust])
        return belief


class CountedIndex(MemoryIndex):
    """An index that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(Budget(1 << 24))
        self.asked: list[tuple[int, list[int]]] = []

    def match(self, hashes: BlockHashes, seats: IntArray, unit: int = 1) -> Match:
        self.asked.append((len(hashes), seats.tolist()))
        return super().match(hashes, seats, unit)


class House:
    """A fleet of one model, `m` by its base `base`, and a decider over it."""

    def __init__(
        self,
        replicas: int = 3,
        policy: str = "cache_aware",
        block_sizes: tuple[int | None, ...] = (BLOCK,),
        seed: int = 1,
        max_in_flight: int | None = None,
        cache_blocks: int | None = None,
        open_blocks: OpenBlocks | None = None,
    ) -> None:
        self.roster, self.health, self.ledger, self.rates = Roster(), Health(), Ledger(), Rates()
        self.index, self.trusts, self.sessions = CountedIndex(), Trusted(), Sessions()
        self.newcomers = Newcomers()
        for number in range(replicas):
            seat = self.roster.join(Replica(ReplicaId(f"r{number}"), f"http://r{number}:8000"))
            told = Facts((ServedModel("m", "base"),), block_sizes[number % len(block_sizes)], cache_blocks)
            self.roster.update(seat, told)
            self.health.join(seat)
            self.ledger.join(seat)
            self.index.join(seat)
        self.decider = Decider(
            policy=load(policy),
            roster=self.roster,
            health=self.health,
            ledger=self.ledger,
            rates=self.rates,
            index=self.index,
            trusts=self.trusts,
            sessions=self.sessions,
            rng=Random(seed),
            max_in_flight=max_in_flight,
            open_blocks=open_blocks,
        )

    def warm(self, seat: int, blocks: int) -> None:
        self.index.store_run(Seat(seat), hashes(blocks), None)

    def charge(self, seat: int, uncached_tokens: int = 0) -> LeaseId:
        return self.ledger.open(
            Seat(seat),
            uncached_tokens=uncached_tokens,
            prompt_tokens=uncached_tokens,
            output_tokens_estimate=100,
            streamed=True,
            now_seconds=0.0,
            prefill_ends_at_seconds=9.0,
        )

    def ask(self, prompt_tokens: int = 4_100, **rest: Any) -> Whole:  # Any: any field of Ask
        decision = self.decider.decide(ask(prompt_tokens, **rest), now_seconds=10.0)
        assert isinstance(decision, Whole)
        return decision


def hashes(blocks: int) -> BlockHashes:
    """The first so many blocks of one and the same prompt."""
    return array("Q", range(1_000, 1_000 + blocks))


def ask(prompt_tokens: int = 4_100, *, block_sizes: tuple[int, ...] = (BLOCK,), **rest: Any) -> Ask:
    by_size = {size: hashes(prompt_tokens // size) for size in block_sizes}
    return Ask(model="m", prompt_tokens=prompt_tokens, **{"hashes": by_size, **rest})


def test_a_newcomer_is_passed_over_until_its_share_has_grown_but_for_what_is_warm_there_alone() -> None:
    house = House(policy="least_loaded")
    house.decider = Decider(
        policy=house.decider.policy, roster=house.roster, health=house.health, ledger=house.ledger, rates=house.rates,
        index=house.index, trusts=house.trusts, sessions=house.sessions, rng=Random(1), newcomers=house.newcomers,
    )  # fmt: skip
    house.newcomers.came(Seat(2), 9.0)
    for seat in (0, 0, 1, 1, 2):
        house.charge(seat, uncached_tokens=100)
    eased = house.ask()
    assert eased.replica in ("r0", "r1")
    assert eased.reason.startswith("slow_start+")
    assert [entry["allowed"] for entry in eased.explain()] == [True] * 3
    house.warm(2, blocks=100)
    assert house.ask().replica == "r2"
    assert house.ask(exclude=frozenset({Seat(0), Seat(1)})).replica == "r2"


def test_a_decision_carries_what_the_ledger_and_the_judge_need() -> None:
    house = House()
    house.warm(1, blocks=200)
    house.charge(1, uncached_tokens=800)
    made = house.ask(4_100, other_tokens=300)
    assert (made.replica, made.seat, made.block_size_tokens, made.trust) == ("r1", 1, BLOCK, Trust.EXACT)
    assert made.predicted_cached_tokens == made.expected_cached_tokens == 3_200
    assert made.uncached_tokens == 4_100 + 300 - 3_200
    assert made.queue_seconds == pytest.approx(0.1)
    assert made.prefill_seconds == pytest.approx(1_200 / 8_000)
    assert made.cost_seconds == pytest.approx(0.1 + 6 * 1_200 / 8_000 + 0.0005)
    assert (made.policy, made.rule) == ("cache_aware", "lowest_cost")


@pytest.mark.parametrize(("prompt_tokens", "cached_tokens"), [(161, 160), (160, 144), (159, 144), (16, 0), (17, 16)])
def test_the_last_token_of_a_prompt_is_never_cached(prompt_tokens: int, cached_tokens: int) -> None:
    house = House(replicas=1)
    house.warm(0, blocks=50)
    assert house.ask(prompt_tokens).predicted_cached_tokens == cached_tokens


def test_what_our_open_requests_will_have_cached_is_expected_but_not_predicted() -> None:
    house = House()
    house.index.recent.open(7, Seat(2), hashes(256), 0)
    house.charge(2, uncached_tokens=4_100)
    made = house.ask(4_100)
    assert (made.replica, made.predicted_cached_tokens, made.expected_cached_tokens) == ("r2", 0, 4_096)


def test_a_burst_of_siblings_lands_together_and_strangers_spread() -> None:
    house = House(replicas=4)

    def arrive(lease: int, request: Ask) -> ReplicaId:
        made = house.decider.decide(request, 10.0)
        house.charge(made.seat, made.uncached_tokens)
        house.index.recent.open(lease, made.seat, request.hashes[BLOCK], made.predicted_cached_tokens // BLOCK)
        return made.replica

    assert len({arrive(lease, ask(4_100)) for lease in range(10)}) == 1
    strangers = (array("Q", range(10_000 * number, 10_000 * number + 256)) for number in range(1, 13))
    homes = Counter(arrive(100 + n, ask(hashes={BLOCK: chain})) for n, chain in enumerate(strangers))
    assert len(homes) == 4
    assert max(homes.values()) <= 4


def test_without_hashes_nothing_is_predicted_and_the_index_is_not_asked() -> None:
    house = House()
    house.warm(0, blocks=250)
    house.charge(0, uncached_tokens=4_000)
    made = house.ask(hashes={})
    assert made.replica != "r0"
    assert (made.predicted_cached_tokens, made.uncached_tokens) == (0, 4_100)
    assert house.index.asked == []


def test_each_block_size_is_looked_up_once_and_a_replica_that_told_none_never() -> None:
    house = House(replicas=5, block_sizes=(16, 64, None))
    house.warm(1, blocks=60)
    made = house.ask(4_100, block_sizes=(16, 64))
    assert house.index.asked == [(256, [0, 3]), (64, [1, 4])]
    assert (made.replica, made.predicted_cached_tokens, made.block_size_tokens) == ("r1", 60 * 64, 64)
    assert [row["held_tokens"] for row in sorted(made.explain(), key=lambda row: str(row["replica"]))] == [
        0,
        3_840,
        0,
        0,
        0,
    ]


def test_a_block_size_learned_after_the_prompt_was_hashed_matches_nothing_yet() -> None:
    house = House(block_sizes=(32,))
    assert house.ask(4_100, block_sizes=(16,)).predicted_cached_tokens == 0
    assert house.index.asked == []


def test_a_guess_counts_for_the_share_that_was_lately_confirmed_and_is_still_judged_whole() -> None:
    house = House(replicas=2)
    house.warm(0, blocks=200)
    house.trusts.put(0, Trust.GUESSED)
    made = house.ask(4_100)
    assert (made.replica, made.trust, made.predicted_cached_tokens) == ("r0", Trust.GUESSED, 3_200)
    assert made.uncached_tokens == 4_100 - 1_600


def test_a_replica_that_is_not_trusted_is_chosen_by_load_and_still_judged() -> None:
    house = House(replicas=1)
    house.warm(0, blocks=200)
    house.trusts.put(0, Trust.LOAD_ONLY)
    made = house.ask(4_100)
    assert (made.predicted_cached_tokens, made.uncached_tokens) == (3_200, 4_100)


def test_an_unknown_model_is_refused_by_name() -> None:
    with pytest.raises(UnknownModel, match="`other` does not exist"):
        House().decider.decide(Ask("other", 10), 0.0)


def test_a_known_model_whose_replicas_all_left_has_no_replica() -> None:
    house = House(replicas=1)
    house.roster.leave(ReplicaId("r0"))
    with pytest.raises(NoReplica):
        house.ask()


def test_unhealthy_and_excluded_replicas_are_never_chosen() -> None:
    house = House(replicas=3)
    house.warm(0, blocks=250)
    house.warm(1, blocks=250)
    house.health.drain(Seat(0))
    made = house.ask(exclude=frozenset({Seat(1)}))
    assert made.replica == "r2"
    assert [row["allowed"] for row in made.explain()] == [True, False, False]


def test_nobody_healthy_and_nobody_left_to_try_are_told_apart_from_everybody_busy() -> None:
    house = House(replicas=2, max_in_flight=1)
    house.health.drain(Seat(0))
    with pytest.raises(NoReplica, match="has been tried"):
        house.ask(exclude=frozenset({Seat(1)}))
    lease = house.charge(1)
    with pytest.raises(AllBusy, match="1 requests in flight"):
        house.ask()
    house.ledger.close(lease)
    assert house.ask().replica == "r1"
    house.health.drain(Seat(1))
    with pytest.raises(NoReplica, match="None of the 2 replicas that serve `m` is healthy"):
        house.ask()


def test_a_replica_at_its_cap_is_passed_over() -> None:
    house = House(replicas=2, max_in_flight=2)
    house.warm(0, blocks=250)
    house.charge(0)
    assert house.ask().replica == "r0"
    house.charge(0)
    assert house.ask().replica == "r1"


def test_a_prefill_whose_predicted_end_has_come_is_no_longer_queued() -> None:
    house = House(replicas=1)
    house.ledger.open(
        Seat(0),
        uncached_tokens=80_000,
        prompt_tokens=80_000,
        output_tokens_estimate=1,
        streamed=False,
        now_seconds=0.0,
        prefill_ends_at_seconds=10.0,
    )
    assert house.decider.decide(ask(), 9.9).queue_seconds == 10.0
    assert house.decider.decide(ask(), 10.0).queue_seconds == 0.0


def test_rates_are_those_of_the_models_base() -> None:
    house = House(replicas=1)
    for _ in range(200):
        house.rates.observe(
            "base", Seat(0), streamed=True, uncached_tokens=4_000, ttft_seconds=0.1, predicted_queue_seconds=0.0
        )
    assert house.ask(hashes={}).prefill_seconds == pytest.approx(4_100 / 40_000, rel=0.1)


def test_a_session_returns_to_where_it_was_served() -> None:
    house = House(policy="session_sticky")
    house.sessions.bind("s", Seat(2), 5.0)
    made = house.ask(session_key="s")
    assert (made.replica, made.rule) == ("r2", "session_home+lowest_cost")
    assert house.ask(session_key="other").rule.startswith("session_new")


def test_round_robin_takes_turns_per_model_and_includes_a_newcomer() -> None:
    house = House(replicas=2, policy="round_robin")
    assert [house.ask().replica for _ in range(3)] == ["r0", "r1", "r0"]
    seat = house.roster.join(Replica(ReplicaId("r2"), "http://r2:8000"))
    house.roster.update(seat, Facts((ServedModel("m", "base"),)))
    house.health.join(seat)
    assert [house.ask().replica for _ in range(3)] == ["r1", "r2", "r0"]


def test_the_same_seed_makes_the_same_decisions() -> None:
    def decisions(seed: int) -> list[str]:
        house = House(replicas=8, seed=seed)
        made = []
        for number in range(40):
            decision = house.ask(500 + 10 * number, hashes={})
            house.charge(decision.seat, decision.uncached_tokens)
            made.append(str(decision.replica))
        return made

    assert decisions(1) == decisions(1)
    assert decisions(1) != decisions(2)


def test_what_a_decision_was_made_from_does_not_change_with_the_ledger() -> None:
    house = House(replicas=1)
    made = house.ask()
    before = made.explain()
    house.charge(0, uncached_tokens=5_000)
    assert made.explain() == before


def test_a_policy_that_reads_open_blocks_is_told_what_open_requests_use_and_share() -> None:
    open_blocks = OpenBlocks()
    house = House(policy="dynamo", block_sizes=(BLOCK, 2 * BLOCK), open_blocks=open_blocks)
    open_blocks.open(1, Seat(0), hashes(300), BLOCK)
    open_blocks.open(2, Seat(1), hashes(50), 2 * BLOCK)
    told = house.ask(4_100, block_sizes=(BLOCK, 2 * BLOCK)).candidates
    assert told.used_tokens.tolist() == [300 * BLOCK, 100 * BLOCK, 0]
    assert told.shared_tokens.tolist() == [4_100 // BLOCK * BLOCK, 100 * BLOCK, 0]


def test_a_policy_is_told_how_long_a_request_was_held_back() -> None:
    house = House()
    assert house.ask(waited_seconds=2.5).candidates.waited_seconds == 2.5
    assert house.ask().candidates.waited_seconds == 0.0


def test_others_are_told_nothing_of_open_blocks() -> None:
    told = House().ask().candidates
    assert not told.used_tokens.any()
    assert not told.shared_tokens.any()


@pytest.mark.parametrize(("cache_blocks", "cache_tokens"), [(1_000, 1_000.0 * BLOCK), (None, math.inf)])
def test_a_cache_holds_what_the_replica_said(cache_blocks: int | None, cache_tokens: float) -> None:
    assert House(cache_blocks=cache_blocks).ask().candidates.cache_tokens.tolist() == [cache_tokens] * 3
