"""A Homing that was told to stop: who is under way, who waits, and who keeps a connection. Over sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.stories.houses import Stage, stage

HOLDS = """
name: holds
description: sends no more than keeps a replica busy
scorers: {queue_wait: {}, prefill: {}}
picker: lowest_cost
hold: {ahead_tokens: 1}
"""


@dataclass
class Told:
    """A Homing that stops when it is told to, and a client with a single connection of its own."""

    stage: Stage
    http: httpx.AsyncClient
    _stack: AsyncExitStack

    def ask(self, text: str, **fields: Any) -> asyncio.Task[httpx.Response]:
        body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 4, **fields}
        url = f"{self.stage.url}/v1/chat/completions"
        return asyncio.ensure_future(self.http.post(url, json=body))

    def stop(self) -> asyncio.Task[None]:
        self.stage.house.readiness.draining = True
        return asyncio.ensure_future(self._stack.aclose())


@asynccontextmanager
async def told(**settings: Any) -> AsyncIterator[Told]:
    async with httpx.AsyncClient(timeout=60.0, trust_env=False) as http, AsyncExitStack() as stack:
        yield Told(await stack.enter_async_context(stage(1, **settings)), http, stack)


@pytest.fixture
def holds(tmp_path: Path) -> str:
    file = tmp_path / "holds.yaml"
    file.write_text(HOLDS)
    return str(file)


async def test_who_waits_here_is_still_served_after_the_order_to_stop(holds: str) -> None:
    async with told(policy=holds, limits={"drain_seconds": 60.0}) as it:
        one = it.stage
        await one.order(0, through=0, hang=True)
        first = it.ask("the first", stream=True)
        await one.until(lambda: len(one.house.ledger) == 1)
        waits = it.ask("waits", stream=True)
        await one.until(lambda: one.house.holding.waiting == 1)
        stopping = it.stop()
        recovers = {"replica": 0, "hang": False}  # told by our own client: the stage's is gone
        assert (await it.http.post(f"{one.replica_url(0)}/sim/failures", json=recovers)).status_code == 200
        first.cancel()
        assert (await waits).content.endswith(b"data: [DONE]\n\n")
        await stopping


async def test_who_waits_here_longer_than_the_stop_is_told_to_come_again(holds: str) -> None:
    async with told(policy=holds, limits={"drain_seconds": 1.0}) as it:
        one = it.stage
        await one.order(0, through=0, hang=True)
        asking = [it.ask(name, stream=True) for name in ("the first", "waits", "waits too")]
        await one.until(lambda: one.house.holding.waiting == 2)
        await it.stop()
        for answer in await asyncio.gather(*asking):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
            assert int(answer.headers["retry-after"]) >= 1
        assert (one.house.holding.waiting, len(one.house.ledger)) == (0, 0)


async def test_while_the_balancer_is_given_notice_every_answer_says_that_its_connection_closes() -> None:
    async with told() as it:
        one = it.stage
        assert "connection" not in (await it.ask("hello")).headers
        assert (await it.http.get(f"{one.house.admin_url}/ready")).status_code == 200
        one.house.readiness.draining = True

        async def closes() -> bool:
            answer = await it.ask("hello")
            assert answer.status_code == 200
            return "close" in answer.headers.get_list("connection")

        async with asyncio.timeout(20.0):
            while not await closes():
                pass
        assert (await it.http.get(f"{one.house.admin_url}/ready")).status_code == 503
        assert (await it.http.get(f"{one.house.admin_url}/health")).status_code == 200


async def test_a_kept_connection_whose_answer_began_before_the_stop_is_good_for_one_more_request() -> None:
    async with told(limits={"drain_seconds": 60.0}) as it:
        one = it.stage
        await one.order(0, through=0, slow=50.0)
        body = {"model": "tiny", "messages": [{"role": "user", "content": "a long one"}], "max_tokens": 20}
        url = f"{one.url}/v1/chat/completions"
        async with it.http.stream("POST", url, json={**body, "stream": True}) as answer:
            stopping = it.stop()
            assert "connection" not in answer.headers
            content = await answer.aread()
        assert content.endswith(b"data: [DONE]\n\n")
        # Nobody listens any more, so this one came by the connection there was.
        again = await it.http.post(url, json=body)
        assert (again.status_code, again.headers["connection"]) == (200, "close")
        await stopping
