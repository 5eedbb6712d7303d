"""Split requests in virtual time: the same decider and books as live, on engines that hand KV over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from router.fleet.replica import Role
from router.gateway.exchange import Exchange
from router.lab.brain import Brain, Setup
from router.lab.shared_prefixes import PrefixShape, SharedPrefixes
from router.policy.hold import HoldRule
from router.policy.load import load
from router.policy.pipeline import Policy
from router.policy.split import Split
from router.sim.engine import EngineLimits
from router.sim.timing import QWEN3_32B_H100_TP2
from router.sim.troubles import Trouble
from router.sim.virtual import VirtualFleet
from router.sim.wires import WireTiming

ROLES = (Role.PREFILL, Role.PREFILL, Role.DECODE, Role.DECODE)
SHAPE = PrefixShape(20, 2, system_tokens=1_000, question_tokens=3_000, answer_tokens=20)


def played(
    policy: str | Policy,
    *,
    rate: float = 2.0,
    roles: tuple[Role, ...] = ROLES,
    troubles: tuple[Trouble, ...] = (),
    seed: int = 5,
    watch: Callable[[Exchange], None] | None = None,
    cache_blocks: int = 4_000,
    wires: WireTiming = WireTiming(),  # noqa: B008  frozen
) -> tuple[VirtualFleet, Brain]:
    brain = Brain(
        Setup(load(policy) if isinstance(policy, str) else policy, len(roles), 64, cache_blocks, roles=roles), 5, watch
    )
    fleet = VirtualFleet(
        replicas=len(roles),
        limits=EngineLimits(block_count=cache_blocks + 1, block_size_tokens=64),
        timing=QWEN3_32B_H100_TP2,
        routers=[brain],
        workload=SharedPrefixes(SHAPE, 80, rate, 5),
        seed=5,
        troubles=troubles,
        wires=wires,
    )
    fleet.run()
    return fleet, brain


@pytest.mark.timeout(60)
def test_a_donor_whose_cache_is_full_of_what_it_keeps_goes_on_when_it_is_fetched() -> None:
    # One prompt fills a donor, which keeps it for a second while it is handed over; more arrive meanwhile.
    fleet, brain = played("split_always", cache_blocks=70, wires=WireTiming(fixed_seconds=1.0))
    assert all(story.finished for story in fleet.stories.values())
    assert brain.open_requests == 0
    assert all(machine.engine.pool.used_blocks == 0 for machine in fleet._machines)


def test_a_split_request_is_computed_on_a_donor_and_answered_by_a_taker() -> None:
    fleet, brain = played("split_always")
    stories = list(fleet.stories.values())
    assert all(story.finished and story.answer_tokens == 20 for story in stories)
    assert {story.donor for story in stories} == {0, 1}
    assert {story.replica for story in stories} == {2, 3}
    assert brain.open_requests == 0
    assert all(machine.engine.pool.used_blocks == 0 for machine in fleet._machines), "nothing is kept for anybody"
    taken = [machine.engine.counters for machine in fleet._machines[2:]]
    assert sum(one.finished for one in taken) == len(stories)


def test_what_is_predicted_is_what_the_donor_reports() -> None:
    _, brain = played("split_always")
    judged, exact = int(brain.accuracy.judged.sum()), int(brain.accuracy.exact.sum())
    assert judged > 60
    assert exact / judged > 0.95


def test_the_same_seed_splits_alike() -> None:
    one, other = (played("disaggregated", rate=6.0)[0].stories for _ in range(2))
    assert one == other


def test_a_donor_that_dies_costs_no_request_its_answer() -> None:
    fleet, brain = played("split_always", troubles=(Trouble(10.0, 0, down_seconds=10.0),))
    assert all(story.finished for story in fleet.stories.values())
    assert any(story.attempts > 1 for story in fleet.stories.values())
    assert brain.open_requests == 0


def test_replicas_of_both_kinds_find_out_that_combined_serving_wins() -> None:
    split, _ = played("split_always", rate=8.0, roles=(Role.BOTH,) * 4)
    joint, _ = played("disaggregated", rate=8.0, roles=(Role.BOTH,) * 4)

    def first_tokens(fleet: VirtualFleet) -> float:
        return sum((one.first_token_seconds or 0.0) - one.arrival_seconds for one in fleet.stories.values())

    assert sum(one.donor is not None for one in joint.stories.values()) < 8
    assert first_tokens(joint) < first_tokens(split)


def test_a_split_request_waits_until_its_donor_has_room() -> None:
    at_once = load("split_always")
    held = replace(at_once, hold=HoldRule(ahead_tokens=1, patience=0.0))
    most = {}
    for policy in (at_once, held):
        donors: Counter[str] = Counter()
        waiting: list[float] = []

        def saw(exchange: Exchange, donors: Counter[str] = donors, waiting: list[float] = waiting) -> None:
            decision = exchange.decision
            assert isinstance(decision, Split)
            donors[decision.prefill.replica] += 1
            waiting.append(decision.candidates.queued_tokens.item(decision.prefill.row))

        fleet, brain = played(policy, rate=20.0, watch=saw)
        assert all(story.finished and story.donor is not None for story in fleet.stories.values())
        assert brain.open_requests == 0
        assert set(donors) == {"r0", "r1"}
        most[policy.hold is None] = max(waiting)
    assert most[True] > 4_000, "without holding prompts queue up at their donors"
    assert most[False] < 1
