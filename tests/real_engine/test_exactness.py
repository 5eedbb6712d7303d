"""Predicted against reported on real engines: every judged request exact, through restarts on either side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any  # receipts are JSON

import pytest

from tests.real_engine.conftest import Stage
from tests.real_engine.process import held_within, until
from tests.real_engine.report import Report, Row, Window
from tests.real_engine.talks import ComeBack, Plan, rounds
from tests.real_engine.traffic import Traffic

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(1500)]

CLIENTS = 8
THINK_SECONDS = 0.2
FEWEST_REQUESTS = 200
FEWEST_JUDGED = 0.9  # below it a run shows nothing (R 5.1)
BACK_SECONDS = 240.0  # for trust to come back, under load

Receipts = dict[str, dict[str, Any]]
Show = Callable[[str], None]


async def test_every_judged_request_of_a_calm_run_is_exact_although_an_engine_restarts(
    stage: Stage, show: Show
) -> None:
    if not stage.own:
        pytest.skip("it kills a replica; those of HOMING_REAL_ENGINES are left alone")
    await exact_from_the_start(stage)
    traffic = Traffic(stage.homing.url, f"calm-{time.time():.0f}")
    receipts: Receipts = {}
    dies = stage.replicas[1]
    assert dies.process is not None

    async def load() -> None:
        await traffic.hold(talks(stage, f"{traffic.name} before", 4), clients=CLIENTS, think_seconds=THINK_SECONDS)
        # Few clients and slow ones from here on: the engine that starts needs the machine too.
        during = takewhile(lambda _: not back.is_set(), talks(stage, f"{traffic.name} during", 1000))
        await traffic.hold(during, clients=3, think_seconds=1.0)

    back = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load())
        await asyncio.to_thread(until, lambda: len(traffic.asked) >= FEWEST_REQUESTS, BACK_SECONDS, "traffic")
        killed_at = time.time()
        dies.process.kill()
        dies.process.start()
        await asyncio.to_thread(dies.await_up)
        trusted = await asyncio.to_thread(held_within, stage.homing.all_exact, BACK_SECONDS)
        window = Window(killed_at, time.time())
        back.set()
    receipts |= stage.homing.receipts()
    await traffic.hold(talks(stage, f"{traffic.name} after", 3), clients=CLIENTS, think_seconds=THINK_SECONDS)
    receipts |= stage.homing.receipts()

    report = Report(traffic.asked, receipts, window)
    evicted = evicted_tokens(stage, report)
    show(
        report.table(f"Calm, {CLIENTS} clients, turns {THINK_SECONDS:g} s apart, {dies.id} killed and started again")
        + f"\n  evicted at least, in tokens: {evicted}"
    )
    assert trusted, f"trust did not come back in {BACK_SECONDS:g} s: {stage.homing.replicas()}"
    assert len(report.outside) >= FEWEST_REQUESTS
    assert report.judged_share() >= FEWEST_JUDGED
    assert tokens_agree(report)
    assert evicted[stage.replicas[0].id] > 0, "nothing was evicted: the caches are too large for this traffic"
    assert not report.missed
    assert [row.told() for row in report.lost if not permitted(row, dies.id, killed_at)] == []
    after = [row for row in report.outside if row.asked.sent_at > window.end]
    assert any(row.exact and chosen(row) == dies.id for row in after), "the restarted replica got nothing to show"


async def test_calm_traffic_is_exact(stage: Stage, show: Show) -> None:
    if stage.own:
        pytest.skip("the run with a restart shows it")
    await exact_from_the_start(stage)
    traffic = Traffic(stage.homing.url, f"calm-{time.time():.0f}")
    await traffic.hold(talks(stage, traffic.name, 6), clients=CLIENTS, think_seconds=THINK_SECONDS)
    report = Report(traffic.asked, stage.homing.receipts())
    show(report.table(f"Calm, {CLIENTS} clients, turns {THINK_SECONDS:g} s apart"))
    assert report.judged_share() >= FEWEST_JUDGED
    assert not report.lost
    assert tokens_agree(report)
    assert not report.missed


async def test_traffic_without_a_think_time_is_exact_but_for_races(stage: Stage, show: Show) -> None:
    await exact_from_the_start(stage)
    traffic = Traffic(stage.homing.url, f"hurried-{time.time():.0f}")
    await traffic.hold(talks(stage, traffic.name, 6), clients=CLIENTS, think_seconds=0.0)
    report = Report(traffic.asked, stage.homing.receipts())
    show(report.table(f"Hurried, {CLIENTS} clients, no think time"))
    assert len(report.outside) >= FEWEST_REQUESTS
    assert report.judged_share() >= FEWEST_JUDGED
    assert not report.lost
    assert report.exact_share() >= 0.97


async def test_a_router_restarted_under_load_is_exact_again_by_itself(stage: Stage, show: Show) -> None:
    traffic = Traffic(stage.homing.url, f"router-{time.time():.0f}")
    receipts: Receipts = {}
    over = asyncio.Event()
    held: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        under_way = takewhile(lambda _: not over.is_set(), talks(stage, traffic.name, 1000))
        load = tasks.create_task(traffic.hold(under_way, clients=CLIENTS, think_seconds=THINK_SECONDS))
        await asyncio.to_thread(until, lambda: len(traffic.asked) >= 100, BACK_SECONDS, "traffic")
        receipts |= stage.homing.receipts()
        killed_at = time.time()
        stage.homing.process.kill()
        await asyncio.to_thread(stage.homing.start)
        ready_at = time.time()
        held = [f"{name} {trust}" for name, trust in stage.homing.trusts().items()]
        trusted = await asyncio.to_thread(held_within, stage.homing.all_exact, BACK_SECONDS)
        window = Window(killed_at, time.time())
        receipts |= stage.homing.receipts()
        over.set()
        await load
    await traffic.hold(talks(stage, f"{traffic.name} after", 3), clients=CLIENTS, think_seconds=THINK_SECONDS)
    receipts |= stage.homing.receipts()

    report = Report(traffic.asked, receipts, window)
    show(report.table("Homing killed and started again under load; right after its start: " + ", ".join(held)))
    assert trusted, f"trust did not come back in {BACK_SECONDS:g} s: {stage.homing.replicas()}"
    assert report.judged_share() >= FEWEST_JUDGED
    assert not report.missed
    # Lost are those that met no router, and those that came before it was ready, which /ready would have kept away.
    lost = [row for row in report.lost if row.asked.status not in (None, 503) or row.asked.sent_at > ready_at]
    assert [row.told() for row in lost] == []
    # While the beginning of a cache is not known, what is known is still so: a match is a lower bound (R 4.4).
    promised = [row for row in report.inside if row.judged and row.verdict["error_blocks"] < 0]
    assert [row.told() for row in promised] == []


async def exact_from_the_start(stage: Stage) -> None:
    """Engines that ran before us may have forgotten the beginning of their story: traffic until that is made up for."""
    if stage.homing.all_exact():
        return
    over = asyncio.Event()
    traffic = Traffic(stage.homing.url, f"warm-{time.time():.0f}")
    async with asyncio.TaskGroup() as tasks:
        under_way = takewhile(lambda _: not over.is_set(), talks(stage, traffic.name, 1000))
        tasks.create_task(traffic.hold(under_way, clients=CLIENTS, think_seconds=THINK_SECONDS))
        exact = await asyncio.to_thread(held_within, stage.homing.all_exact, BACK_SECONDS)
        over.set()
    assert exact, f"Not every index became exact in {BACK_SECONDS:g} s of traffic: {stage.homing.replicas()}"


def talks(stage: Stage, seed: str, count: int) -> Iterator[Plan | ComeBack]:
    return rounds(count, seed=seed, model=stage.model, adapters=stage.adapters)


def tokens_agree(report: Report) -> bool:
    """Homing and the engine count the same prompt tokens, and the client is told the same figures as Homing."""
    for row in report.outside:
        asked, receipt = row.asked, row.receipt
        if receipt is None or asked.prompt_tokens is None:
            continue
        if (asked.prompt_tokens, asked.cached_tokens) != (receipt["prompt_tokens"], receipt["reported_cached_tokens"]):
            return False
    return True


def evicted_tokens(stage: Stage, report: Report) -> dict[str, int]:
    """Per replica at least so many: what it computed beyond what its cache holds."""
    capacity = {one["replica"]: one["cache_blocks"] * one["block_size_tokens"] for one in stage.homing.replicas()}
    return {replica: report.computed_tokens(replica) - tokens for replica, tokens in capacity.items()}


def permitted(row: Row, killed: str, killed_at: float) -> bool:
    """Lost as R 2.1 says: its first byte was on the way to the client when the replica died."""
    if row.receipt is None or not row.asked.sent_at <= killed_at <= row.asked.ended_at:
        return False
    return bool(row.asked.stream and row.asked.status == 200 and row.receipt["attempts"][-1]["replica"] == killed)


def chosen(row: Row) -> str:
    assert row.receipt is not None
    return str(row.receipt["attempts"][-1]["replica"])
