"""What a finished request leaves behind: nothing that waits for the collector of rings, which comes seldom."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from router.gateway.client import Client
from router.gateway.exchange import Exchange
from tests.stories.houses import Stage, stage

TIMES = 4


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def kept() -> Counter[str]:
    """What holds a request's body, and is still there."""
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, Client | Exchange))


async def gone(one: Stage) -> None:
    """Requests end on Homing's side a little after their clients have seen it."""
    await one.until(lambda: one.house.admission.in_flight == 0 and not kept())


# What replicas do, and what the client may see of it. The last one opens breakers.
ENDS: tuple[tuple[dict[str, Any], set[int]], ...] = (
    ({"slow": 20.0}, {200}),
    ({"status": 500, "status_count": 2 * TIMES}, {500}),
    ({"die_after_chunks": 2}, {200, 502, 503}),
    ({"reset_connection": 100}, {502, 503}),
)


async def test_a_request_that_was_served_or_failed_leaves_nothing(no_collector: None) -> None:
    async with stage(2, policy="round_robin", settle=False) as one:
        for order, statuses in ENDS:
            for number in range(2):
                await one.order(number, clear=True, **order)
            for turn in range(TIMES):
                assert (await one.ask(stream=turn % 2 == 0)).status_code in statuses
            await gone(one)


async def test_a_request_that_was_refused_leaves_nothing(no_collector: None) -> None:
    async with stage(1, settle=False) as one:
        for body in (b'{"model":"ti', b'{"model":"nobody","messages":[]}'):
            for _ in range(TIMES):
                assert (await one.http.post(f"{one.url}/v1/chat/completions", content=body)).is_client_error
        await gone(one)


async def test_a_request_whose_client_hung_up_leaves_nothing(no_collector: None) -> None:
    async with stage(1, settle=False) as one:
        await one.order(0, slow=100.0)
        for turn in range(TIMES):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await one.ask(max_tokens=900, stream=turn % 2 == 0)
        await gone(one)
