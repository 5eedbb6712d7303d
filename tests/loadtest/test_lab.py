"""The lab as a command: a small grid, its results, and going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path

from loadtest import lab, ladder
from router.policy.load import load


def small(folder: Path) -> list[str]:
    return [
        *("--cell", "b2b-73", "--policy", "cache_aware", "--policy", "least_loaded", "--requests", "45"),
        *("--seeds", "1", "--share", "0.5", "--within", "0.5", "--jobs", "1"),
        *("--runs", str(folder / "runs.jsonl"), "--results", str(folder / "results")),
    ]


def test_a_small_grid_is_played_written_down_and_not_played_again(tmp_path: Path) -> None:
    lab.main(small(tmp_path))
    figures = json.loads((tmp_path / "results" / "lab.json").read_text())
    assert {"machine", "commit", "command"} <= figures["about"].keys()
    assert [one["policy"] for one in figures["sustained"]] == ["cache_aware", "least_loaded"]
    assert {one["policy"] for one in figures["runs"]} == {"cache_aware", "least_loaded", "oracle"}
    assert figures["differences"][0]["rival"] == "least_loaded"
    assert "| oracle |" in (tmp_path / "results" / "lab.md").read_text()

    runs = (tmp_path / "runs.jsonl").read_text()
    (tmp_path / "runs.jsonl").write_text(runs + '{"key": "cut off')
    lab.main(small(tmp_path))
    assert (tmp_path / "runs.jsonl").read_text().startswith(runs)
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == len(runs.splitlines()) + 1, "nothing anew"


def test_every_rival_of_the_shelf_can_be_loaded() -> None:
    assert lab.rivals()
    for name in lab.rivals():
        assert load(name).name == name


def test_the_ladder_climbs_stage_after_stage() -> None:
    arm = next(arm for arm in ladder.ARMS if arm.policy == "cache_aware")
    steps = ladder.climb(arm, [(3.0, 10.0), (6.0, 5.0)], seed=1, noise_ratio=0.0)
    assert [step.rate_per_second for step in steps] == [3.0, 6.0]
    assert all(0.0 < step.ttft_p90_seconds < 1.0 for step in steps), "after a warm-up nobody waits at such rates"
