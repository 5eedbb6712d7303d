"""Plays many runs at once, a process each, with a bar while it lasts."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from router.lab.run import Played, Run, play
from router.lab.workloads import workload


def play_all(runs: Sequence[Run], jobs: int) -> list[Played]:
    """In the order of the runs. Raises ConfigError for a workload or policy that cannot be used."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    played = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("runs", total=len(runs))
        for one in _one_by_one(runs, min(jobs, len(runs))):
            played.append(one)
            progress.advance(bar)
    return played


def _one_by_one(runs: Sequence[Run], jobs: int) -> Iterator[Played]:
    if jobs == 1:
        at = workload(runs[0].workload)
        for run in runs:
            yield play(run, at)
        return
    # Spawned, not forked: a fork would copy the threads' locks of whoever calls.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_played, runs)


def _played(run: Run) -> Played:
    return play(run, workload(run.workload))
