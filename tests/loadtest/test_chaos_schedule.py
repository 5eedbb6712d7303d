"""What a seed of chaos promises: everything comes, nobody is struck twice at once, somebody is always spared."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from loadtest.chaos.schedule import FIRST_THIRD, ROUTERS, asks, rocks, troubles
from loadtest.chaos.troubles import SORTS, Victim

REPLICAS = 4
SECONDS = 600.0
SEEDS = (1, 2, 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_gives_the_same_chaos_again(seed: int) -> None:
    assert troubles(seed, SECONDS, REPLICAS, 20.0) == troubles(seed, SECONDS, REPLICAS, 20.0)
    assert asks(seed, SECONDS, 5.0) == asks(seed, SECONDS, 5.0)
    assert troubles(seed, SECONDS, REPLICAS, 20.0) != troubles(seed + 1, SECONDS, REPLICAS, 20.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_sort_comes_and_none_much_oftener_than_another(seed: int) -> None:
    counts = Counter(trouble.sort.name for trouble in troubles(seed, SECONDS, REPLICAS, 20.0))
    assert counts.keys() == {sort.name for sort in SORTS}
    assert max(counts.values()) - min(counts.values()) <= 2


@pytest.mark.parametrize("seed", SEEDS)
def test_no_victim_is_struck_by_two_troubles_at_once(seed: int) -> None:
    for one, two in combinations(troubles(seed, SECONDS, REPLICAS, 40.0), 2):
        if two.at_seconds <= one.end_seconds:
            assert not one.struck(REPLICAS) & two.struck(REPLICAS)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rock_is_spared_by_all_but_the_loss_of_every_wire(seed: int) -> None:
    drawn = troubles(seed, SECONDS, REPLICAS, 40.0)
    for one in drawn:
        assert one.replica not in rocks(one.at_seconds, SECONDS, REPLICAS)
        assert one.replica not in rocks(one.end_seconds, SECONDS, REPLICAS)
    assert {one.replica for one in drawn} >= set(range(REPLICAS)), "and everybody's turn comes"


@pytest.mark.parametrize("seed", SEEDS)
def test_router_0_lives_on_after_the_first_third(seed: int) -> None:
    ended = [one for one in troubles(seed, SECONDS, REPLICAS, 20.0) if one.sort.victim is Victim.ROUTER]
    late = [one for one in ended if one.sort.ends_processes and one.at_seconds > FIRST_THIRD * SECONDS]
    assert {one.router for one in late} == {ROUTERS - 1}


def test_requests_come_in_order_at_their_rate_and_of_every_kind() -> None:
    drawn = asks(1, SECONDS, 5.0)
    assert [one.at_seconds for one in drawn] == sorted(one.at_seconds for one in drawn)
    assert len(drawn) == pytest.approx(5.0 * SECONDS, rel=0.1)
    assert {one.router for one in drawn} == set(range(ROUTERS))
    assert {one.streamed for one in drawn} == {True, False}
    assert any(one.hangs_up_after_seconds for one in drawn)
    assert any(one.rubbish for one in drawn)
