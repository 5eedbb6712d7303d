"""The real processes: simulated replicas, two routers, a Valkey or Redis, and wires between them. Edge.

Every router reaches every replica, its events and its replays, and Redis, over wires of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from loadtest.chaos.child import Child
from loadtest.chaos.schedule import ROUTERS
from loadtest.chaos.wires import HOST, Wire
from loadtest.processes import free_ports, redis_binary
from router.sim.caller import Caller, CallFailed
from router.sim.ports import OFFSETS, free_run
from router.sim.text import SHIPPED_TOKENIZER

MODEL = "sim"
BLOCKS, BLOCK_SIZE_TOKENS, LONGEST_TOKENS = 600, 16, 2048
ASK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Patience:
    """What the routers are configured to wait for (R 2.2)."""

    connect_seconds: float = 2.0
    first_byte_seconds: float = 10.0
    idle_seconds: float = 6.0
    queue_seconds: float = 10.0


@dataclass
class Router:
    """One `homing serve`."""

    child: Child
    url: str
    admin_url: str

    async def asked(self, path: str) -> bytes | None:
        """The body of a GET at its admin port; None when it does not answer, or not with 200."""
        return await got(self.admin_url, path)

    async def is_ready(self) -> bool:
        return await got(self.url, "/ready") is not None

    async def metrics(self) -> dict[str, float] | None:
        return await samples(self.admin_url)

    async def replicas(self) -> list[dict[str, object]]:
        page = await self.asked("/homing/replicas")
        return [] if page is None else list(msgspec.json.decode(page)["replicas"])


@dataclass
class Fleet:
    """All that runs. `wires[router][replica]` are those for requests, events and replays."""

    replicas: list[Child]
    replica_ports: list[int]
    routers: list[Router]
    redis: Child | None
    wires: list[list[tuple[Wire, ...]]]
    redis_wires: list[Wire]

    async def order(self, replica: int, switches: Mapping[str, object]) -> bool:
        """Make a simulated replica fail; False when it cannot be told."""
        caller = Caller(f"http://{HOST}:{self.replica_ports[replica]}")
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return (await caller.post("/sim/failures", json.dumps(switches).encode())).status == 200
        except (CallFailed, TimeoutError):
            return False
        finally:
            caller.close()

    def all_wires(self) -> list[Wire]:
        return [wire for of_router in self.wires for of_replica in of_router for wire in of_replica]


async def got(url: str, path: str) -> bytes | None:
    caller = Caller(url)
    try:
        async with asyncio.timeout(ASK_SECONDS):
            reply = await caller.get(path)
    except (CallFailed, TimeoutError):
        return None
    finally:
        caller.close()
    return reply.body if reply.status == 200 else None


async def samples(url: str) -> dict[str, float] | None:
    """Every sample of a metrics page by its name, summed over its labels; None when there is no page."""
    page = await got(url, "/metrics")
    if page is None:
        return None
    found: dict[str, float] = {}
    for line in page.decode().splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = name.split("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


@asynccontextmanager
async def running(replicas: int, patience: Patience, folder: Path, speedup: float) -> AsyncIterator[Fleet]:
    """All processes, up; killed on the way out, whatever state they are in. `folder` gets what they say."""
    first = free_run(replicas)
    replica_ports = [first + number for number in range(replicas)]
    children: list[Child] = []
    wires: list[Wire] = []
    try:
        for number, port in enumerate(replica_ports):
            children.append(_replica(number, port, folder, speedup))
        redis_port = free_ports(1)[0]
        redis = _redis(redis_port, folder)
        children += [redis] if redis is not None else []
        laid: list[list[tuple[Wire, ...]]] = []
        redis_wires: list[Wire] = []
        routers: list[Router] = []
        for name in range(ROUTERS):
            ports = free_ports(3 * replicas + 3)
            own = [
                tuple(Wire(ports[3 * i + kind], port + OFFSETS[kind]) for kind in range(3))
                for i, port in enumerate(replica_ports)
            ]
            to_redis = Wire(ports[-3], redis_port)
            for wire in (*(wire for of_replica in own for wire in of_replica), to_redis):
                await wire.start()
                wires.append(wire)
            laid.append(own)
            redis_wires.append(to_redis)
            redis_url = None if redis is None else f"redis://{HOST}:{to_redis.port}/0"
            routers.append(_router(name, own, redis_url, ports[-2], ports[-1], patience, folder))
        children += [router.child for router in routers]
        await asyncio.gather(*(child.start() for child in children))
        yield Fleet([*children[:replicas]], replica_ports, routers, redis, laid, redis_wires)
    finally:
        for wire in wires:
            wire.close()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                await child.kill()


def _replica(number: int, port: int, folder: Path, speedup: float) -> Child:
    words = [sys.executable, "-m", "router.cli", "sim", "--replicas", "1", "--port", str(port), "--model", MODEL]
    words += ["--blocks", str(BLOCKS), "--block-size", str(BLOCK_SIZE_TOKENS), "--max-model-len", str(LONGEST_TOKENS)]
    words += ["--speedup", f"{speedup:g}", "--seed", str(number)]

    async def is_up() -> bool:
        return await got(f"http://{HOST}:{port}", "/health") is not None

    return Child(f"r{number}", words, folder / f"r{number}.txt", is_up)


def _redis(port: int, folder: Path) -> Child | None:
    binary = redis_binary()
    if binary is None:
        return None
    words = [binary, "--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no"]

    async def is_up() -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            return False
        writer.close()
        return True

    return Child("redis", words, folder / "redis.txt", is_up)


def _router(
    number: int,
    wires: list[tuple[Wire, ...]],
    redis_url: str | None,
    port: int,
    admin_port: int,
    patience: Patience,
    folder: Path,
) -> Router:
    replicas = [
        {
            "id": f"r{i}",
            "url": f"http://{HOST}:{requests.port}",
            "events": f"tcp://{HOST}:{events.port}",
            "replay": f"tcp://{HOST}:{replays.port}",
        }
        for i, (requests, events, replays) in enumerate(wires)
    ]
    settings = {
        "listen": {"host": HOST, "port": port, "admin_port": admin_port},
        "replicas": replicas,
        "tokens": {"tokenizer": str(SHIPPED_TOKENIZER), "cache_megabytes": 4},  # full long before the warm-up is over
        "probe": {"interval_seconds": 0.5},
        "timeouts": {
            "connect_seconds": patience.connect_seconds,
            "first_byte_seconds": patience.first_byte_seconds,
            "idle_seconds": patience.idle_seconds,
        },
        "limits": {
            "notice_seconds": 0.5,
            "drain_seconds": 2.0,
            "slow_start_seconds": 2.0,
            "queue_wait_seconds": patience.queue_seconds,
        },
        **({"shared": {"redis_url": redis_url, "router": str(number)}} if redis_url is not None else {}),
    }
    file = folder / f"router{number}.yaml"
    file.write_text(json.dumps(settings))
    words = [sys.executable, "-m", "router.cli", "serve", str(file), "--quiet"]
    url, admin_url = f"http://{HOST}:{port}", f"http://{HOST}:{admin_port}"

    async def is_up() -> bool:
        return await got(url, "/ready") is not None

    return Router(Child(f"router {number}", words, folder / f"router{number}.txt", is_up), url, admin_url)
