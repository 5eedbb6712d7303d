"""Clients are served by pods that come and go. A fake API server, simulated replicas, real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.discovery.test_kubernetes import FakeCluster
from tests.sim.fleets import fleet_config, serving
from tests.stories.houses import homing

LONG = "A long story that fills some blocks of the cache, told again and again by one who has time. " * 4


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[FakeCluster]:
    one = FakeCluster(tmp_path)
    await one.start()
    yield one
    await one.kill()


async def test_pods_join_drain_and_leave_while_streams_end_well(cluster: FakeCluster) -> None:
    fleet = fleet_config(replicas=2)
    for number in range(2):
        await cluster.pod(f"vllm-{number}", annotations={"homing/port": str(fleet.port + number)}, ready=number == 0)
    discovery = {"kubernetes": {"selector": "app=vllm", "kubeconfig": str(cluster.kubeconfig)}}
    async with (
        serving(fleet),
        homing(fleet, replicas=[], discovery=discovery, policy="round_robin") as one,
    ):
        assert await one.served_by(LONG) == {"vllm-0"}
        await cluster.pod("vllm-1", annotations={"homing/port": str(fleet.port + 1)})
        await one.until(lambda: len(one.known()) == 2)
        await one.settled()
        assert await one.served_by(LONG) == {"vllm-0", "vllm-1"}
        await one.order(1, slow=30.0)
        under_way = [asyncio.create_task(one.ask(LONG, max_tokens=100)) for _ in range(2)]
        await one.until(lambda: len(one.house.ledger) == 2)
        await cluster.terminate("vllm-1")
        await one.until(lambda: "vllm-1: drains; it is sent nothing new" in one.said)
        assert await one.served_by(LONG) == {"vllm-0"}
        await cluster.delete("vllm-1")
        await one.until(lambda: one.known() == ["vllm-0"])
        assert {(await task).status_code for task in under_way} == {200}
        await one.nothing_left()
        await cluster.kill()
        assert await one.served_by(LONG) == {"vllm-0"}  # without an API server the fleet stays as it was
        await cluster.start()
