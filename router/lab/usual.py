"""What a workload is played on unless told otherwise: the fleet that its source tells, else a common one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from router.lab import fit
from router.lab.block_trace import rate_of, trace_rows
from router.lab.run import Fleet
from router.lab.workloads import PRESETS
from router.sim.recording import RecordedFleet, Truth
from router.sim.timing import TIMINGS
from router.sim.traces import is_agents_log, recorded_fleet, recorded_truth

BLOCK_TOKENS = 64  # small enough for shared beginnings, large enough to be quick; recorded ids tell nothing finer
TIMING = "llama3_70b_h100"
COMMON = Fleet(replicas=8, cache_tokens=1_000_000, block_size_tokens=BLOCK_TOKENS, timing=TIMING)
RATE_PER_SECOND = 20.0


@dataclass(frozen=True, slots=True)
class Usual:
    """What is known without flags. None: the workload is no recording."""

    fleet: Fleet
    recorded: RecordedFleet | None = None
    truth: Truth | None = None


def usual(name: str, timing: str | None = None) -> Usual:
    """Of a preset, a recording or any other file. A recording's engines are the fit made as fast as they were.

    Raises ConfigError for a file that cannot be read.
    """
    preset = PRESETS.get(name)
    if preset is not None:
        published = replace(COMMON, replicas=preset.replicas, cache_tokens=preset.cache_tokens, timing=preset.timing)
        return Usual(replace(published, timing=timing) if timing else published)
    common = replace(COMMON, timing=timing or TIMING)
    recorded = recorded_fleet(Path(name)) if Path(name).exists() else None
    if recorded is None:
        return Usual(common)
    truth = recorded_truth(Path(name))
    as_recorded = replace(
        common,
        replicas=recorded.replicas,
        cache_tokens=recorded.cache_tokens or common.cache_tokens,
        events=recorded.events,
        speedup=round(fit.speedup(truth.requests, TIMINGS[common.timing]) or 1.0, 2),
    )
    return Usual(as_recorded, recorded, truth)


def usual_rate(name: str) -> float:
    """Requests a second: a trace's own, to three digits, else RATE_PER_SECOND. Raises ConfigError."""
    if name in PRESETS or not Path(name).exists() or is_agents_log(Path(name)):
        return RATE_PER_SECOND
    return float(f"{rate_of(trace_rows(Path(name))):.3g}")
