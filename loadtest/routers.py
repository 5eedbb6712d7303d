"""One router, and several with and without a Redis between them: `python -m loadtest.routers --redis redis://HOST:PORT`.

Each router is a `homing serve` of its own before the same simulated replicas, fresh for each run; every turn goes to a
router drawn at random, as behind a balancer that knows nothing. The same turns come at the same moments in every run.

In-flight tokens of a replica are the prompt tokens of requests sent there and not yet answered, as the client saw it.
Their unevenness is the maximum over the mean of the replicas, over time: 1 is even.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import uvloop

from loadtest.machine import machine
from router.sim.caller import Caller, CallFailed
from router.sim.coding import CodingAgent, coding_conversations, standard_library
from router.sim.drive import drive
from router.sim.footprint import BLOCK_TOKENS, footprint
from router.sim.record import Record
from router.sim.report import summarise
from router.sim.text import SHIPPED_TOKENIZER, ChatTemplate, Tokens
from router.sim.timing import LLAMA3_70B_H100_TP2
from router.sim.workload import Arrivals, Workload, schedule

MODEL = "sim"
KV_SHARE = 0.4  # of the working set, in all replicas together
SAMPLE_SECONDS = 0.05
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """One line of the report. `busy_ratio`: of the replicas' prefill time, from what they reported as not cached."""

    routers: int
    shared: bool
    errors: int
    hit_ratio: float
    unevenness: float
    busy_ratio: float
    first_token_p50_seconds: float
    first_token_p90_seconds: float
    late_p99_seconds: float


def unevenness(records: Sequence[Record], replicas: int) -> float:
    """The sum over time of the fullest replica's in-flight tokens, over that of the mean replica's."""
    begin = {id(one): one.at_seconds + one.late_seconds for one in records}
    end_seconds = max(begin[id(one)] + one.total_seconds for one in records)
    fullest = total = 0.0
    for step in range(int(end_seconds / SAMPLE_SECONDS)):
        now = step * SAMPLE_SECONDS
        tokens: dict[str, int] = {}
        for one in records:
            if one.replica and begin[id(one)] <= now < begin[id(one)] + one.total_seconds:
                tokens[one.replica] = tokens.get(one.replica, 0) + (one.prompt_tokens or 0)
        fullest += max(tokens.values(), default=0)
        total += sum(tokens.values()) / replicas
    return fullest / total


@asynccontextmanager
async def _child(*words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def _ready(url: str) -> None:
    caller = Caller(url)
    try:
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    if (await caller.get("/ready")).status == 200:
                        return
                except CallFailed:
                    pass
                await asyncio.sleep(0.1)
    finally:
        caller.close()


async def play(
    given: argparse.Namespace, workload: Workload, blocks: int, speedup: float, routers: int, *, shared: bool
) -> Run:
    """One run, from fresh replicas to the last reply."""
    first, replicas = given.port, given.replicas
    settings = {
        "replicas": [{"url": f"http://127.0.0.1:{first + i}", "id": f"r{i}"} for i in range(replicas)],
        "tokens": {"tokenizer": str(SHIPPED_TOKENIZER)},
        "policy": given.policy,
        "limits": {"slow_start_seconds": 0.0},
        **({"shared": {"redis_url": given.redis, "name": f"load-{time.time_ns()}"}} if shared else {}),
    }
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = directory / "homing.yaml"
        file.write_text(json.dumps(settings))
        sim = ("--replicas", str(replicas), "--port", str(first), "--model", MODEL, "--blocks", str(blocks))
        speed = ("--block-size", str(BLOCK_TOKENS), "--speedup", f"{speedup:.4f}")
        fleet = await stack.enter_async_context(_child("-m", "router.sim.server", *sim, *speed))
        assert fleet.stdout is not None
        await fleet.stdout.readline()  # it says so when every port is open
        urls = []
        for number in range(routers):
            port = first + 100 + 2 * number
            ports = ("--host", "127.0.0.1", "--port", str(port), "--admin-port", str(port + 1), "--quiet")
            await stack.enter_async_context(_child("-m", "router.cli", "serve", str(file), *ports))
            urls.append(f"http://127.0.0.1:{port}")
        await asyncio.gather(*map(_ready, urls))
        await asyncio.sleep(3.0)  # tokens proven, streams begun: the same for all runs
        chance = Random(given.seed)
        shares: list[list[int]] = [[] for _ in urls]
        for turn in range(len(workload.turns)):
            shares[chance.randrange(routers)].append(turn)
        parts = [Workload(tuple(workload.turns[turn] for turn in share)) for share in shares]
        told = await asyncio.gather(*(drive(part, url, model=MODEL) for part, url in zip(parts, urls, strict=True)))
    records = [record for part in told for record in part]
    summary = summarise("", records)
    computed_seconds = LLAMA3_70B_H100_TP2.per_new_token_seconds / speedup
    computed = (summary.prompt_tokens - summary.cached_tokens) * computed_seconds
    return Run(
        routers,
        shared,
        summary.errors,
        summary.hit_ratio or 0.0,
        unevenness(records, replicas),
        computed / (replicas * workload.span_seconds),
        summary.first_token_p50_seconds or 0.0,
        summary.first_token_p90_seconds or 0.0,
        summary.late_p99_seconds or 0.0,
    )


async def main(given: argparse.Namespace) -> None:
    shape = CodingAgent(
        conversations=given.conversations,
        turns=4,
        turn_characters=7_000,
        system_prompts=8,
        system_characters=600,
        max_tokens=12,
    )
    conversations = coding_conversations(shape, standard_library(), given.seed)
    workload = schedule(conversations, Arrivals(given.starts_per_second, think_seconds=2.0), given.seed)
    filled = footprint(conversations, Tokens(SHIPPED_TOKENIZER), ChatTemplate(SHIPPED_TOKENIZER))
    kv_tokens = max(KV_SHARE * filled.distinct_tokens / given.replicas, 2 * filled.longest_tokens)
    once_seconds = filled.distinct_tokens * LLAMA3_70B_H100_TP2.per_new_token_seconds
    speedup = once_seconds / (given.load * given.replicas * workload.span_seconds)
    print(json.dumps(machine()))
    print(f"{len(workload.turns)} turns in {workload.span_seconds:.0f} s, {given.replicas} replicas")
    print("routers shared errors hit    uneven busy   ttft p50  p90    late p99")
    for routers in given.routers:
        for shared in (False,) if routers == 1 else (True, False):
            run = await play(given, workload, 1 + int(kv_tokens / BLOCK_TOKENS), speedup, routers, shared=shared)
            print(
                f"{run.routers:7d} {run.shared!s:6} {run.errors:6d} {run.hit_ratio:.3f}  {run.unevenness:.3f}  "
                f"{run.busy_ratio:.2f}   {run.first_token_p50_seconds:.3f} s   {run.first_token_p90_seconds:.3f}  "
                f"{run.late_p99_seconds:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m loadtest.routers", description=__doc__)
    parser.add_argument("--redis", required=True, metavar="URL")
    parser.add_argument("--routers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--policy", default="cache_aware")
    parser.add_argument("--port", type=int, default=21_000)
    parser.add_argument("--conversations", type=int, default=130)
    parser.add_argument("--starts-per-second", type=float, default=6.0)
    parser.add_argument("--load", type=float, default=0.5, help="of the replicas' time, were each token computed once")
    parser.add_argument("--seed", type=int, default=1)
    uvloop.run(main(parser.parse_args()))
