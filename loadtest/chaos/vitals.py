"""What the routers are made of while it storms, and what is left when it is over: memory, leases, loans, places. Edge.

Memory is said to be flat when a router's resident bytes, less those of the books that fill up to bounds of their own
(receipts: 64 MB, the index: its budget; both as /metrics tells them), are after its warm-up never again much above what
they were at its end. The warm-up of a process is its first WARM_UP_SHARE, and WARM_UP_SECONDS at least.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from loadtest.chaos.fleet import HOST, Fleet, samples
from loadtest.chaos.judge import Shunned

EVERY_SECONDS = 2.0
WARM_UP_SHARE, WARM_UP_SECONDS = 1 / 3, 60.0
WATCHED_SECONDS = 60.0  # after the warm-up at least; of a shorter life nothing is said
GROWTH_RATIO, GROWTH_BYTES = 0.05, 6 * 2**20
BOOKS = ("homing_receipts_bytes", "homing_index_bytes")
ROUTER_OPEN = (
    "homing_leases_open", "homing_in_flight_requests", "homing_waiting_requests", "homing_held_requests",
    "homing_loans_open", "homing_peer_requests",
)  # fmt: skip
REPLICA_OPEN = ("vllm:num_requests_running", "vllm:num_requests_waiting")
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Breath:
    """One look at a router. `life`: which process under its name."""

    at_seconds: float
    router: int
    life: int
    resident_bytes: int
    books_bytes: int

    @property
    def own_bytes(self) -> int:
        return self.resident_bytes - self.books_bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """One router process that lived long enough. Bytes less those of its books."""

    router: int
    life: int
    seconds: float
    warm_bytes: float
    last_bytes: float
    resident_bytes: int

    @property
    def is_flat(self) -> bool:
        return self.last_bytes - self.warm_bytes <= max(GROWTH_BYTES, GROWTH_RATIO * self.warm_bytes)


def resident_bytes(pid: int) -> int | None:
    """None where the system does not tell (only Linux does), or the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return None


async def watch(fleet: Fleet, now: Callable[[], float], breaths: list[Breath], shunned: list[Shunned]) -> None:
    """For ever."""
    while True:
        for number, router in enumerate(fleet.routers):
            life, resident = router.child.lives, resident_bytes(router.child.pid)
            told = await router.metrics()
            if resident is not None and told is not None and life == router.child.lives:
                books = int(sum(told[name] for name in BOOKS))
                breaths.append(Breath(now(), number, life, resident, books))
            ill = [str(one["replica"]) for one in await router.replicas() if one["health"] == "open"]
            shunned += [Shunned(now(), number, int(name.removeprefix("r"))) for name in ill]
        await asyncio.sleep(EVERY_SECONDS)


def memories(breaths: list[Breath]) -> list[Memory]:
    """Of every process that was watched long enough. Both ends are medians, over a sixth of what was watched."""
    found = []
    for router, life in sorted({(one.router, one.life) for one in breaths}):
        own = [one for one in breaths if (one.router, one.life) == (router, life)]
        begin, end = own[0].at_seconds, own[-1].at_seconds
        warm = begin + max(WARM_UP_SECONDS, WARM_UP_SHARE * (end - begin))
        if end - warm < WATCHED_SECONDS:
            continue
        after = [one.own_bytes for one in own if one.at_seconds >= warm]
        sixth = -(-len(after) // 6)
        found.append(
            Memory(router, life, end - begin, median(after[:sixth]), median(after[-sixth:]), own[-1].resident_bytes)
        )
    return found


async def left_over(fleet: Fleet) -> dict[str, float]:
    """What is still open though nothing is under way, once there was time to close it; empty: nothing."""
    asked = [(f"router {number}", router.admin_url, ROUTER_OPEN) for number, router in enumerate(fleet.routers)]
    asked += [(f"r{number}", f"http://{HOST}:{port}", REPLICA_OPEN) for number, port in enumerate(fleet.replica_ports)]
    found = await asyncio.gather(*(_open(*one) for one in asked))
    left = {name: count for of_one in found for name, count in of_one.items()}
    for number, router in enumerate(fleet.routers):
        for one in await router.replicas():
            if one["queued_tokens"]:
                left[f"router {number}: {one['replica']} queued_tokens"] = float(str(one["queued_tokens"]))
    return left


async def _open(name: str, url: str, gauges: tuple[str, ...]) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE_SECONDS
    while True:
        told = await samples(url)
        found = {f"{name} tells nothing": 1.0}
        if told is not None:
            found = {f"{name}: {gauge}": told.get(gauge, 0.0) for gauge in gauges if told.get(gauge)}
        if not found or loop.time() > until:
            return found
        await asyncio.sleep(0.2)
