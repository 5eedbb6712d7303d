"""A whole Homing before simulated replicas, in one event loop, for tests that tell a story from outside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from router import app, config
from router.house import House
from router.index.base import Trust
from router.reload.source import ConfigSource
from router.sim.server import FleetConfig
from router.sim.text import SHIPPED_TOKENIZER
from tests.sim.fleets import fleet_config, serving

PATIENCE_SECONDS = 20.0


@dataclass
class Stage:
    """What a story plays on."""

    house: House
    fleet: FleetConfig
    http: httpx.AsyncClient
    said: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.house.url

    def replica_url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.fleet.port + number}"

    async def order(self, number: int, through: int | None = None, **switches: Any) -> None:
        """Make a simulated replica fail; asked through the next one, so that a dead one hears it too."""
        url = self.replica_url((number + 1) % self.fleet.replicas if through is None else through)
        answer = await self.http.post(f"{url}/sim/failures", json={"replica": number, **switches})
        assert answer.status_code == 200, answer.text

    async def ask(
        self, text: str = "hello", *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """One chat."""
        body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 4, **fields}
        explained = {"x-homing-explain": "1", **(headers or {})}
        return await self.http.post(f"{self.url}/v1/chat/completions", json=body, headers=explained)

    async def served_by(self, text: str, count: int = 4) -> set[str]:
        """Who answers so many of the same chat, one after another."""
        answers = [await self.ask(text) for _ in range(count)]
        assert {answer.status_code for answer in answers} == {200}
        return {answer.headers["x-homing-replica"] for answer in answers}

    def known(self) -> list[str]:
        """The replicas there are, by id."""
        return [self.house.roster.replica(seat).id for seat in self.house.roster.present()]

    async def metric(self, line_start: str) -> float:
        """The sum of the samples whose line begins so."""
        text = (await self.http.get(f"{self.house.admin_url}/metrics")).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(line_start))

    async def outcomes(self) -> dict[str, float]:
        text = (await self.http.get(f"{self.house.admin_url}/metrics")).text
        found: dict[str, float] = {}
        for line in text.splitlines():
            if line.startswith("homing_requests_total{"):
                outcome = line.split('outcome="')[1].split('"')[0]
                found[outcome] = found.get(outcome, 0) + float(line.rsplit(" ", 1)[1])
        return found

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what other tasks are about to bring about."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():  # noqa: ASYNC110 - other rooms' state is what is asked; it tells no event
                await asyncio.sleep(0.01)

    async def settled(self) -> None:
        """Every replica's events are heard and its tokens are read here."""
        trust, present = self.house.trust, self.house.roster.present
        await self.until(lambda: self.house.readers.source("tiny") == "local")
        await self.until(lambda: all(trust.of(seat) is Trust.EXACT for seat in present()))

    async def nothing_left(self) -> None:
        """Leases, open requests and loans are all given back."""
        house = self.house
        await self.until(lambda: len(house.ledger) == 0)
        assert int(house.ledger.queued_tokens.sum()) == 0
        assert int(house.ledger.context_tokens.sum()) == 0
        assert len(house.index.recent) == 0
        assert await self.metric("homing_leases_open{") == 0


@asynccontextmanager
async def stage(
    count: int = 2, *, fleet: Mapping[str, Any] | None = None, settle: bool = True, **settings: Any
) -> AsyncIterator[Stage]:
    """Simulated replicas and a Homing before them. `settings` are laid over the configuration."""
    simulated = fleet_config(replicas=count, **(fleet or {}))
    async with serving(simulated), homing(simulated, settle=settle, **settings) as one:
        yield one


def _write(file: Path, settings: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(settings))


@asynccontextmanager
async def homing(
    simulated: FleetConfig, *, settle: bool = True, file: Path | None = None, **settings: Any
) -> AsyncIterator[Stage]:
    """A Homing before replicas that run already; from a file, which is written first, it can be reloaded."""
    told: dict[str, Any] = {
        "listen": {"host": "127.0.0.1", "port": 0, "admin_port": 0},
        "replicas": [
            {"url": f"http://127.0.0.1:{simulated.port + i}", "id": f"r{i}"} for i in range(simulated.replicas)
        ],
        "tokens": {"tokenizer": str(SHIPPED_TOKENIZER)},
        "probe": {"interval_seconds": 0.2},
        "limits": {"drain_seconds": 1.0},
        **settings,
    }
    if file is not None:
        _write(file, told)
    read = config.read(None, told) if file is None else ConfigSource(file, {})
    said: list[str] = []
    async with app.running(read, say=said.append) as house, httpx.AsyncClient(timeout=30.0) as http:
        one = Stage(house, simulated, http, said)
        await one.until(lambda: house.health.any_healthy(asyncio.get_running_loop().time()))
        if settle:
            await one.settled()
        yield one
