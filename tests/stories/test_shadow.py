"""A shadow policy over sockets: it is counted and explained, and never decides."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from router.explain import show
from tests.stories.houses import stage

LONG = "a prompt of more than a block or two, so that something can be cached " * 20


async def test_a_shadow_is_counted_and_explained_and_never_acts() -> None:
    async with stage(2, policy="round_robin", shadow_policy="cache_aware") as one:
        for number in range(6):
            answer = await one.ask(f"{LONG} {number}")
            await one.until(lambda: one.house.index.block_count > 0)
        counted = await one.metric("homing_shadow_decisions_total{")
        assert counted == 6
        assert await one.metric('homing_requests_total{model="tiny",outcome="ok",replica="r0"}') == 3
        assert await one.metric('homing_shadow_decisions_total{agree="false"') > 0
        assert await one.metric('homing_shadow_regret_seconds_sum{judge="shadow"}') > 0
        assert await one.metric("homing_shadow_faults_total{") == 0
        receipt = await receipt_of(one.house.admin_url, one.http, answer.headers["x-homing-request-id"])
        assert receipt["shadow"]["policy"] == "cache_aware"
        console = Console(width=140)
        with console.capture() as printed:
            show(receipt, console)
        assert "shadow policy cache_aware" in printed.get()
        await one.nothing_left()


async def test_without_a_shadow_nothing_is_said_of_one() -> None:
    async with stage(1) as one:
        answer = await one.ask()
        receipt = await receipt_of(one.house.admin_url, one.http, answer.headers["x-homing-request-id"])
        assert receipt["shadow"] is None
        assert await one.metric("homing_shadow_decisions_total{") == 0


async def test_a_shadow_that_asks_for_sessions_and_open_blocks_gets_them() -> None:
    async with stage(2, policy="cache_aware", shadow_policy="session_sticky") as one:
        for _ in range(3):
            await one.ask(LONG, user="alice")
        receipt = one.house.receipts.latest(1)[0]
        assert receipt.opinion is not None
        assert receipt.opinion.rule.startswith("session_home")
    async with stage(2, policy="cache_aware", shadow_policy="dynamo") as one:
        await one.ask(LONG)
        assert one.house.receipts.latest(1)[0].opinion is not None
        await one.nothing_left()


async def receipt_of(admin_url: str, http: Any, request_id: str) -> Any:
    return (await http.get(f"{admin_url}/homing/explain/{request_id}")).json()
