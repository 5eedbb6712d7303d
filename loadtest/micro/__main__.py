"""`python -m loadtest.micro`: what a decision and a request cost, with the machine and the limits they are held to."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from loadtest.micro.decision import DecisionCost, decision_cost
from loadtest.micro.gateway import Cost, Delay, cost_of_chunk, cost_of_long, cost_of_small, delay_of
from loadtest.micro.subjects import subjects
from router.sim.coding import standard_library

# What each figure is held to: microseconds, and for delays milliseconds.
DECISION_LIMITS = {True: 50.0, False: 400.0}  # by whether there are at most FEW_DEPTHS distinct depths
FEW_DEPTHS = 8
COST_LIMITS = {"1 KB": 150.0, "seen": 4_000.0, "paced": 25.0}
ADDED_P99_LIMIT, LOOP_LAG_LIMIT = 10.0, 20.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.micro", description=__doc__)
    parser.add_argument("--only", choices=("decision", "cost", "delay"), help="default: all")
    parser.add_argument("--policy", default="cache_aware")
    parser.add_argument("--rounds", type=int, default=3, help="of each cost, for each subject")
    parser.add_argument("--decisions", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each delay run")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    given = parser.parse_args()
    console = Console()
    console.print(
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )
    figures: dict[str, object] = {}
    if given.only in (None, "decision"):
        decisions = [
            decision_cost(replicas, depths, given.policy, given.decisions, seed=1)
            for replicas, depths in ((8, 8), (128, 8), (128, 128))
        ]
        console.print(_decision_table(decisions))
        figures["decisions"] = [asdict(one) for one in decisions]
    if given.only in (None, "cost", "delay"):
        costs, delays = uvloop.run(_gateway(given))
        if costs:
            console.print(_cost_table(costs))
        if delays:
            console.print(_delay_table(delays))
        figures |= {"costs": [asdict(one) for one in costs], "delays": [asdict(one) for one in delays]}
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))


async def _gateway(given: argparse.Namespace) -> tuple[list[Cost], list[Delay]]:
    sources = standard_library()
    costs: list[Cost] = []
    delays: list[Delay] = []
    async with subjects(given.policy) as both:
        if given.only != "delay":
            costs.append(await cost_of_small(both, given.rounds))
            costs.append(await cost_of_long(both, sources, given.rounds))
            costs.append(await cost_of_chunk(both, given.rounds))
        if given.only != "cost":
            await asyncio.sleep(15)  # the worst lag told is of the last 15 s: starting up is not meant
            delays = [await delay_of(subject, sources, given.seconds) for subject in both]
    return costs, delays


def _decision_table(decisions: list[DecisionCost]) -> Table:
    table = Table(title="One decision, 100K tokens, hashes computed: microseconds")
    for column in ("replicas", "distinct depths", "p50", "p99", "p99 of CPU", "limit"):
        table.add_column(column, justify="right")
    for one in decisions:
        limit = DECISION_LIMITS[one.distinct_depths <= FEW_DEPTHS]
        timed = (one.p50_microseconds, one.p99_microseconds, one.cpu_p99_microseconds)
        table.add_row(str(one.replicas), str(one.distinct_depths), *(f"{us:.1f}" for us in timed), f"p99 {limit:.0f}")
    return table


def _cost_table(costs: list[Cost]) -> Table:
    table = Table(title="Gateway CPU: microseconds")
    for column in ("", *costs[0].by_subject, "difference", "limit"):
        table.add_column(column, justify="right")
    for cost in costs:
        homing, bare = cost.by_subject.values()
        limit = next(limit for name, limit in COST_LIMITS.items() if cost.what.startswith(name))
        table.add_row(cost.what, f"{homing:,.1f}", f"{bare:,.1f}", f"{homing - bare:,.1f}", f"{limit:,.0f}")
    return table


def _delay_table(delays: list[Delay]) -> Table:
    table = Table(title="1 KB requests at 50/s, beside 100K-token chats at 5/s: milliseconds")
    for column in ("", "p99 alone", "p99 beside", "added", "chats p50", "worst loop lag", "worst /health", "limits"):
        table.add_column(column, justify="right")
    for one in delays:
        lag = f"{one.loop_lag:.1f}" if one.loop_lag is not None else "-"
        timed = (one.alone_p99, one.beside_p99, one.added_p99, one.long_p50)
        probe = f"{one.probe:.1f}" if one.probe is not None else "-"
        limits = f"added {ADDED_P99_LIMIT:.0f}, lag {LOOP_LAG_LIMIT:.0f}"
        table.add_row(one.subject, *(f"{ms:.1f}" for ms in timed), lag, probe, limits)
    return table


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
