"""A simulated vLLM server with data-parallel ranks: one port, an engine behind each number of the rank header."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from router.clock import SystemClock
from router.sim.asgi import Receive, Scope, Send, reply
from router.sim.engine import EngineLimits
from router.sim.model import Model
from router.sim.pages import metrics, sources
from router.sim.publish import EventSettings
from router.sim.replica import Replica, ReplicaSettings
from router.sim.routes import Routes
from router.sim.server import HttpListener
from router.sim.text import SHIPPED_TOKENIZER, ChatTemplate, Tokens
from router.sim.transfers import Patience, Transfers
from router.sim.wires import Wires, WireTiming
from tests.sim.fleets import FAST, free_ports

RANK_HEADER = b"x-data-parallel-rank"
LIMITS = EngineLimits(block_count=257, block_size_tokens=16, max_model_tokens=1024)


class NoListener:
    """Of a rank that is reached through the server's first."""

    async def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


class Front:
    """Hands each request to the engine its header names, and tells of all of them together."""

    def __init__(self, ranks: int) -> None:
        self.port = free_ports(ranks)
        self.shown = ranks  # how many it tells of; fewer: as if it had been started again with fewer
        self.asked: Counter[str] = Counter()  # requests by rank header, "" without one
        self.listener = HttpListener("127.0.0.1", self.port)
        clock = SystemClock()
        self.replicas = [
            Replica(
                ReplicaSettings(
                    host="127.0.0.1",
                    port=self.port,
                    events_port=self.port + 1000 + rank,
                    replay_port=self.port + 2000 + rank,
                    limits=LIMITS,
                    timing=FAST,
                    events=EventSettings(topic="kv"),
                    seed=rank,
                ),
                clock,
            )
            for rank in range(ranks)
        ]
        model = Model.load(
            Tokens(SHIPPED_TOKENIZER),
            ChatTemplate(SHIPPED_TOKENIZER),
            ("tiny",),
            (),
            LIMITS.max_model_tokens,
            str(SHIPPED_TOKENIZER.resolve()),
        )
        transfers = Transfers(self.replicas, Wires(WireTiming()), Patience(), clock)
        self._routes = [
            Routes(one, self.replicas, model, clock, self.listener.abort, transfers=transfers) for one in self.replicas
        ]
        self.listener.serve(self)  # type: ignore[arg-type] # any ASGI application can be served

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = self.replicas[: self.shown]
        if scope["path"] == "/kv_event_sources":
            pages = (json.loads(sources(one.settings))["0"] for one in told)
            await reply(send, 200, json.dumps({str(rank): page for rank, page in enumerate(pages)}).encode())
        elif scope["path"] == "/metrics":
            pages = (metrics(one, "tiny").replace(b'engine="0"', b'engine="%d"' % n) for n, one in enumerate(told))
            start = b"process_start_time_seconds"
            first, *rest = [page.splitlines() for page in pages]
            lines = [*first, *(line for page in rest for line in page if start not in line)]
            await reply(send, 200, b"\n".join(lines) + b"\n")
        else:
            rank = next((value.decode() for name, value in scope["headers"] if name == RANK_HEADER), "")
            if scope["path"].startswith("/v1/chat"):
                self.asked[rank] += 1
            await self._routes[int(rank or 0)](scope, receive, send)


@asynccontextmanager
async def serving_ranks(ranks: int) -> AsyncIterator[Front]:
    front = Front(ranks)
    ready = [asyncio.Event() for _ in front.replicas]
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(one.run(NoListener() if rank else front.listener, ready[rank]))
            for rank, one in enumerate(front.replicas)
        ]
        for event in ready:
            await event.wait()
        try:
            yield front
        finally:
            for task in running:
                task.cancel()
