"""What a shadow thinks is counted; what befalls it befalls nobody else."""

from __future__ import annotations

from random import Random

import pytest

from router.fleet.replica import IntArray
from router.gateway.exchange import Exchange
from router.gateway.shadowing import Shadowing
from router.metrics import Metrics
from router.policy.candidate import Candidates
from router.policy.decision import Whole, chosen
from router.policy.filters import Kept
from router.policy.load import load
from router.policy.pickers import Turn
from router.policy.pipeline import NamedFilter, Policy
from router.policy.shadow import Shadow
from router.policy.split import Split
from router.policy.splitters import Pair
from router.prompt.request import Endpoint
from tests.policy.makers import candidate, columns


class Broken:
    """A filter somebody is still writing."""

    def keep(self, candidates: Candidates, rows: IntArray) -> Kept:
        raise ZeroDivisionError("no replicas of this kind")


class Watched:
    """Decisions of `live` shown to `shadow`."""

    def __init__(self, shadow: Policy, live: Policy) -> None:
        self.metrics, self.said, self.live = Metrics(), list[str](), live
        self.shadowing = Shadowing(Shadow(shadow, live, Random(1)), self.metrics, self.said.append)

    def serve(self) -> Exchange:
        # The idle one is cold, the warm one busy: 1 s of queue there, 0.5 s of prefill spared.
        candidates = columns(candidate(0, matched_tokens=4_000, queued_tokens=8_000), candidate(1))
        row, rule, cost = self.live.choose(candidates, candidates.allowed.nonzero()[0], Turn(Random(1)))
        exchange = Exchange("id", None, Endpoint.CHAT, 0.0, 0.0, explained=False, model="m")
        exchange.decision = chosen(candidates, row, 16, self.live, rule, cost)
        self.shadowing.consider(exchange)
        return exchange

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def test_agreement_is_counted_and_costs_no_regret() -> None:
    watched = Watched(load("least_loaded"), load("least_loaded"))
    for _ in range(2):
        opinion = watched.serve().opinion
        assert opinion is not None
        assert opinion.agrees
    assert watched.sample("homing_shadow_decisions_total", shadow="least_loaded", agree="true") == 2
    assert watched.sample("homing_shadow_regret_seconds_count", judge="live") is None


def test_each_judge_counts_what_the_others_choice_costs_more() -> None:
    warm_first = Watched(load("longest_match"), load("least_loaded"))
    warm_first.serve()
    assert warm_first.sample("homing_shadow_decisions_total", shadow="longest_match", agree="false") == 1
    assert warm_first.sample("homing_shadow_regret_seconds_count", judge="live") == 1
    assert warm_first.sample("homing_shadow_regret_seconds_sum", judge="live") == pytest.approx(1.0)
    # By its own price, open requests alone, the two replicas cost the same.
    assert warm_first.sample("homing_shadow_regret_seconds_sum", judge="shadow") == 0.0


def test_a_broken_shadow_is_counted_told_once_and_harms_no_request() -> None:
    broken = Policy("mine", "d", (NamedFilter("broken", Broken()),), (), load("random").picker)
    watched = Watched(broken, load("least_loaded"))
    for _ in range(3):
        exchange = watched.serve()
        assert exchange.opinion is None
        assert exchange.decision is not None
    assert watched.sample("homing_shadow_faults_total", shadow="mine") == 3
    assert len(watched.said) == 1
    assert "no replicas of this kind" in watched.said[0]


def test_of_a_split_request_it_has_no_opinion() -> None:
    watched = Watched(load("least_loaded"), load("least_loaded"))
    exchange = watched.serve()
    whole = exchange.decision
    assert isinstance(whole, Whole)
    assert exchange.opinion is not None
    exchange.decision = Split(whole, whole, Pair(0, 1, 0.1, 0.0, 0.0, 0.0, "split_joint"), whole, "split_joint")
    watched.shadowing.consider(exchange)
    assert exchange.opinion is None, "not even that of the attempt before"
    assert watched.sample("homing_shadow_decisions_total", shadow="least_loaded", agree="true") == 1
    assert not watched.said
