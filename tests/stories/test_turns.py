"""A full replica over sockets: who would go there waits at the gateway, and little work goes before much."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.stories.houses import stage

HOLDS = """
name: holds
description: sends no more than keeps a replica busy
scorers: {queue_wait: {}, prefill: {}}
picker: lowest_cost
hold: {ahead_tokens: 1, patience: 100}
"""
LONG = "a beginning that nobody else has, and much of it " * 40


async def test_while_a_replica_is_full_others_wait_here_and_the_shortest_goes_first(tmp_path: Path) -> None:
    policy = tmp_path / "holds.yaml"
    policy.write_text(HOLDS)
    async with stage(1, policy=str(policy)) as one:
        holding = one.house.holding
        assert holding is not None
        await one.order(0, through=0, hang=True)
        first = asyncio.ensure_future(one.ask("the first", stream=True))
        await one.until(lambda: len(one.house.ledger) == 1)
        long = asyncio.ensure_future(one.ask(f"long {LONG}", stream=True))
        await one.until(lambda: holding.waiting == 1)
        gone = asyncio.ensure_future(one.ask(f"gone {LONG}", stream=True))
        await one.until(lambda: holding.waiting == 2)
        short = asyncio.ensure_future(one.ask("short", stream=True))
        await one.until(lambda: holding.waiting == 3)
        assert await one.metric("homing_held_requests ") == 3
        assert len(one.house.ledger) == 1
        gone.cancel()
        await one.until(lambda: holding.waiting == 2)
        await one.order(0, through=0, hang=False)
        first.cancel()
        answers = await asyncio.gather(long, short)
        assert [answer.status_code for answer in answers] == [200, 200]
        held = {
            name: receipt.held_seconds
            for name, answer in zip(("long", "short"), answers, strict=True)
            for receipt in [one.house.receipts.get(answer.headers["x-homing-request-id"])]
            if receipt is not None
        }
        assert held["long"] > held["short"] > 0.0
        await one.nothing_left()


async def test_who_waits_is_told_when_its_replica_dies(tmp_path: Path) -> None:
    policy = tmp_path / "holds.yaml"
    policy.write_text(HOLDS)
    async with stage(1, policy=str(policy)) as one:
        holding = one.house.holding
        assert holding is not None
        await one.order(0, through=0, hang=True)
        first = asyncio.ensure_future(one.ask("the first", stream=True))
        await one.until(lambda: len(one.house.ledger) == 1)
        waits = asyncio.ensure_future(one.ask("waits"))
        await one.until(lambda: holding.waiting == 1)
        await one.order(0, through=0, die=True)
        for answer in await asyncio.gather(first, waits):
            assert answer.status_code in (502, 503)
            assert answer.json()["error"]["message"]
        assert holding.waiting == 0
        await one.nothing_left()
