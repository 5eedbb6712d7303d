"""A router that starts late, when the engines' replay buffers have long rolled, before a fleet that others know."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx

from router.sim.publish import EventSettings
from router.sim.server import FleetConfig
from tests.sharing.server import redis_server
from tests.sim.fleets import fleet_config, serving
from tests.stories.test_routers import Router, routing, until

BUFFER_STEPS = 24
CHATS = [f"chat {number}: " + f"what was said before {number} " * 12 for number in range(12)]


def rolling_fleet() -> FleetConfig:
    return fleet_config(replicas=2, events=EventSettings(topic="kv", buffer_steps=BUFFER_STEPS))


async def traffic(router: Router, rng: random.Random) -> None:
    """Chats that go on, and others that are new, one after the other, until cancelled or the router is gone."""
    with suppress(httpx.HTTPError):
        while True:
            await router.ask(rng.choice(CHATS) + f" and then {rng.randrange(1000)}")


async def roll(fleet: FleetConfig, one: Router) -> None:
    """Each replica publishes more batches than it keeps."""
    for number in range(3 * BUFFER_STEPS):
        await asyncio.gather(*(one.ask(f"{number} {half} " + CHATS[number % len(CHATS)]) for half in (1, 2)))
    for chat in CHATS:
        await one.ask(chat)


async def trusts(router: Router) -> set[str]:
    return {entry["trust"] for entry in await router.replicas()}


async def test_a_router_started_late_knows_at_once_what_the_others_know_and_alone_it_would_not(tmp_path: Path) -> None:
    fleet = rolling_fleet()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving(fleet))
        redis = await stack.enter_async_context(redis_server())
        one = await stack.enter_async_context(routing(fleet, redis.url, tmp_path, "one"))
        await roll(fleet, one)
        assert await trusts(one) == {"EXACT"}
        load = [asyncio.create_task(traffic(one, random.Random(seed))) for seed in range(2)]
        try:
            alone = await stack.enter_async_context(routing(fleet, redis.url, tmp_path, "alone", among="nobody"))
            two = await stack.enter_async_context(routing(fleet, redis.url, tmp_path, "two"))

            async def knows() -> bool:
                return await trusts(two) == {"EXACT"}

            await until(knows)
            assert await trusts(alone) == {"CATCHING_UP"}
        finally:
            for task in load:
                task.cancel()
            await asyncio.gather(*load, return_exceptions=True)
        for number in range(30):
            await two.ask(CHATS[number % len(CHATS)] + f" and at last {number}")
        told = await two.replicas()
        judged, exact = (sum(entry[column] for entry in told) for column in ("judged", "exact"))
        assert judged >= 25, told
        assert exact == judged, told
        assert await two.metric('homing_warm_index_total{outcome="loaded"}') == 2
        assert await one.metric('homing_warm_index_total{outcome="told"}') >= 2
        blocks = [[entry["held_blocks"] for entry in await router.replicas()] for router in (one, two)]
        assert blocks[0] == blocks[1]
