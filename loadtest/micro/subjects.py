"""The processes under measurement: a mock engine, and before it Homing and the bare relay, each its own child."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from loadtest.processes import START_SECONDS, answering, child, free_ports
from router.sim.caller import Caller
from router.sim.text import SHIPPED_TOKENIZER


@dataclass(frozen=True, slots=True)
class Subject:
    name: str
    url: str
    pid: int
    admin_url: str | None = None

    def cpu_seconds(self) -> float:
        """User and system time of all the process's threads. In nanoseconds: ticks of 10 ms would be coarse."""
        spent = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that ended meanwhile
                spent += int((task / "schedstat").read_text().split()[0])
        return spent / 1e9


@contextlib.asynccontextmanager
async def subjects(policy: str, tokenizer: Path = SHIPPED_TOKENIZER) -> AsyncIterator[tuple[Subject, Subject]]:
    """Homing and the bare relay, ready for traffic, before one mock engine."""
    mock_port, port, admin_port, bare_port = free_ports(4)
    mock = f"http://127.0.0.1:{mock_port}"
    serve = ["serve", "--replica", mock, "--host", "127.0.0.1", "--port", str(port), "--admin-port", str(admin_port)]
    serve += ["--tokenizer", str(tokenizer), "--policy", policy, "--quiet"]
    async with (
        child("loadtest.micro.mock", "--port", str(mock_port)),
        child("router.cli", *serve) as homing,
        child("loadtest.micro.bare", "--port", str(bare_port), "--upstream", mock) as bare,
    ):
        first = Subject("homing", f"http://127.0.0.1:{port}", homing, f"http://127.0.0.1:{admin_port}")
        second = Subject("bare relay", f"http://127.0.0.1:{bare_port}", bare)
        await answering(mock, "/health")
        await answering(first.url, "/ready")
        await answering(second.url, "/health")
        await _proven(first)
        yield first, second


async def _proven(homing: Subject) -> None:
    """Wait until the token source has passed its proof: before that the engine is asked, which is another path."""
    caller = Caller(homing.admin_url or "")
    try:
        async with asyncio.timeout(START_SECONDS):
            while b'"local"' not in (await caller.get("/homing/replicas")).body:  # noqa: ASYNC110  over HTTP
                await asyncio.sleep(0.1)
    finally:
        caller.close()
