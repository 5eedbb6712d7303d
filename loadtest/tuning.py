"""The settings that each policy is tried with before it is judged, and the choice among them.

Fair to rivals: each gets at most nine settings per cell, its published one first, and plays with the best of them. The
choice is made on the first half of the workload, at one load (TUNED_AT of what the default policy sustains there), in a
run half as long as the others, by the lowest TTFT p90, as that is what bounds a sustainable load. What is reported is
the other half's.

Ours has a grid only where this table gives it one: without, it plays as it ships, in every cell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.cells import Cell
from loadtest.notebook import policy_file
from router.lab.run import Run
from router.lab.settings import Value, grid, told, varied
from router.lab.workloads import Half

TUNED_AT = 0.95
MOST_SETTINGS = 9

# The first value of each is what the policy ships with, so a grid's first setting changes nothing.
GRIDS: Mapping[str, Mapping[str, Sequence[Value]]] = {
    "consistent_hash": {"bounded_load.factor": (1.25, 1.1, 1.5, 2.0, 3.0)},
    "dualmap": {"two_homes.objective_seconds": (5, 0.5, 1, 2, 10)},
    "dynamo": {"dynamo_blocks.prefill_load_scale": (1, 2, 4), "dynamo_blocks.overlap_credit": (1, 0.5, 2)},
    "llmd_affinity": {
        "prefix_affinity.min_match_ratio": (0.8, 0.5, 0.3),
        "prefix_affinity.max_penalty_seconds": (18, 2, 5),
    },
    "llmd_blend": {"prefix_miss.weight": (3, 1, 6), "queue_rank.weight": (2, 1, 4)},
    "lmcache_first_holder": {"first_holder.threshold_tokens": (2000, 500, 1000, 8000)},
    "lmetric": {},
    "mooncake": {},
    "preble": {"exploit_or_explore.min_held_ratio": (0.5, 0.3, 0.7), "open_requests.seconds_each": (3, 0.3, 0)},
    "smg_cache_aware": {
        "longest_match.min_match_ratio": (0.3, 0.5, 0.1),
        "longest_match.imbalance_requests": (64, 8, 32),
    },
}


@dataclass(frozen=True, slots=True)
class Player:
    """A policy as it is played: `policy` is a name on the shelf or a file, `settings` what it changes, for people."""

    name: str
    policy: str
    settings: str = ""


def players(first: Player, folder: Path) -> Iterator[Player]:
    """All settings of a policy, as it stands first."""
    if len(found := list(grid(GRIDS.get(first.name, {})))) > MOST_SETTINGS:
        raise ValueError(f"{first.name} has {len(found)} settings, but nobody gets more than {MOST_SETTINGS}")
    yield first
    for settings in found[1:]:
        text = varied(Path(first.policy).read_text(), settings)
        yield Player(first.name, _written(first.name, text, folder), told(settings))


def as_it_stands(name: str, folder: Path) -> Player:
    """A policy of the shelf or of a file, played from a copy in `folder`: edits meanwhile are for the next lab."""
    path = policy_file(name)
    return Player(path.stem, _written(path.stem, path.read_text(), folder))


def _written(name: str, text: str, folder: Path) -> str:
    path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(path)


def trial(cell: Cell, player: Player, sustained: float, requests: int) -> Run:
    """The run that a setting is judged by."""
    return cell.run(player.policy, TUNED_AT * sustained, requests, 1, Half.FIRST)
