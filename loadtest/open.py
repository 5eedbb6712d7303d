"""Open-loop load on any OpenAI endpoint: `python -m loadtest.open --url http://127.0.0.1:8080 --model NAME`.

Arrivals are fixed before the run and wait for no reply. The coding agent by default, or any file `homing demo` reads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import uvloop
from rich.console import Console

from router.sim.coding import CodingAgent, coding_conversations, standard_library
from router.sim.drive import drive
from router.sim.report import faults, summarise
from router.sim.traces import load_conversations
from router.sim.workload import Arrivals, recorded, schedule


async def run(given: argparse.Namespace) -> None:
    if given.conversations:
        conversations = load_conversations(given.conversations, max_tokens=given.max_tokens)
    else:
        shape = CodingAgent(conversations=given.count, turns=given.turns, max_tokens=given.max_tokens)
        conversations = coding_conversations(shape, standard_library(), given.seed)
    conversations = conversations[: given.count]
    arrivals = Arrivals(starts_per_second=given.starts_per_second, think_seconds=given.think_seconds)
    workload = (
        recorded(conversations, given.recorded_speedup)
        if given.recorded_speedup
        else schedule(conversations, arrivals, given.seed)
    )
    records = await drive(workload, given.url, model=given.model)
    console = Console()
    console.print_json(json.dumps(asdict(summarise(given.url, records))))
    for fault in faults(records):
        console.print(fault)
    if given.records:
        await asyncio.to_thread(_write, given.records, [json.dumps(asdict(record)) for record in records])


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m loadtest.open", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", required=True)
    parser.add_argument("--conversations", type=Path, help="a file; default: the coding agent")
    parser.add_argument("--count", type=int, default=100, help="conversations at most")
    parser.add_argument("--turns", type=int, default=7, help="of the coding agent")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--starts-per-second", type=float, default=Arrivals().starts_per_second)
    parser.add_argument("--think-seconds", type=float, default=Arrivals().think_seconds)
    parser.add_argument("--recorded-speedup", type=float, help="keep the file's own times, so many times as fast")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=Path, help="write one JSON line a request there")
    uvloop.run(run(parser.parse_args()))
