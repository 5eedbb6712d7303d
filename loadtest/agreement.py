"""`python -m loadtest.agreement`: do the virtual fleet and a run over HTTP rank policies alike?

One scenario (loadtest/scenario.py) under each policy: in virtual time as the lab plays it (router/lab/run.py), then in
real time through `homing serve` before simulated replicas: the same requests at the same moments, the same engine model
and timing; sockets, JSON, ZMQ and the machine's own pauses come on top. Compared are the time to the first token and
the tokens computed for a request, which is the hit ratio seen from the other side. Every policy gets the replicas'
events in both worlds, as a gateway gives them, also where its authors made do with less.

Takes as long as the arrivals span, for each policy. Results: agreement.md and agreement.json in `--results`. The exit
status is 1 where a pair of policies stands in opposite order.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console

from loadtest.agreement_report import Agreement, Heard, write
from loadtest.machine import ROOT, machine
from loadtest.processes import SimulatedFleet, served
from loadtest.scenario import Scenario, over_http, rows
from router.errors import ConfigError
from router.lab.block_trace import BlockTrace
from router.lab.pairs import BATCHES
from router.lab.run import Run, play
from router.lab.workloads import Load
from router.sim.caller import Caller
from router.sim.drive import drive
from router.sim.record import Record
from router.sim.report import faults, percentile

POLICIES = ("round_robin", "least_loaded", "consistent_hash", "dynamo", "llmd_affinity", "cache_aware")
VIRTUAL_RUNS = 5  # a second each
MODEL = "sim"


def in_virtual_time(scenario: Scenario, policy: str, chance: int) -> Heard:
    """`chance` decides how ties fall, and nothing about what is asked."""
    requests = rows(scenario)
    load = Load(len(requests), scenario.rate_per_second, None, chance)
    played = play(Run(policy, "agreement", scenario.fleet, load), lambda _: BlockTrace(requests, speed=1.0))
    good = {name: one for name, one in played.stories.items() if one.first_token_seconds is not None and one.finished}
    return Heard(
        ttft_seconds={name: (one.first_token_seconds or 0.0) - one.arrival_seconds for name, one in good.items()},
        computed_tokens={name: float(one.prompt_tokens - one.cached_tokens) for name, one in good.items()},
        prompt_tokens=sum(one.prompt_tokens for one in good.values()),
        errors=len(requests) - len(good),
        exact_ratio=played.outcome.exact_ratio or 0.0,
        late_p99_seconds=0.0,
    )


async def in_real_time(scenario: Scenario, policy: str) -> Heard:
    """Raises ConfigError where the replicas or Homing do not start."""
    fleet = SimulatedFleet(
        scenario.replicas, scenario.engine_blocks, scenario.engine_block_tokens, scenario.timing, seed=scenario.seed
    )
    async with served(fleet, policy) as homing:
        records = await drive(over_http(rows(scenario)), homing.url, model=MODEL)
        exact_ratio = await foretold(homing.admin_url)
    for fault in faults(records):
        Console(stderr=True).print(f"{policy}: {fault}")
    in_order = sorted(records, key=lambda one: one.at_seconds)
    good = {one.conversation: told for one in in_order if (told := _measured(one)) is not None}
    return Heard(
        ttft_seconds={name: ttft_seconds for name, (ttft_seconds, _, _) in good.items()},
        computed_tokens={name: float(prompt - cached) for name, (_, prompt, cached) in good.items()},
        prompt_tokens=sum(prompt for _, prompt, _ in good.values()),
        errors=len(records) - len(good),
        exact_ratio=exact_ratio,
        late_p99_seconds=percentile([one.late_seconds for one in records], 0.99) or 0.0,
    )


def _measured(one: Record) -> tuple[float, int, int] | None:
    """Seconds to the first token, prompt and cached tokens; None for what failed or did not tell."""
    if one.error is not None or one.first_token_seconds is None:
        return None
    if one.prompt_tokens is None or one.cached_tokens is None:
        return None
    return one.first_token_seconds, one.prompt_tokens, one.cached_tokens


class _Replica(msgspec.Struct):
    judged: int
    exact: int


class _Replicas(msgspec.Struct):
    replicas: list[_Replica]


async def foretold(admin_url: str) -> float:
    """The share of judged requests whose cached tokens a running Homing foretold exactly; 0 where it judged none."""
    caller = Caller(admin_url)
    try:
        told = msgspec.json.decode((await caller.get("/homing/replicas")).body, type=_Replicas).replicas
    finally:
        caller.close()
    return sum(one.exact for one in told) / max(1, sum(one.judged for one in told))


async def agreement(scenario: Scenario, policies: Sequence[str]) -> Agreement:
    """Both worlds, policy by policy: real time has the machine to itself."""
    console = Console(stderr=True)
    virtual: dict[str, list[Heard]] = {}
    http: dict[str, list[Heard]] = {}
    for policy in policies:
        chances = range(VIRTUAL_RUNS)
        virtual[policy] = [await asyncio.to_thread(in_virtual_time, scenario, policy, one) for one in chances]
        console.print(f"{policy}: virtual hit ratio {virtual[policy][0].hit_ratio:.1%}; over HTTP ...")
        heard = await in_real_time(scenario, policy)
        console.print(f"{policy}: over HTTP {heard.hit_ratio:.1%}, {heard.errors} errors")
        http[policy] = [heard]
    return Agreement(scenario, virtual, http)


def main(arguments: Sequence[str] | None = None) -> int:
    usual = Scenario()
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.agreement", formatter_class=argparse.ArgumentDefaultsHelpFormatter, description=__doc__
    )
    parser.add_argument("--policy", action="append", help=f"again for more; default: {', '.join(POLICIES)}")
    parser.add_argument("--requests", type=int, default=usual.requests)
    parser.add_argument("--rate", type=float, default=usual.rate_per_second, help="requests a second")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--results", type=Path, default=ROOT / "loadtest" / "results")
    given = parser.parse_args(arguments)
    if given.requests < 2 * BATCHES:
        parser.error(f"--requests {given.requests} is too few for an interval; give at least {2 * BATCHES}")
    scenario = replace(usual, requests=given.requests, rate_per_second=given.rate, seed=given.seed)
    about = machine()
    try:
        found = uvloop.run(agreement(scenario, given.policy or POLICIES))
    except ConfigError as fault:
        sys.exit(fault.message)
    print(write(found, about, given.results))
    return 1 if found.opposite else 0


if __name__ == "__main__":
    sys.exit(main())
