"""What events do to predictions: gaps, restarts, broken frames, and a router that joins late. From outside."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from router.index.base import Trust
from router.sim.engine import EngineLimits
from router.sim.publish import EventSettings
from tests.sim.fleets import FAST, fleet_config, serving
from tests.stories.houses import Stage, homing, stage

STORY = "Once upon a time there was a replica that remembered every block it had ever computed. " * 8


async def exact_of(one: Stage, requests: int) -> list[bool]:
    """Verdicts of the last judged requests."""
    receipts = one.house.receipts.latest(requests)
    return [receipt.verdict.exact for receipt in receipts if receipt.verdict is not None and receipt.verdict.judged]


async def tell(one: Stage, turns: int, name: str = "story") -> None:
    """A growing conversation, one turn after the other."""
    for turn in range(turns):
        answer = await one.ask(f"{name}: {STORY}" + f" And then, for the {turn}th time, it was asked again." * turn)
        assert answer.status_code == 200
        await asyncio.sleep(0.03)  # the events of a turn take a moment


@pytest.fixture
async def one() -> AsyncIterator[Stage]:
    async with stage(1) as alone:
        yield alone
        await alone.nothing_left()


async def test_growing_conversations_are_predicted_exactly(one: Stage) -> None:
    await tell(one, 6)
    verdicts = await exact_of(one, 6)
    assert verdicts == [True] * 6
    receipt = one.house.receipts.latest(1)[0]
    assert receipt.reported_cached_tokens == receipt.decision.predicted_cached_tokens > 0  # type: ignore[union-attr]


async def test_lost_events_are_asked_for_again(one: Stage) -> None:
    await tell(one, 2)
    await one.order(0, drop_events_batches=2)
    await tell(one, 6)  # the first batch that comes through shows the gap
    await tell(one, 6)
    assert (await exact_of(one, 6)) == [True] * 6
    assert one.house.trust.of(one.house.roster.present()[0]) is Trust.EXACT
    assert await one.metric('homing_kv_events_total{outcome="replay",replica="r0"}') >= 2


async def test_lost_events_without_replay_are_admitted_and_never_overstated() -> None:
    async with stage(1, fleet={"replays": False}, settle=False) as one:
        seat = one.house.roster.present()[0]
        await one.until(lambda: one.house.readers.source("tiny") == "local")
        await tell(one, 2)
        assert one.house.trust.of(seat) is Trust.EXACT  # heard from the very first batch on
        await one.order(0, drop_events_batches=2)
        await tell(one, 8)
        assert one.house.trust.of(seat) is Trust.CATCHING_UP
        receipts = [r for r in one.house.receipts.latest(8) if r.verdict is not None and r.verdict.judged]
        assert receipts
        assert all(not r.verdict.missed for r in receipts if r.verdict is not None)
        await one.nothing_left()


async def test_broken_frames_are_counted_and_mended(one: Stage) -> None:
    await one.order(0, malformed_events=2)
    await tell(one, 4)
    await tell(one, 2, "another")
    assert await one.metric('homing_kv_events_total{outcome="malformed_frame",replica="r0"}') >= 1
    assert (await exact_of(one, 1)) == [True]


@pytest.mark.parametrize("how", [{"restart": True}, {"restart_silent": True}], ids=["loud", "silent"])
async def test_a_restarted_engine_is_believed_to_hold_nothing(one: Stage, how: dict[str, bool]) -> None:
    await tell(one, 3)
    await one.order(0, through=0, **how)
    async with asyncio.timeout(20):
        while (await one.ask("are you there")).status_code != 200:  # noqa: ASYNC110 - the new process opens its port
            await asyncio.sleep(0.05)
    for turn in range(8):
        await one.ask(f"story: {STORY}" + f" New life, turn {turn}." * turn)
        await asyncio.sleep(0.1)
    assert (await exact_of(one, 4)) == [True] * 4
    receipts = one.house.receipts.latest(8)
    assert receipts[-1].reported_cached_tokens == 0


async def test_a_router_restarted_under_load_is_exact_again_by_itself() -> None:
    """R 4.4 with a replay buffer that has rolled over long ago."""
    simulated = fleet_config(
        replicas=2,
        events=EventSettings(topic="kv", buffer_steps=50),
        limits=EngineLimits(block_count=400, block_size_tokens=16, max_model_tokens=2048),
        timing=FAST,
    )
    chance = random.Random(7)
    histories = [f"conversation {number}: {STORY[: 40 * chance.randrange(4, 16)]}" for number in range(10)]

    async def turns(one: Stage, count: int) -> None:
        for _ in range(count):
            number = chance.randrange(len(histories))
            if len(histories[number]) > 3000:
                histories[number] = f"conversation {chance.random()}: {STORY[: 40 * chance.randrange(4, 16)]}"
            histories[number] += f" Then came {chance.randrange(1000)}, and it said so many other things."
            answer = await one.ask(histories[number])
            assert answer.status_code == 200
            await asyncio.sleep(0.005)

    async with serving(simulated):
        async with homing(simulated) as before:
            await turns(before, 150)
        gate = {"coverage": 1.0, "wait_seconds": 8}
        async with homing(simulated, settle=False, readiness=gate) as after:
            await after.until(lambda: after.house.readers.source("tiny") == "local")
            await turns(after, 1)
            first = await after.http.get(f"{after.url}/ready")
            assert first.status_code == 503
            assert "a coverage of 1" in first.json()["waiting_for"][0]
            assert 0 < first.json()["waits_still_seconds"] < 8
            await turns(after, 199)
            await after.until(lambda: not after.house.readiness.waiting_for())
            ready = await after.http.get(f"{after.url}/ready")
            assert (ready.status_code, ready.json()["ready"]) == (200, True)
            assert ready.json()["coverage_ratio"] > first.json()["coverage_ratio"]
            verdicts = await exact_of(after, 200)
            assert len(verdicts) >= 180
            shares = [sum(verdicts[start : start + 50]) for start in range(0, 150, 50)]  # newest first
            assert sum(verdicts) >= 0.95 * len(verdicts), shares
            await after.nothing_left()
