"""The real router over a virtual fleet: what holds whatever the policy, and what trouble does."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from router.lab.brain import MODEL, Brain, Setup
from router.policy.load import load
from router.prompt.blocks import BlockHasher, TokenIds, root_hash
from router.sim.engine import EngineLimits
from router.sim.timing import LLAMA3_70B_H100_TP2
from router.sim.troubles import News, Trouble
from router.sim.virtual import Arrival, VirtualFleet
from router.sim.wire import BlockStored

BLOCK = 16
LIMITS = EngineLimits(block_count=2_000, block_size_tokens=BLOCK)


class Conversations:
    """Open loop: so many conversations take turns, each turn as long as the one before and a little more."""

    def __init__(self, conversations: int, turns: int, apart_seconds: float = 0.5) -> None:
        self._arrivals = [
            Arrival(
                f"{turn}.{one}",
                apart_seconds * (turn * conversations + one),
                array("I", [1_000 * (one + 1) + place for place in range(200 + 60 * turn)]),
                range(7_000_000, 7_000_000 + 20),
            )
            for turn in range(turns)
            for one in range(conversations)
        ]

    def begin(self) -> Iterator[Arrival]:
        return iter(self._arrivals)

    def after(self, arrival: Arrival, now: float) -> Sequence[Arrival]:
        return ()


def play(
    policy: str = "cache_aware",
    *,
    workload: Conversations | None = None,
    routers: int = 1,
    replicas: int = 4,
    hears_events: bool = True,
    news: News | None = None,
    troubles: Sequence[Trouble] = (),
    joins: Sequence[tuple[float, int]] = (),
    slow_start_seconds: float = 0.0,
    seed: int = 1,
) -> tuple[VirtualFleet, list[Brain]]:
    setup = Setup(
        load(policy),
        replicas,
        BLOCK,
        LIMITS.block_count - 1,
        hears_events=hears_events,
        slow_start_seconds=slow_start_seconds,
    )
    brains = [Brain(setup, seed + number) for number in range(routers)]
    fleet = VirtualFleet(
        replicas=replicas,
        limits=LIMITS,
        timing=LLAMA3_70B_H100_TP2,
        routers=brains,
        workload=workload or Conversations(8, 10),
        seed=seed,
        news=news,
        troubles=troubles,
        joins=joins,
    )
    fleet.run()
    return fleet, brains


def hit_ratio(fleet: VirtualFleet) -> float:
    stories = fleet.stories.values()
    return sum(story.cached_tokens for story in stories) / sum(story.prompt_tokens for story in stories)


def test_every_request_is_answered_and_every_judged_prediction_is_exact() -> None:
    fleet, (brain,) = play()
    assert all(story.finished for story in fleet.stories.values())
    assert brain.open_requests == 0
    assert brain.accuracy.judged.sum() == len(fleet.stories)
    assert brain.accuracy.exact.sum() == len(fleet.stories)


def test_warm_replicas_are_found() -> None:
    assert hit_ratio(play("cache_aware")[0]) > hit_ratio(play("round_robin", replicas=3)[0]) + 0.2


def test_a_seed_decides_everything() -> None:
    one, same, other = (play("random", seed=seed)[0] for seed in (5, 5, 6))
    assert one.stories == same.stories
    assert [story.replica for story in one.stories.values()] != [story.replica for story in other.stories.values()]


@pytest.mark.parametrize("down_seconds", [1.0, 30.0])
def test_a_replica_that_dies_loses_no_request_and_comes_back_cold(down_seconds: float) -> None:
    fleet, (brain,) = play(troubles=[Trouble(12.0, 0, down_seconds=down_seconds)])
    assert all(story.finished for story in fleet.stories.values())
    assert brain.open_requests == 0
    assert brain.accuracy.exact.sum() == brain.accuracy.judged.sum()


def test_what_open_requests_use_is_given_back_whatever_becomes_of_them() -> None:
    _, (brain,) = play("dynamo", troubles=[Trouble(12.0, 0, down_seconds=1.0)])
    assert brain.open_blocks is not None
    assert not brain.open_blocks.tokens.any()


def test_a_replica_that_joins_late_is_used() -> None:
    fleet, _ = play("least_loaded", joins=[(20.0, 3)])
    by_three = [story for story in fleet.stories.values() if story.replica == 3]
    assert by_three
    assert min(story.arrival_seconds for story in by_three) >= 20.0


def test_a_newcomer_is_not_flooded_and_gets_its_share_in_the_end() -> None:
    def taken(slow_start_seconds: float) -> tuple[int, int]:
        """What replica 3 was sent in the first tenth of a second after it came, of 33 arrivals, and later."""
        crowded = Conversations(200, 4, apart_seconds=0.003)
        fleet, _ = play("least_loaded", workload=crowded, joins=[(1.0, 3)], slow_start_seconds=slow_start_seconds)
        sent = [story.arrival_seconds for story in fleet.stories.values() if story.replica == 3]
        early = sum(seconds < 1.1 for seconds in sent)
        return early, len(sent) - early

    flooded, eased = taken(0.0), taken(0.9)
    assert flooded[0] == 33, "everything, while it is emptier than the rest"
    assert eased[0] < 33 / 2
    assert eased[1] > flooded[1]


def test_a_straggler_gets_less_than_its_share() -> None:
    crowded = Conversations(8, 12, apart_seconds=0.04)
    fleet, _ = play("least_loaded", workload=crowded, troubles=[Trouble(0.0, 0, slow=4.0)])
    counts = [sum(story.replica == number for story in fleet.stories.values()) for number in range(4)]
    assert counts[0] < min(counts[1:])


def test_lost_events_are_asked_for_again_and_soon_make_good() -> None:
    plain, _ = play()
    fleet, (brain,) = play(news=News(lost_ratio=0.1))
    assert all(story.finished for story in fleet.stories.values())
    assert hit_ratio(fleet) > hit_ratio(plain) - 0.05
    assert brain.accuracy.exact.sum() > 0.9 * brain.accuracy.judged.sum()


def test_what_no_replay_brings_back_is_never_counted_on() -> None:
    setup = Setup(load("cache_aware"), 1, BLOCK, 100)
    brain = Brain(setup, 1)
    brain.up(0, 0.0)
    tokens = array("I", range(2 * BLOCK))
    first, second = (
        [BlockStored([name], parent, tokens[at : at + BLOCK], BLOCK, None, "GPU", None, [None], 0, "full_attention")]
        for name, parent, at in ((1, None, 0), (2, 1, BLOCK))
    )
    assert brain.heard(0, 0, first, 1.0) is None
    assert held(brain, tokens) == BLOCK
    assert brain.heard(0, 9, second, 2.0) == 1
    assert brain.heard(0, 10, second, 2.1) is None, "asked once"
    brain.replayed(0, [(9, second)], 3.0)
    assert held(brain, tokens) == 0, "what was removed meanwhile nobody can tell"
    assert brain.heard(0, 9, second, 3.1) is None, "late, and known"


def held(brain: Brain, tokens: array[int]) -> int:
    hashes = BlockHasher().hashes(TokenIds(tokens.tobytes()), root_hash(0, MODEL), BLOCK)
    return int(brain.index.match(hashes, np.array([0]), BLOCK).held.item(0))


def test_routers_that_share_a_fleet_all_hear_its_events() -> None:
    fleet, brains = play(routers=3)
    assert hit_ratio(fleet) > 0.6
    assert sum(int(brain.accuracy.judged.sum()) for brain in brains) == len(fleet.stories)


def test_without_events_caches_are_guessed() -> None:
    fleet, (brain,) = play(hears_events=False)
    assert hit_ratio(fleet) > 0.7
    assert brain.accuracy.judged.sum() > 0
