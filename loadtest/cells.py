"""What the lab plays: workloads on fleets, and what can go wrong with a fleet.

The load of a cell with sessions is sessions at a time: a rate would not bind, since sessions ask no faster than they
are answered. Every session runs to its end, so a run of many sessions has more requests than were asked for.

Everything reported is of the second half of a trace, or of seeds that nothing was tuned on (workloads.py, `Half`). A
trace's seeds are stretches of that half one after another; where it is too short for that they overlap, and seeds
differ by noise and ties alone (half of the Mooncake synthetic part has 1,127 requests, which is all a run of it has).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from rich.console import Console

from router.lab.capacity import full_load
from router.lab.run import Fleet, Run
from router.lab.sessions import Script, Sessions, Turn
from router.lab.workloads import PRESETS, Half, Load, workload
from router.sim.timing import TIMINGS

SAMPLED_REQUESTS = 2_000  # from which a cell's full load is reckoned
JOINED_AFTER = 1 / 3  # of a run: the first third is the others' alone


class Hardship(TypedDict, total=False):
    """What is changed in a cell's fleet. `join`: the last replica comes late, and cold."""

    event_delay_seconds: float
    lost_events_ratio: float
    slow: float
    routers: int
    join: bool


HARDSHIPS: Mapping[str, Hardship] = {
    "events 1 s late": {"event_delay_seconds": 1.0},
    "events 5 s late": {"event_delay_seconds": 5.0},
    "5 % of events lost": {"lost_events_ratio": 0.05},
    "one at half speed": {"slow": 2.0},
    "a cold join": {"join": True},
    "4 routers": {"routers": 4},
}
TRACE_FLEET = Fleet(8, 1_000_000, 512, "llama3_70b_h100")
# A workload's name or a trace's file, and the fleet. The agents' is a small one, as its load is whole sessions: at what
# it sustains there are some fifty of them, and a run has some three thousand requests.
CELLS: Mapping[str, tuple[str, Fleet]] = {
    "conversation": ("mooncake_conversation_a.jsonl.zst", TRACE_FLEET),
    "synthetic": ("mooncake_synthetic_a.jsonl.zst", TRACE_FLEET),
    "agents": ("agents-long", Fleet(4, 307_328, 128, "qwen3_32b_h100")),
    "b2b-73": ("b2b-73", Fleet(8, 307_328, 64, "qwen3_32b_h100")),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """`full` is the load at which computing every prompt anew would keep all replicas busy."""

    name: str
    workload: str
    fleet: Fleet
    by_sessions: bool  # the load is sessions at a time, else requests a second
    full: float
    turn_seconds: float = 0.0  # of sessions: a turn without any waiting
    hardship: str | None = None

    @property
    def unit(self) -> str:
        return "sessions at a time" if self.by_sessions else "requests/s"

    def run(self, policy: str, amount: float, requests: int, seed: int, half: Half = Half.SECOND) -> Run:
        if self.by_sessions:
            sessions = max(1, round(amount))
            load = Load(requests, 0.0, sessions, seed, half)
            span_seconds = requests * self.turn_seconds / sessions
        else:
            load = Load(requests, round(amount, 4), None, seed, half)
            span_seconds = requests / amount
        change = HARDSHIPS.get(self.hardship or "", {})
        join_seconds = round(JOINED_AFTER * span_seconds, 1) if change.get("join") else None
        fleet = replace(
            self.fleet,
            event_delay_seconds=change.get("event_delay_seconds", self.fleet.event_delay_seconds),
            lost_events_ratio=change.get("lost_events_ratio", self.fleet.lost_events_ratio),
            slow=change.get("slow", self.fleet.slow),
            routers=change.get("routers", self.fleet.routers),
            join_seconds=join_seconds,
        )
        return Run(policy, self.workload, fleet, load)

    def under(self, hardship: str) -> Cell:
        return replace(self, hardship=hardship)


def cells(names: Sequence[str], traces: Path) -> Iterator[Cell]:
    """Those whose trace is there; a missing one is told on stderr."""
    for name in names:
        source, fleet = CELLS[name]
        if source in PRESETS:
            yield _cell(name, source, fleet)
        elif (traces / source).exists():
            yield _cell(name, str(traces / source), fleet)
        else:
            Console(stderr=True).print(f"{name}: no {traces / source}; left out. --traces says where traces are.")


def _cell(name: str, source: str, fleet: Fleet) -> Cell:
    timing = TIMINGS[fleet.timing]
    asked = workload(source)(Load(SAMPLED_REQUESTS, 1.0, None, 1, Half.SECOND))
    if not isinstance(asked, Sessions):
        prompts = ((len(one.prompt), len(one.answer)) for one in asked.begin())
        return Cell(name, source, fleet, by_sessions=False, full=full_load(prompts, timing, fleet.replicas))
    turns = [turn for script in asked.scripts for turn in _turns(script)]
    sizes = [(sum(span.tokens for span in turn.prompt), turn.answer.tokens) for turn in turns]
    token_seconds = timing.step_seconds((), 1, 0)
    turn_seconds = sum(turn.think_seconds + turn.answer.tokens * token_seconds for turn in turns) / len(turns)
    full = full_load(sizes, timing, fleet.replicas) * turn_seconds  # Little's law, less the waiting
    return Cell(name, source, fleet, by_sessions=True, full=full, turn_seconds=turn_seconds)


def _turns(script: Script) -> Iterator[Turn]:
    for turn in script.turns:
        yield turn
        for child in turn.spawns:
            yield from _turns(child)
