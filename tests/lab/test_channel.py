"""Routers that tell each other, in virtual time: what they say is on its way, and then it is known."""

from __future__ import annotations

from array import array
from dataclasses import replace

from router.lab.brain import Brain, Setup
from router.lab.channel import Channel
from router.lab.run import Fleet, Run, play
from router.lab.workloads import Load, workload
from router.policy.load import load
from router.sharing.side import TELL_SECONDS
from router.sim.virtual import Arrival

FLEET = Fleet(replicas=4, cache_tokens=307_328, block_size_tokens=64, timing="qwen3_32b_h100", routers=3)


def routers(count: int) -> list[Brain]:
    setup = Setup(load("cache_aware"), replicas=2, block_size_tokens=64, cache_blocks=1000)
    brains = [Brain(setup, seed) for seed in range(count)]
    for brain in brains:
        for replica in range(2):
            brain.up(replica, 0.0)
    return brains


def arrival(name: str) -> Arrival:
    return Arrival(name, 0.0, array("I", range(4096)), (1,))


def test_a_sibling_at_another_router_follows_its_sibling_once_that_was_told_and_not_before() -> None:
    (one, two), delay = routers(2), 0.002
    channel = Channel([one, two], delay)
    channel.advance(TELL_SECONDS)  # they know each other
    began = 3 * TELL_SECONDS
    channel.advance(began)
    first = one.route(arrival("first"), began)
    assert isinstance(first, int)
    expected = []
    for now in (began + TELL_SECONDS / 2, began + 2 * TELL_SECONDS + delay):
        channel.advance(now)
        ask = two._exchange(arrival(str(now))).ask(frozenset())
        candidates = two.decider.decide(ask, now).candidates
        expected.append(candidates.expected_tokens.tolist())
    assert expected[0] == [0, 0]
    assert [tokens > 3000 for tokens in expected[1]] == [seat == first for seat in range(2)]
    assert two.open_blocks is not None
    assert two.open_blocks.tokens_of(candidates.seats)[first] >= 4096 - 64
    assert channel.bytes_told > 4096 // 1024 * 8


def test_every_request_is_answered_where_routers_share_and_the_same_seed_gives_the_same_run() -> None:
    run = Run("cache_aware", "b2b-73", replace(FLEET, shared=True), Load(150, 25.0, None, 1))
    one, again = (play(run, workload("b2b-73")) for _ in range(2))
    assert one.outcome.answered == one.outcome.requests
    assert one.stories == again.stories
    assert one.shared_bytes > 0
    apart = play(replace(run, fleet=FLEET), workload("b2b-73"))
    assert (apart.shared_bytes, apart.stories == one.stories) == (0, False)
