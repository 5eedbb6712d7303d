"""Chaos by a seed: `python -m loadtest.chaos --minutes 10 --seed 1`, or `make chaos`.

Two `homing serve` before simulated replicas, a Valkey or Redis between them, wires that can be cut; requests come at
fixed moments whatever becomes of the others. Replicas, routers and Redis are killed, paused, slowed and ended, events
dropped, wires held, emptied and cut. Then every request that failed is held against the rules (judge.py), and what is
left afterwards is counted. The exit status is 1 when anything was against the rules.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.chaos.judge import FAILURES, Seen
from loadtest.chaos.play import Terms, play
from loadtest.chaos.report import section, title, with_section
from loadtest.chaos.schedule import Trouble
from loadtest.machine import ROOT, machine

RESULTS = ROOT / "loadtest/results/chaos.md"
PREFACE = (
    "# Chaos\n\n`make chaos`: what is done, and by which rules a failure is allowed, stands in `loadtest/chaos/`.\n"
)


async def run(given: argparse.Namespace) -> int:
    working = asyncio.current_task()
    assert working is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)  # no child may outlive us
    terms = Terms(given.seed, 60.0 * given.minutes, given.replicas, given.rate, given.troubles_per_minute)
    console = Console(stderr=True)
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[seen]} ended, {task.fields[failed]} failed"))
    seen_count = failed_count = 0
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=terms.seconds, seen=0, failed=0)

        def on_seen(seen: Seen) -> None:
            nonlocal seen_count, failed_count
            seen_count += 1
            failed_count += seen.end in FAILURES
            progress.update(bar, completed=seen.ended_seconds, seen=seen_count, failed=failed_count)

        def on_trouble(trouble: Trouble) -> None:
            whom = [f"r{trouble.replica}"] if trouble.replica is not None else []
            whom += [f"router {trouble.router}"] if trouble.router is not None else []
            console.print(
                f"{trouble.at_seconds:6.1f} s  {trouble.sort.name}  {', '.join(whom)}  {trouble.seconds:.1f} s"
            )

        with tempfile.TemporaryDirectory() as folder:
            ran = await play(terms, given.keep or Path(folder), on_trouble=on_trouble, on_seen=on_seen)
    about = machine()
    told = section(ran, f"{about['machine']}, commit {about['commit']}: `{about['command']}`")
    print(f"## {title(ran)}\n\n{told}")
    await asyncio.to_thread(_write, given.out, title(ran), told)
    return 1 if ran.faults() else 0


def _write(out: Path, name: str, told: str) -> None:
    before = out.read_text() if out.exists() else ""
    out.write_text(with_section(before, name, told, PREFACE))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    plain = Terms(1, 600.0)
    parser.add_argument("--minutes", type=float, default=10.0, help="of storm; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of everything that happens; default: %(default)s")
    parser.add_argument("--replicas", type=int, default=plain.replicas, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=plain.per_second, help="requests a second; default: %(default)s")
    parser.add_argument(
        "--troubles-per-minute", type=float, default=plain.troubles_per_minute, help="default: %(default)s"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep there what the processes say")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="FILE", help="gets a section; default: %(default)s"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    return uvloop.run(run(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main())
