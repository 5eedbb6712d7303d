"""Several routers before one fleet, each a process of its own, and a real Redis between them."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from router.sim.server import FleetConfig
from router.sim.text import SHIPPED_TOKENIZER
from tests.sharing.server import PATIENCE_SECONDS, redis_server
from tests.sim.fleets import fleet_config, serving

REPLICAS = 3
STREAMS = 6


@dataclass
class Router:
    """One `homing serve`."""

    process: asyncio.subprocess.Process
    http: httpx.AsyncClient
    url: str = ""
    admin: str = ""
    said: list[str] = field(default_factory=list)

    async def listen(self, until: Callable[[str], bool]) -> None:
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while line := (await self.process.stderr.readline()).decode():
                self.said.append(line.rstrip())
                if until(line):
                    return
        raise AssertionError("\n".join(self.said))

    async def replicas(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = (await self.http.get(f"{self.admin}/homing/replicas")).json()["replicas"]
        return told

    async def routers(self) -> dict[str, Any]:
        told: dict[str, Any] = (await self.http.get(f"{self.admin}/homing/routers")).json()
        return told

    async def own(self) -> dict[str, int]:
        return {entry["replica"]: entry["open_requests"] for entry in await self.replicas()}

    async def peers(self) -> dict[str, int]:
        """Open requests of other routers, by replica."""
        return {entry["replica"]: entry["peer_requests"] for entry in await self.replicas()}

    async def ask(self, text: str, **fields: Any) -> httpx.Response:
        body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 4, **fields}
        return await self.http.post(f"{self.url}/v1/chat/completions", json=body)

    async def metric(self, line_start: str) -> float:
        text = (await self.http.get(f"{self.admin}/metrics")).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(line_start))


async def until(holds: Callable[[], Any]) -> None:
    """Wait for what other processes are about to bring about."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await holds():  # noqa: ASYNC110 - another process tells no event
            await asyncio.sleep(0.02)


@asynccontextmanager
async def routing(
    fleet: FleetConfig, redis_url: str, path: Path, name: str, among: str = "homing"
) -> AsyncIterator[Router]:
    """One router process, sharing with those of the fleet `among`. What it says on stderr is read to the end."""
    settings = {
        "listen": {"host": "127.0.0.1", "port": 0, "admin_port": 0},
        "replicas": [{"url": f"http://127.0.0.1:{fleet.port + i}", "id": f"r{i}"} for i in range(fleet.replicas)],
        "tokens": {"tokenizer": str(SHIPPED_TOKENIZER)},
        "probe": {"interval_seconds": 0.5},
        "limits": {"notice_seconds": 0.0, "drain_seconds": 1.0, "slow_start_seconds": 0.0},
        "policy": "least_loaded",
        "shared": {"router": name, "name": among},
    }
    file = path / f"{name}.yaml"
    file.write_text(json.dumps(settings))
    words = ("-m", "router.cli", "serve", str(file), "--redis", redis_url, "--quiet")
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stderr=asyncio.subprocess.PIPE)
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as http:
        router = Router(process, http)
        reading: asyncio.Task[None] | None = None
        try:
            await router.listen(lambda line: "Homing listens on" in line)
            router.url, router.admin = re.findall(r"http://[^;\s]+", router.said[-1])
            reading = asyncio.create_task(_drain(router))
            await until(lambda: _is_ready(router))
            yield router
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            if reading is not None:
                await reading


async def _drain(router: Router) -> None:
    assert router.process.stderr is not None
    while line := (await router.process.stderr.readline()).decode():
        router.said.append(line.rstrip())


async def _is_ready(router: Router) -> bool:
    return (await router.http.get(f"{router.url}/ready")).status_code == 200


@dataclass
class Scene:
    fleet: FleetConfig
    redis: Any
    one: Router
    two: Router

    async def slow(self, slow: float) -> None:
        for number in range(REPLICAS):
            await self.one.http.post(
                f"http://127.0.0.1:{self.fleet.port}/sim/failures", json={"replica": number, "slow": slow}
            )

    async def hear_each_other(self) -> None:
        async def heard() -> bool:
            return all([len((await router.routers())["routers"]) == 1 for router in (self.one, self.two)])

        await until(heard)


@asynccontextmanager
async def two_routers(path: Path) -> AsyncIterator[Scene]:
    fleet = fleet_config(replicas=REPLICAS)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving(fleet))
        redis = await stack.enter_async_context(redis_server())
        one = await stack.enter_async_context(routing(fleet, redis.url, path, "one"))
        two = await stack.enter_async_context(routing(fleet, redis.url, path, "two"))
        yield Scene(fleet, redis, one, two)


async def test_each_router_counts_what_the_other_has_open_and_a_killed_one_leaves_nothing(tmp_path: Path) -> None:
    async with two_routers(tmp_path) as scene, asyncio.TaskGroup() as tasks:
        one, two = scene.one, scene.two
        await scene.hear_each_other()
        await scene.slow(1000.0)
        streams = [tasks.create_task(_ignored(one.ask(f"{n}", max_tokens=200))) for n in range(STREAMS)]

        async def sees() -> bool:
            return sum((own := await one.own()).values()) == STREAMS and await two.peers() == own

        await until(sees)
        assert max((await two.peers()).values()) == STREAMS // REPLICAS  # least_loaded spread them
        assert sum((await two.own()).values()) == 0
        # What the other sent is not taken for foreign as well: the two add up to what the replicas run.
        assert await two.metric("homing_foreign_requests{") + STREAMS == STREAMS
        told = await two.routers()
        assert (told["shared"]["up"], told["routers"][0]["router"], told["routers"][0]["requests"]) == (
            True,
            "one",
            STREAMS,
        )
        # A newcomer decides by both: with the fleet evenly laden by the other, ours spread evenly, too.
        streams += [tasks.create_task(_ignored(two.ask(f"{n}", max_tokens=200))) for n in range(REPLICAS)]

        async def back() -> bool:
            return await one.peers() == {"r0": 1, "r1": 1, "r2": 1}

        await until(back)
        one.process.send_signal(signal.SIGKILL)

        async def forgotten() -> bool:
            return sum((await two.peers()).values()) == 0

        await until(forgotten)
        assert (await two.routers())["routers"] == []
        assert any("router one has fallen silent" in line for line in two.said)
        for stream in streams:
            stream.cancel()


async def test_a_router_that_ends_in_peace_takes_its_load_back_at_once(tmp_path: Path) -> None:
    async with two_routers(tmp_path) as scene:
        await scene.hear_each_other()
        scene.one.process.send_signal(signal.SIGTERM)
        await scene.one.process.wait()

        async def alone() -> bool:
            return not (await scene.two.routers())["routers"]

        await until(alone)
        assert any("router one has left" in line for line in scene.two.said)
        assert not any("silent" in line for line in scene.two.said)


async def test_no_request_fails_while_redis_is_killed_hangs_and_comes_back(tmp_path: Path) -> None:
    async with two_routers(tmp_path) as scene:
        routers = (scene.one, scene.two)
        await scene.hear_each_other()
        statuses: list[int] = []
        over = asyncio.Event()

        async def keep_asking(router: Router) -> None:
            while not over.is_set():
                statuses.append((await router.ask("again and again")).status_code)
                await asyncio.sleep(0.02)

        async def are(up: float) -> bool:
            return all([await router.metric("homing_shared_up") == up for router in routers])

        async def alone() -> bool:
            return all([not (await router.routers())["routers"] for router in routers])

        async with asyncio.TaskGroup() as tasks:
            for router in routers:
                tasks.create_task(keep_asking(router))
            await scene.redis.kill()
            await until(lambda: are(0.0))
            await until(alone)
            await scene.redis.start()
            await until(lambda: are(1.0))
            await scene.hear_each_other()
            scene.redis.hang()
            await until(lambda: are(0.0))
            await until(alone)
            scene.redis.resume()
            await until(lambda: are(1.0))
            await scene.hear_each_other()
            over.set()
        assert set(statuses) == {200}
        for router in routers:
            assert [sum(word in line for line in router.said) for word in (" is away (", " again after ")] == [2, 2]
            assert not any("fallen silent" in line for line in router.said), "Redis was away, not the other router"


async def _ignored(asking: Any) -> None:
    """A stream nobody waits for: its router may be killed."""
    with suppress(httpx.HTTPError):
        await asking
