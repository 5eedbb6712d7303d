"""A shadow says where it would have gone and at what price, and changes nothing."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from router.fleet.replica import Role
from router.policy.candidate import Candidate
from router.policy.decision import Whole, chosen
from router.policy.load import load
from router.policy.pickers import Turn
from router.policy.pipeline import Policy
from router.policy.reading import parse
from router.policy.shadow import Opinion, Shadow, prices_in_seconds
from tests.policy.makers import candidate, columns
from tests.policy.test_decider import BLOCK
from tests.policy.test_splitters import Fleet

QUEUE = parse("{name: queue, description: d, scorers: {queue_wait: {}}, picker: lowest_cost}", "queue")
CACHE = parse("{name: cache, description: d, scorers: {prefill: {}}, picker: lowest_cost}", "cache")

# At 8,000 tokens a second: the warm one has 1 s of queue and spares 0.5 s of prefill.
WARM = candidate(0, matched_tokens=4_000, queued_tokens=8_000)
COLD = candidate(1)


def decided(live: Policy, *rows: Candidate) -> Whole:
    candidates = columns(*rows)
    row, rule, cost = live.choose(candidates, candidates.allowed.nonzero()[0], Turn(Random(1)))
    return chosen(candidates, row, 16, live, rule, cost)


def opinion(shadow: Policy, live: Policy, *rows: Candidate) -> Opinion:
    return Shadow(shadow, live, Random(1)).opinion("m", decided(live, *rows))


def test_each_policy_prices_the_others_choice_in_its_own_seconds() -> None:
    told = opinion(CACHE, QUEUE, WARM, COLD)
    assert (told.policy, told.replica, told.agrees) == ("cache", "r0", False)
    assert told.dearer_seconds == pytest.approx(1.0)
    assert told.missed_seconds == pytest.approx(0.5)


def test_where_replicas_have_roles_its_choice_is_one_that_may_answer_alone() -> None:
    fleet = Fleet(Role.PREFILL, Role.DECODE)
    fleet.warm(0, 8_000 // BLOCK)
    decision = fleet.ask(handshakes=frozenset())
    assert isinstance(decision, Whole)
    assert decision.replica == "d1"
    told = Shadow(CACHE, QUEUE, Random(1)).opinion("m", decision)
    assert told.replica == "d1", "the prefill replica is warm, and answers nobody alone while another can"


def test_two_policies_of_one_mind_agree_at_no_price() -> None:
    told = opinion(QUEUE, QUEUE, WARM, COLD)
    assert told.agrees
    assert told.dearer_seconds == told.missed_seconds == 0.0


def test_a_policy_without_a_price_in_seconds_judges_nobody() -> None:
    told = opinion(load("round_robin"), CACHE, COLD, WARM)
    assert told.replica == "r0"
    assert told.missed_seconds is None
    told = opinion(CACHE, load("round_robin"), candidate(0), candidate(1, matched_tokens=4_000))
    assert told.dearer_seconds is None
    assert told.missed_seconds == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["dynamo", "llmd_blend", "lmetric", "round_robin", "random"])
def test_scores_of_other_units_are_not_taken_for_seconds(name: str) -> None:
    assert not prices_in_seconds(load(name))


@pytest.mark.parametrize("name", ["cache_aware", "least_loaded"])
def test_our_own_prices_are_seconds(name: str) -> None:
    assert prices_in_seconds(load(name))


def test_a_shadow_never_chooses_a_replica_that_may_not_be_chosen() -> None:
    told = opinion(CACHE, QUEUE, candidate(0, matched_tokens=4_000, queued_tokens=8_000, allowed=False), COLD)
    assert told.replica == "r1"


def test_a_shadow_takes_turns_of_its_own() -> None:
    shadow = Shadow(load("round_robin"), QUEUE, Random(1))
    decision = decided(QUEUE, candidate(0), candidate(1, queued_tokens=8_000), candidate(2, queued_tokens=8_000))
    assert [shadow.opinion("m", decision).replica for _ in range(4)] == ["r0", "r1", "r2", "r0"]
    assert shadow.opinion("other", decision).replica == "r0"


def test_an_opinion_leaves_the_decision_as_it_was() -> None:
    decision = decided(QUEUE, WARM, COLD)
    before = decision.total_seconds.copy()
    Shadow(load("cache_aware"), QUEUE, Random(1)).opinion("m", decision)
    assert np.array_equal(before, decision.total_seconds)
    assert decision.replica == "r1"
