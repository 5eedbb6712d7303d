"""When a request is split, and over which two replicas."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest

from router.errors import NoReplica
from router.fleet.health import Health
from router.fleet.ledger import Ledger
from router.fleet.newcomers import Newcomers
from router.fleet.pairs import Pairs
from router.fleet.rates import Rates
from router.fleet.replica import Facts, Replica, ReplicaId, Role, Seat, ServedModel
from router.fleet.roster import Roster
from router.fleet.sessions import Sessions
from router.index.base import Trust
from router.index.budget import Budget
from router.index.memory import MemoryIndex
from router.policy.candidate import Ask, Candidate, Candidates
from router.policy.decider import Decider
from router.policy.decision import Whole
from router.policy.load import load
from router.policy.pickers import Turn
from router.policy.pools import pools_of
from router.policy.reading import parse
from router.policy.split import Decision, Split
from router.policy.splitters import Habit, Joint, View
from tests.policy.test_decider import BLOCK, Trusted, hashes

P, D, BOTH = Role.PREFILL, Role.DECODE, Role.BOTH
ANSWERING = frozenset({"nixl"})
POLICY = "name: x\ndescription: y\nscorers: {queue_wait: {}, prefill: {}, open_requests: {}}\npicker: lowest_cost\n"


class Fleet:
    """A model on replicas with roles, every pair warm, and a decider over it."""

    def __init__(
        self,
        *roles: Role,
        split: str | None = None,
        handshake: str | None = "nixl",
        versions: Sequence[str] = (),
        zones: Sequence[str] = (),
        warm: bool = True,
    ) -> None:
        self.roster, self.health, self.ledger = Roster(), Health(), Ledger()
        self.index, self.pairs, trusts = MemoryIndex(Budget(1 << 24)), Pairs(), Trusted()
        self.newcomers = Newcomers()
        for number, role in enumerate(roles):
            labels = {"zone": zones[number]} if zones else {}
            name = ReplicaId(f"{role.value[0]}{number}")
            seat = self.roster.join(Replica(name, f"http://r{number}:8000", role, labels))
            version = versions[number] if versions else "0.32.0"
            told = Facts((ServedModel("m", "base"),), BLOCK, version=version, handshake=handshake)
            self.roster.update(seat, told)
            self.health.join(seat)
            self.ledger.join(seat)
            self.index.join(seat)
            trusts.put(seat, Trust.EXACT)
        for donor in range(len(roles)):
            for taker in range(len(roles)):
                if warm:
                    self.pairs.opened(Seat(donor), Seat(taker))
        named = f"{{{split}}}" if split and ":" in split else split
        policy = load("disaggregated") if split is None else parse(f"{POLICY}split: {named}\n", "test.yaml")
        self.decider = Decider(
            policy=policy,
            roster=self.roster,
            health=self.health,
            ledger=self.ledger,
            rates=Rates(),
            index=self.index,
            trusts=trusts,
            sessions=Sessions(),
            rng=Random(1),
            pairs=self.pairs,
            answering_whole=ANSWERING,
            newcomers=self.newcomers,
        )

    def warm(self, seat: int, blocks: int) -> None:
        self.index.store_run(Seat(seat), hashes(blocks), None)

    def queue(self, seat: int, tokens: int = 0, requests: int = 1) -> None:
        """Work at a replica: prefill tokens, or answers that run."""
        for _ in range(requests):
            lease = self.ledger.open(
                Seat(seat),
                uncached_tokens=tokens // requests,
                prompt_tokens=100,
                output_tokens_estimate=100,
                streamed=True,
                now_seconds=0.0,
                prefill_ends_at_seconds=9.0,
            )
            if not tokens:
                self.ledger.first_token(lease)

    def ask(self, tokens: int = 8_192, **rest: Any) -> Decision:
        asked = {"handshakes": frozenset({"nixl", "sglang"}), **rest}
        return self.decider.decide(Ask("m", tokens, {BLOCK: hashes(tokens // BLOCK)}, **asked), 10.0)


def over(decision: Decision) -> tuple[str, ...]:
    """The replicas it goes to."""
    if isinstance(decision, Split):
        return decision.prefill.replica, decision.replica
    return (decision.replica,)


def test_an_idle_decode_replica_computes_as_soon_itself_and_is_left_to() -> None:
    decision = Fleet(P, D).ask()
    assert over(decision) == ("d1",)
    assert isinstance(decision, Whole)
    assert decision.rule.endswith("+whole_is_sooner")


def test_a_decode_replica_whose_running_answers_would_stall_has_the_prompt_computed_elsewhere() -> None:
    fleet = Fleet(P, D)
    fleet.queue(1, requests=60)
    decision = fleet.ask()
    assert over(decision) == ("p0", "d1")
    assert decision.rule == "split_joint"


def test_what_the_prefill_replica_has_cached_is_handed_over_rather_than_computed_again() -> None:
    fleet = Fleet(P, D)
    fleet.warm(0, 8_000 // BLOCK)
    decision = fleet.ask()
    assert over(decision) == ("p0", "d1")
    assert decision.predicted_cached_tokens == 8_000 // BLOCK * BLOCK, "what the donor has is what will be reported"


def test_a_prompt_the_decode_replica_has_cached_stays_there_however_long_it_is() -> None:
    fleet = Fleet(P, D)
    fleet.queue(1, requests=60)
    fleet.warm(1, 8_000 // BLOCK)
    decision = fleet.ask()
    assert over(decision) == ("d1",)
    assert isinstance(decision, Whole)
    assert decision.rule.endswith("+whole_little_to_compute")


def test_a_prefill_replica_with_a_long_queue_is_not_waited_for() -> None:
    fleet = Fleet(P, D)
    fleet.queue(1, requests=20)
    fleet.queue(0, tokens=30_000)
    assert over(fleet.ask()) == ("d1",)


def test_the_pair_is_chosen_together_not_one_after_the_other() -> None:
    fleet = Fleet(P, P, D, D)
    for taker in (2, 3):
        fleet.queue(taker, requests=60)
    for _ in range(40):  # p0 is slow to d2 and d3 alike, p1 to d2 alone
        for donor, taker in ((0, 2), (0, 3), (1, 2)):
            fleet.pairs.observe(Seat(donor), Seat(taker), tokens=8_000, seconds=0.6)
    assert over(fleet.ask()) == ("p1", "d3")


def test_a_slow_wire_keeps_a_request_whole() -> None:
    fleet = Fleet(P, D)
    fleet.queue(1, requests=20)
    for _ in range(60):
        fleet.pairs.observe(Seat(0), Seat(1), tokens=8_000, seconds=5.0)
    assert over(fleet.ask()) == ("d1",)


def test_sizes_that_are_split_go_on_being_split_while_there_is_anything_to_gain() -> None:
    fleet = Fleet(P, D)
    fleet.queue(1, requests=1)  # the split saves a little, less than the margin
    assert over(fleet.ask(9_600)) == ("d1",)
    fleet.queue(1, requests=59)
    assert over(fleet.ask(9_600)) == ("p0", "d1")
    fresh, habit = Fleet(P, D), fleet
    fresh.queue(1, requests=1)
    habit.ledger = fresh.ledger
    habit.decider._ledger = fresh.ledger
    assert over(fresh.ask(9_600)) == ("d1",)
    assert over(habit.ask(9_600)) == ("p0", "d1")


def test_what_answering_costs_at_the_taker_is_no_reason_to_split() -> None:
    """Its cache is as full for a request that comes with its KV as for one that is computed there."""
    columns = [
        Candidate(ReplicaId("p0"), Seat(0), tokens_per_second=8_000.0, cache_tokens=1_000.0),
        Candidate(ReplicaId("d1"), Seat(1), tokens_per_second=8_000.0, cache_tokens=1_000.0, used_tokens=900.0),
    ]
    candidates = Candidates.of(columns, prompt_tokens=600)
    policy = load("disaggregated")
    answering = policy.answering_seconds(candidates)
    assert answering.tolist() == [0.0, 2.7]
    no_time = np.zeros((1, 1))
    handshakes = [
        Replica(one.replica, "http://r", role, handshake="nixl") for one, role in zip(columns, (P, D), strict=True)
    ]
    pools = pools_of(handshakes, [Facts(), Facts()], ANSWERING)
    assert pools is not None
    view = View(candidates, policy.price(candidates), answering, pools, np.ones((1, 1), dtype=np.bool_), no_time + 0.02)
    assert Joint().choose(view, 1, Habit(), Turn(Random(1))) == "whole_is_sooner"


def test_a_request_that_stays_whole_draws_no_chance() -> None:
    """So that policies which never split are the same but for their names."""
    fleet, rng = Fleet(P, P, D, D), Random(7)
    fleet.decider._rng.seed(7)
    first = fleet.ask(4_096)
    assert isinstance(first, Whole)
    rng.random()  # the picker's own, between two idle replicas
    assert fleet.decider._rng.getstate() == rng.getstate()


@pytest.mark.parametrize("handshakes", [frozenset(), frozenset({"sglang"})])
def test_a_request_that_cannot_be_split_in_the_words_of_the_pair_stays_whole(handshakes: frozenset[str]) -> None:
    fleet = Fleet(P, D)
    fleet.queue(1, requests=60)
    assert over(fleet.ask(handshakes=handshakes)) == ("d1",)


def test_a_pair_carries_nothing_before_it_is_warm() -> None:
    fleet = Fleet(P, D, warm=False)
    fleet.queue(1, requests=60)
    assert over(fleet.ask()) == ("d1",)
    fleet.pairs.opened(Seat(0), Seat(1))
    assert over(fleet.ask()) == ("p0", "d1")


def test_replicas_of_two_releases_are_no_pair() -> None:
    fleet = Fleet(P, D, versions=("0.32.0", "0.33.0"), split="always")
    assert over(fleet.ask()) == ("d1",)


def test_replicas_without_a_role_or_a_handshake_are_never_split() -> None:
    fleet = Fleet(BOTH, BOTH, split="always")
    assert fleet.decider._fleet("m").pools is None
    assert len(over(fleet.ask())) == 1


def test_both_legs_must_be_allowed() -> None:
    for seat in (0, 1):
        fleet = Fleet(P, D, split="always")
        for _ in range(5):
            fleet.health.failed(Seat(seat), 10.0)
        assert over(fleet.ask()) == (("d1",), ("p0",))[seat], "and where one is left alone it answers alone"


def test_the_prefill_replica_answers_alone_only_when_no_other_can() -> None:
    fleet = Fleet(P, D, D)
    fleet.warm(0, 8_000 // BLOCK)
    assert over(fleet.ask(handshakes=frozenset())) in {("d1",), ("d2",)}
    assert over(fleet.ask(handshakes=frozenset(), exclude=frozenset({Seat(1), Seat(2)}))) == ("p0",)


def test_engines_that_cannot_answer_alone_are_always_split_and_refused_otherwise() -> None:
    fleet = Fleet(P, D, handshake="sglang")
    assert over(fleet.ask(tokens=64)) == ("p0", "d1"), "however short"
    with pytest.raises(NoReplica, match="alone"):
        fleet.ask(handshakes=frozenset())
    with pytest.raises(NoReplica, match="alone"):
        fleet.ask(exclude=frozenset({Seat(0)}))


def test_far_pairs_cost_their_distance_or_are_forbidden() -> None:
    near = "joint: {near_label: zone, far_seconds: 0.5}"
    fleet = Fleet(P, P, D, split=near, zones=("a", "b", "b"))
    fleet.queue(2, requests=60)
    assert over(fleet.ask()) == ("p1", "d2")
    fleet = Fleet(P, D, split="joint: {near_label: zone, far_forbidden: true}", zones=("a", "b"))
    fleet.queue(1, requests=60)
    assert over(fleet.ask()) == ("d1",)


@pytest.mark.parametrize(
    ("rule", "tokens", "cached", "splits"),
    [
        ("always", 64, 0, True),
        ("threshold: {tokens: 2048}", 2_047, 0, False),
        ("threshold: {tokens: 2048}", 2_048, 0, True),
        ("threshold: {tokens: 2048}", 4_096, 160, False),  # what counts is what must be computed
        ("dynamo_conditional", 2_047, 0, True),  # below 2,048, but all of the prompt
        ("dynamo_conditional", 4_096, 160, False),
        ("dynamo_conditional", 8_192, 160, True),
    ],
)
def test_rivals_split_by_their_own_rules(rule: str, tokens: int, cached: int, splits: bool) -> None:
    fleet = Fleet(P, D, split=rule)
    fleet.warm(1, cached)
    assert isinstance(fleet.ask(tokens), Split) is splits


def test_a_split_explains_itself() -> None:
    fleet = Fleet(P, D)
    fleet.queue(1, requests=60)
    decision = fleet.ask()
    assert isinstance(decision, Split)
    assert "p0" in decision.reason
    assert "d1 alone" in decision.reason
    told = decision.explain()
    assert [(entry["replica"], entry["leg"], entry["chosen"]) for entry in told] == [
        ("d1", "decode", True),
        ("p0", "prefill", True),
    ]
    handover = decision.handover
    assert handover["alone_replica"] == "d1"
    assert np.isclose(decision.cost_seconds, 6 * 8_192 / 8_000 + 0.02 + 8_192e-5 + 60 * 0.0005)


def test_a_queue_at_the_decode_replica_drains_while_the_prompt_is_computed_elsewhere() -> None:
    fleet = Fleet(P, D)
    fleet.queue(1, tokens=80_000)  # ten seconds
    decision = fleet.ask()
    assert over(decision) == ("p0", "d1")
    assert isinstance(decision, Split)
    assert np.isclose(decision.cost_seconds, 10.0 + 0.0005)
    assert "10.000 s are queued there" in decision.reason


def test_a_newcomer_is_spared_legs_as_well_but_only_beside_others_of_its_pool() -> None:
    fleet = Fleet(P, P, D, split="always")
    fleet.newcomers.came(Seat(1), 9.0)
    fleet.queue(1)
    fleet.queue(0, tokens=80_000)
    decision = fleet.ask()
    assert over(decision) == ("p0", "d2"), "the newcomer is idle, and has its one request"
    assert decision.reason.startswith("slow_start+")
    fleet.warm(1, 100)
    assert over(fleet.ask()) == ("p1", "d2"), "but what is warmest there goes there"

    alone = Fleet(P, D, split="always")
    alone.newcomers.came(Seat(0), 9.0)
    alone.queue(0)
    assert over(alone.ask()) == ("p0", "d1"), "its pool has nobody else"
    assert not alone.ask().reason.startswith("slow_start")


def test_sparing_a_newcomer_refuses_nobody() -> None:
    fleet = Fleet(P, P, D, split="always", versions=("0.31.0", "0.32.0", "0.32.0"))
    fleet.newcomers.came(Seat(1), 9.0)
    fleet.queue(1)
    assert over(fleet.ask()) == ("d2",), "the settled donor speaks another release, and whole it can be answered"
    exclusive = Fleet(P, P, D, split="always", versions=("0.31.0", "0.32.0", "0.32.0"), handshake="sglang")
    exclusive.newcomers.came(Seat(1), 9.0)
    exclusive.queue(1)
    assert over(exclusive.ask()) == ("p1", "d2"), "nobody can answer it alone"
