"""The runs that were played, in a file: a lab that was stopped goes on where it was.

A run is known by its content: policy text, workload, fleet, load, and the code that plays it (every module that
router/lab/run.py and the oracle reach by imports). So an edited policy is played anew and the others are not; edited
code begins anew.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from loadtest.machine import ROOT
from router.lab.oracle import ideal
from router.lab.over_time import over_time
from router.lab.run import Fleet, Run, play
from router.lab.workloads import WorkloadAt, workload
from router.policy.load import load
from router.policy.pipeline import IndexSource
from router.sim.report import percentile
from router.sim.timing import TIMINGS

Record = dict[str, Any]  # Any: a run's figures as they stand in the file, names and numbers
PLAYED_BY = ("router/lab/run.py", "router/lab/oracle.py", "router/lab/over_time.py")
ORACLE = "oracle"


class Notebook:
    """Several processes append to one file; each knows what stood there when it began and what it played itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._code = _code()
        self._known: dict[str, Record] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                if line.endswith("}"):  # else it was cut off while it was written
                    record = json.loads(line)
                    self._known[record["key"]] = record

    def figures(self, run: Run) -> Record:
        """The figures of a run, from the file or played now."""
        record: Record = self._played(run, whole=False)["outcome"]
        return record

    def whole(self, run: Run) -> Record:
        """Its figures (`outcome`), each request's seconds to the first token (`ttft`), and `over_time`."""
        return self._played(run, whole=True)

    def ideal(self, run: Run) -> Record:
        """The record of the oracle in this run's place."""
        key = self._key(replace(run, policy=ORACLE, fleet=replace(run.fleet, routers=1)))
        if key not in self._known:
            one = ideal(at(run.workload)(run.load), TIMINGS[run.fleet.timing], run.fleet.replicas, 64)
            ttft = list(one.ttft_seconds.values())
            outcome = {"policy": ORACLE, "hit_ratio": one.hit_ratio, "ttft_mean_seconds": sum(ttft) / len(ttft)}
            for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
                outcome[f"ttft_{name}_seconds"] = percentile(ttft, share) or 0.0
            self._known[key] = self._keep({"key": key, "outcome": outcome, "ttft": _rounded(one.ttft_seconds)})
        return self._known[key]

    def _played(self, run: Run, *, whole: bool) -> Record:
        run = replace(run, fleet=_heard(run))
        key = self._key(run)
        known = self._known.get(key)
        if known is not None and (not whole or "ttft" in known):
            return known
        one = play(run, at(run.workload))
        record: Record = {"key": key, "outcome": asdict(one.outcome)}
        if whole:
            record["ttft"] = _rounded(one.ttft_seconds)
            record["over_time"] = asdict(over_time(list(one.stories.values()), run.fleet.replicas))
        self._known[key] = self._keep(record)
        return record

    def _keep(self, record: Record) -> Record:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(record, separators=(",", ":")) + "\n")  # one write: processes share the file
        return record

    def _key(self, run: Run) -> str:
        content = replace(run, policy=digest([policy_file(run.policy)]) if run.policy != ORACLE else ORACLE)
        return f"{replace(content, workload=Path(run.workload).name)!r} {self._code}"


def policy_file(policy: str) -> Path:
    """Where a policy stands, by its name on the shelf or its path."""
    path = Path(policy)
    if path.suffix:
        return path
    return next((ROOT / "policies").rglob(f"{policy}.yaml"))


def digest(paths: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


@functools.cache
def book(path: Path) -> Notebook:
    """Read once a process, with what it plays itself; what others play meanwhile is theirs alone to need."""
    return Notebook(path)


@functools.cache
def at(name: str) -> WorkloadAt:
    """Traces are read once a process."""
    return workload(name)


def _heard(run: Run) -> Fleet:
    """What becomes of events is nothing to a policy that hears none: such runs are one."""
    if load(run.policy).index is IndexSource.APPROXIMATE:
        return replace(run.fleet, event_delay_seconds=0.0, lost_events_ratio=0.0)
    return run.fleet


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(one, 4) for name, one in seconds.items()}


@functools.cache
def _code() -> str:
    """Of all files of the router that those in PLAYED_BY reach by imports."""
    waiting, seen = [ROOT / name for name in PLAYED_BY], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                waiting += [_file(alias.name) for alias in node.names if alias.name.startswith("router.")]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("router"):
                waiting.append(_file(node.module or ""))
                waiting += [_file(f"{node.module}.{alias.name}") for alias in node.names]
    return digest(sorted(seen))


def _file(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")
