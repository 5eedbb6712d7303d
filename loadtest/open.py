"""Open-loop load on any OpenAI endpoint: `python -m loadtest.open --url http://127.0.0.1:8080 --trace FILE --rate 5`.

Arrivals are fixed before the run and wait for no reply. What is asked: a trace of block ids (Mooncake's format) as
prompts of token ids that share exactly the blocks the trace shares, any other file that router/sim/traces.py reads, or,
without a file, coding agents. A source with times keeps them, squeezed to `--rate` if one is given; one without gets
Poisson starts and think times.

Prints one JSON document: TTFT and inter-token percentiles, the hit ratio as the engines tell it (usage.cached_tokens),
errors, requests by replica where Homing answers. The exit status is 1 when no request was answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.machine import machine
from router.errors import ConfigError
from router.sim.caller import Caller, CallFailed
from router.sim.coding import CodingAgent, coding_conversations, standard_library
from router.sim.drive import MAX_OPEN, TIMEOUT_SECONDS, drive
from router.sim.record import Record
from router.sim.report import faults, summarise
from router.sim.traces import load_conversations
from router.sim.workload import Arrivals, Conversation, Workload, at_rate, first, recorded, schedule

AGENT_MAX_TOKENS = 32
COLUMNS = (
    BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    TextColumn("hit ratio {task.fields[hit]:.0%}, {task.fields[errors]} errors"),
)  # fmt: skip


def workload(given: argparse.Namespace) -> Workload:
    """What the arguments ask for. Raises ConfigError for a file that can't be used."""
    if given.trace:
        conversations = load_conversations(given.trace, max_tokens=given.max_tokens)
        if all(ask.at_seconds is not None for conversation in conversations for ask in conversation.asks):
            taken = first(recorded(conversations), given.requests)
            return at_rate(taken, given.rate) if given.rate else taken
    else:
        shape = CodingAgent(
            conversations=-(-given.requests // given.turns),
            turns=given.turns,
            max_tokens=min(AGENT_MAX_TOKENS, given.max_tokens),
        )
        conversations = coding_conversations(shape, standard_library(), given.seed)
    return first(schedule(conversations, _arrivals(given, conversations), given.seed), given.requests)


def _arrivals(given: argparse.Namespace, conversations: Sequence[Conversation]) -> Arrivals:
    mean_turns = sum(len(conversation.asks) for conversation in conversations) / len(conversations)
    starts = given.rate / mean_turns if given.rate else Arrivals().starts_per_second
    return Arrivals(starts_per_second=starts, think_seconds=given.think_seconds)


async def run(given: argparse.Namespace) -> int:
    asked = await asyncio.to_thread(workload, given)
    model = given.model or await first_model(given.url)
    cached = prompts = errors = 0
    with Progress(*COLUMNS, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(asked.turns), hit=0.0, errors=0)

        def show(record: Record) -> None:
            nonlocal cached, prompts, errors
            if record.cached_tokens is not None:
                cached, prompts = cached + record.cached_tokens, prompts + (record.prompt_tokens or 0)
            errors += record.error is not None
            progress.update(bar, advance=1, hit=cached / max(1, prompts), errors=errors)

        records = await drive(
            asked, given.url, model=model, on_record=show, max_open=given.max_open, timeout_seconds=given.timeout
        )
    summary = summarise(given.url, records)
    told = {
        "about": machine(),
        "asked_requests_per_second": asked.requests_per_second,
        **asdict(summary),
        "faults": faults(records),
    }
    print(json.dumps(told, indent=2))
    if given.records:
        await asyncio.to_thread(_write, given.records, records)
    return 0 if summary.errors < summary.requests else 1


async def first_model(url: str) -> str:
    """The first model an endpoint names. Raises ConfigError."""
    caller = Caller(url)
    try:
        told = msgspec.json.decode((await caller.get("/v1/models")).body)
        return str(told["data"][0]["id"])
    except (CallFailed, msgspec.DecodeError, LookupError, TypeError) as fault:
        raise ConfigError([f"{url}/v1/models names no model ({fault}). Is it up? Else give --model."]) from fault
    finally:
        caller.close()


def _write(path: Path, records: Sequence[Record]) -> None:
    path.write_text("".join(f"{json.dumps(asdict(record))}\n" for record in records))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.open", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="default: %(default)s")
    parser.add_argument("--model", help="default: the first that /v1/models names")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="JSON lines, .zst too; default: coding agents")
    parser.add_argument("--rate", type=float, help="requests a second on average; default: the source's own")
    parser.add_argument("--requests", type=int, default=1_000, help="at most, from the source's beginning")
    parser.add_argument("--max-tokens", type=int, default=1_024, help="of a reply at most; default: %(default)s")
    parser.add_argument("--turns", type=int, default=7, help="of a coding agent; default: %(default)s")
    parser.add_argument(
        "--think-seconds", type=float, default=Arrivals().think_seconds, help="between turns, in sources without times"
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT_SECONDS, help="seconds a reply may take")
    parser.add_argument("--max-open", type=int, default=MAX_OPEN, help="past it a request is an error, not a wait")
    parser.add_argument("--seed", type=int, default=1, help="of starts, think times and coding agents")
    parser.add_argument("--records", type=Path, metavar="FILE", help="write one JSON line a request there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        return uvloop.run(run(parse(arguments)))
    except ConfigError as fault:
        sys.exit(fault.message)


if __name__ == "__main__":
    sys.exit(main())
