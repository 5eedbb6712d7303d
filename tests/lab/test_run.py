"""A run of the lab: what the fleet is, and what routers are told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.lab.run import Fleet, Played, Run, play
from router.lab.workloads import Load, workload

FLEET = Fleet(replicas=4, cache_tokens=307_328, block_size_tokens=64, timing="qwen3_32b_h100")


def played(fleet: Fleet, policy: str = "cache_aware", rate: float = 12.0, requests: int = 240) -> Played:
    return play(Run(policy, "b2b-73", fleet, Load(requests, rate, None, 1)), workload("b2b-73"))


def by_replica(one: Played) -> list[int]:
    return [sum(story.replica == number for story in one.stories.values()) for number in range(FLEET.replicas)]


def test_steps_are_rough_unless_the_fit_is_asked_for() -> None:
    default, exact = played(FLEET), played(replace(FLEET, noise_ratio=0.0))
    assert FLEET.noise_ratio == 0.15
    assert default.outcome.ttft_mean_seconds != exact.outcome.ttft_mean_seconds
    assert default.outcome.ttft_mean_seconds == pytest.approx(exact.outcome.ttft_mean_seconds, rel=0.4)


def test_routers_begin_with_a_rate_that_is_wrong_and_choose_differently_for_it() -> None:
    assert FLEET.prior_ratio == 0.5
    half, wild = played(FLEET), played(replace(FLEET, prior_ratio=30.0))
    assert [story.replica for story in half.stories.values()] != [story.replica for story in wild.stories.values()]


def test_a_straggler_is_slow_from_the_start_and_gets_less() -> None:
    counts = by_replica(played(replace(FLEET, slow=3.0), "least_loaded"))
    assert counts[0] < min(counts[1:])


def test_the_last_replica_joins_cold_when_it_is_told_to() -> None:
    one = played(replace(FLEET, join_seconds=8.0))
    late = [story for story in one.stories.values() if story.replica == FLEET.replicas - 1]
    assert late
    assert min(story.sent_seconds for story in late) >= 8.0


def test_policies_whose_index_is_approximate_by_design_hear_no_events() -> None:
    deaf = played(replace(FLEET, events=False), "llmd_affinity")
    assert played(FLEET, "llmd_affinity").stories == deaf.stories
    assert played(FLEET, "dynamo").stories != played(replace(FLEET, events=False), "dynamo").stories


def test_events_are_heard_by_all_where_a_gateway_is_played_and_not_a_design() -> None:
    given = played(replace(FLEET, index_by_design=False), "llmd_affinity")
    assert given.stories != played(FLEET, "llmd_affinity").stories
