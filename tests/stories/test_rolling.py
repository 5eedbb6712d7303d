"""Two routers behind a balancer are restarted one after the other while clients stream. Nobody notices."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.sim.server import FleetConfig
from router.sim.text import SHIPPED_TOKENIZER
from tests.sim.fleets import fleet_config, serving
from tests.stories.balancer import Backend, balancing

PATIENCE_SECONDS = 120.0
CLIENTS = 6
STREAM_TOKENS = 120


@dataclass
class Process:
    """One `homing serve`, which can be started anew on its ports."""

    file: Path
    port: int
    admin_port: int
    running: asyncio.subprocess.Process | None = None
    said: list[str] = field(default_factory=list)
    _reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        words = ("-m", "router.cli", "serve", str(self.file), "--quiet")
        self.running = await asyncio.create_subprocess_exec(sys.executable, *words, stderr=asyncio.subprocess.PIPE)
        self._reading = asyncio.create_task(self._listen())

    async def stop(self) -> int:
        """SIGTERM, and the exit status once it has ended."""
        assert self.running is not None
        assert self._reading is not None
        self.running.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            status = await self.running.wait()
        await self._reading
        return status

    async def kill(self) -> None:
        if self.running is not None and self.running.returncode is None:
            with suppress(ProcessLookupError):
                self.running.kill()
            await self.running.wait()
        if self._reading is not None:
            await self._reading

    async def _listen(self) -> None:
        assert self.running is not None
        assert self.running.stderr is not None
        while line := (await self.running.stderr.readline()).decode():
            self.said.append(line.rstrip())


@asynccontextmanager
async def routers(fleet: FleetConfig, path: Path, count: int, **settings: Any) -> AsyncIterator[list[Process]]:
    """So many router processes, started."""
    ports = _free_ports(2 * count)
    async with AsyncExitStack() as stack:
        found = []
        for number in range(count):
            port, admin_port = ports[2 * number : 2 * number + 2]
            told = {
                "listen": {"host": "127.0.0.1", "port": port, "admin_port": admin_port},
                "replicas": [
                    {"url": f"http://127.0.0.1:{fleet.port + i}", "id": f"r{i}"} for i in range(fleet.replicas)
                ],
                "tokens": {"tokenizer": str(SHIPPED_TOKENIZER)},
                "probe": {"interval_seconds": 0.2},
                **settings,
            }
            file = path / f"router{number}.yaml"
            _write(file, told)
            process = Process(file, port, admin_port)
            stack.push_async_callback(process.kill)
            await process.start()
            found.append(process)
        yield found


def _write(file: Path, told: object) -> None:
    file.write_text(json.dumps(told))


def _free_ports(count: int) -> list[int]:
    """Of a range that nobody is given by the system; another process could still take one in between."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 - other processes tell no event
            await asyncio.sleep(0.02)


@dataclass
class Load:
    """Clients that stream one answer after another, as fast as they get them."""

    url: str
    ended: Counter[str] = field(default_factory=Counter)
    closes: int = 0  # answers that said that their connection closes
    over: bool = False

    async def client(self, number: int) -> None:
        turn, keep = 0, httpx.Limits(max_keepalive_connections=number % 2)  # every other client keeps its connection
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False, limits=keep) as http:
            while not self.over:
                turn += 1
                # Every second answer is long, so that some outlast the notice; their heads say nothing of the close.
                self.ended[
                    await self._ask(http, f"client {number}, turn {turn}", STREAM_TOKENS if turn % 2 else 2)
                ] += 1

    async def _ask(self, http: httpx.AsyncClient, text: str, tokens: int) -> str:
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }
        content = b""
        try:
            async with http.stream("POST", f"{self.url}/v1/chat/completions", json=body) as answer:
                async for piece in answer.aiter_bytes():
                    content += piece
        except httpx.HTTPError as fault:
            return f"{type(fault).__name__} after {len(content)} bytes"
        self.closes += answer.headers.get("connection") == "close"
        if answer.status_code != 200:
            return f"status {answer.status_code}"
        events = content.count(b'"content":"')
        whole = content.endswith(b"data: [DONE]\n\n") and b'"error"' not in content and events >= tokens
        return "whole" if whole else f"broken: {events} of {tokens} tokens"


@pytest.mark.timeout(300)  # six starts and stops of processes, on a machine that may be busy
async def test_two_routers_are_restarted_under_streams_and_no_stream_breaks(tmp_path: Path) -> None:
    fleet = fleet_config(replicas=2)
    limits = {"notice_seconds": 0.7, "drain_seconds": 30.0, "slow_start_seconds": 0.0}
    async with serving(fleet), routers(fleet, tmp_path, 2, limits=limits) as both:
        backends = [Backend(one.port, f"http://127.0.0.1:{one.admin_port}/ready") for one in both]
        async with balancing(*backends) as balancer, asyncio.TaskGroup() as tasks:
            await until(lambda: all(backend.ready for backend in backends))
            await _slow(fleet, 25.0)  # a long answer takes a second or two: longer than the notice
            load = Load(f"http://127.0.0.1:{balancer.port}")
            clients = [tasks.create_task(load.client(number)) for number in range(CLIENTS)]
            await until(lambda: load.ended.total() >= CLIENTS)
            for one, backend, other in zip(both, backends, reversed(backends), strict=True):
                before = backend.taken
                assert before > 0
                assert await one.stop() == 0, one.said
                assert other.ready
                await one.start()
                await until(partial(_serves_more, backend, before))
            load.over = True
            await asyncio.gather(*clients)
        assert set(load.ended) == {"whole"}, load.ended
        assert balancer.refused == 0
        assert load.closes > 0


def _serves_more(backend: Backend, before: int) -> bool:
    return backend.ready and backend.taken > before


async def _slow(fleet: FleetConfig, factor: float) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        for number in range(fleet.replicas):
            url = f"http://127.0.0.1:{fleet.port}/sim/failures"
            assert (await http.post(url, json={"replica": number, "slow": factor})).status_code == 200
