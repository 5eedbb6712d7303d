"""`homing compare` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from router.lab.compare import command


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, [*arguments, "--jobs", "1"])
    return result.exit_code, result.output


def figures(*arguments: str) -> list[dict[str, Any]]:  # Any: names and numbers
    result = CliRunner().invoke(command, [*arguments, "--jobs", "1", "--json"])
    assert result.exit_code == 0, result.output
    outcomes: list[dict[str, Any]] = json.loads(result.stdout)
    return outcomes


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Thirteen conversations of five turns in block ids, as Mooncake publishes them."""
    rows = [
        {
            "timestamp": 400 * (turn * 13 + one),
            "input_length": 1_000 + 600 * turn,
            "output_length": 20,
            "hash_ids": [0, *(100 * (one + 1) + block for block in range((1_000 + 600 * turn) // 512))],
        }
        for turn in range(5)
        for one in range(13)
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_policies_stand_side_by_side_at_every_rate(trace: Path) -> None:
    code, table = run("round_robin", "cache_aware", "--workload", str(trace), "--replicas", "3", "--rate", "1")
    assert code == 0
    assert "round_robin" in table
    assert "cache_aware" in table
    assert "3 replicas" in table


def test_the_same_seed_gives_the_same_figures_and_warm_replicas_are_found(trace: Path) -> None:
    settings = ("--replicas", "3", "--rate", "2", "--block-size", "16", "--cache-tokens", "40000")
    asked = ("round_robin", "cache_aware", "--workload", str(trace), *settings)
    first, again = figures(*asked), figures(*asked)
    for one, other in zip(first, again, strict=True):
        assert one | {"cpu_seconds": 0} == other | {"cpu_seconds": 0}
    blind, aware = first
    assert aware["hit_ratio"] > blind["hit_ratio"] + 0.15
    assert aware["exact_ratio"] == 1.0
    assert aware["answered"] == aware["requests"] == 65


def test_presets_are_asked_as_published() -> None:
    (one,) = figures("cache_aware", "--requests", "40", "--rate", "10")
    assert one["requests"] == one["answered"] == 40
    assert one["policy"] == "cache_aware"


def test_sessions_can_be_so_many_at_a_time() -> None:
    (one,) = figures("cache_aware", "--workload", "multi-turn", "--sessions", "5", "--requests", "100")
    assert one["sessions"] == 5
    assert one["requests"] == one["answered"] == 100
    _, table = run("cache_aware", "--workload", "multi-turn", "--sessions", "5", "--requests", "100")
    assert "5 sessions" in table


def test_noise_changes_times_and_not_who_is_asked() -> None:
    asked = ("round_robin", "--requests", "60")
    (even,), (noisy,) = figures(*asked, "--noise", "0"), figures(*asked)
    assert even["ttft_mean_seconds"] != noisy["ttft_mean_seconds"]
    assert even["ttft_mean_seconds"] == pytest.approx(noisy["ttft_mean_seconds"], rel=0.4)
    assert even["hit_ratio"] == noisy["hit_ratio"]


def test_pictures_are_drawn_for_every_load(trace: Path, tmp_path: Path) -> None:
    asked = ("round_robin", "cache_aware", "--workload", str(trace), "--rate", "1", "--rate", "2.5")
    code, _ = run(*asked, "--pictures", str(tmp_path / "drawn"))
    assert code == 0
    names = {f"{rate}-a-second-{kind}.svg" for rate in ("1", "2.5") for kind in ("ttft", "hits", "load")}
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == names
    assert "round_robin" in (tmp_path / "drawn" / "2.5-a-second-ttft.svg").read_text()


def test_routers_without_events_or_with_late_ones_still_route(trace: Path) -> None:
    settings = (("--no-events",), ("--event-delay", "2"), ("--lost-events", "0.3"), ("--routers", "3", "--shared"))
    for setting in settings:
        (one,) = figures("cache_aware", "--workload", str(trace), "--replicas", "3", "--rate", "2", *setting)
        assert one["answered"] == 65


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nonsense",), "nonsense"),
        (("--workload", "no-such-file"), "no-such-file is neither a file nor one of: b2b-73"),
        (("--rate", "0"), "rate"),
        (("--sessions", "5"), "has no sessions"),
    ],
)
def test_what_cannot_be_compared_is_told(arguments: tuple[str, ...], told: str) -> None:
    code, output = run(*arguments)
    assert code != 0
    assert told in output
    assert "Traceback" not in output
