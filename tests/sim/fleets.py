"""Simulated replicas on loopback for a test, on ports nobody holds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import SystemRandom

from router.sim.engine import EngineLimits
from router.sim.publish import EventSettings
from router.sim.server import FleetConfig, serve_replicas
from router.sim.timing import LLAMA3_70B_H100_TP2

FAST = LLAMA3_70B_H100_TP2.faster(200)


def fleet_config(**changes: object) -> FleetConfig:
    """A small fast fleet of one replica, changed as the test needs."""
    replicas = int(str(changes.get("replicas", 1)))
    plain: dict[str, object] = {
        "replicas": replicas,
        "port": free_ports(replicas),
        "model_names": ("tiny",),
        "limits": EngineLimits(block_count=257, block_size_tokens=16, max_model_tokens=1024),
        "timing": FAST,
        "events": EventSettings(topic="kv"),
        "seed": 1,
    }
    return FleetConfig(**(plain | changes))  # type: ignore[arg-type] # a test names its own fields


def free_ports(count: int) -> int:
    """A first HTTP port such that all ports of the fleet are free now."""
    random = SystemRandom()
    while True:
        first = random.randrange(20_000, 30_000)
        wanted = [first + offset + i for offset in (0, 1000, 2000) for i in range(count)]
        if all(_is_free(port) for port in wanted):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@asynccontextmanager
async def serving(config: FleetConfig) -> AsyncIterator[str]:
    """The fleet while the block runs; the URL of its first replica."""
    ready = asyncio.Event()
    task = asyncio.create_task(serve_replicas(config, ready))
    opened = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait((task, opened), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield f"http://127.0.0.1:{config.port}"
    finally:
        opened.cancel()
        task.cancel()
        await asyncio.gather(task, opened, return_exceptions=True)
