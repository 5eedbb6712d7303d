"""The lab as a command: a small grid, its results, and going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest import lab, ladder
from loadtest.notebook import policy_file
from loadtest.tuning import GRIDS, MOST_SETTINGS, as_it_stands, players
from router.lab.settings import grid, varied
from router.policy.load import load
from router.policy.reading import parse


def small(folder: Path, *more: str) -> list[str]:
    return [
        *("--cell", "b2b-73", "--policy", "cache_aware", "--policy", "consistent_hash", "--requests", "45"),
        *("--seeds", "1", "--share", "0.5", "--within", "0.5", "--jobs", "1", *more),
        *("--runs", str(folder / "runs.jsonl"), "--results", str(folder / "results")),
    ]


def test_a_small_grid_is_played_written_down_and_not_played_again(tmp_path: Path) -> None:
    lab.main(small(tmp_path, "--hardship", "one at half speed"))
    figures = json.loads((tmp_path / "results" / "results.json").read_text())
    assert {"machine", "commit", "command"} <= figures["about"].keys()
    assert [one["policy"] for one in figures["sustained"]] == ["cache_aware", "consistent_hash"]
    assert {one["policy"] for one in figures["runs"]} == {"cache_aware", "consistent_hash", "oracle"}
    assert figures["differences"][0]["rival"] == "consistent_hash"
    assert {(one["hardship"], one["policy"]) for one in figures["hardships"]} == {
        ("one at half speed", "cache_aware"),
        ("one at half speed", "consistent_hash"),
    }
    tried = [one["settings"] for one in figures["tried"] if one["policy"] == "consistent_hash"]
    assert tried == ["", "factor 1.1", "factor 1.5", "factor 2", "factor 3"]
    summary = (tmp_path / "results" / "summary.md").read_text()
    assert "| oracle |" in summary
    assert "- consistent_hash: as it ships; factor 1.1;" in summary
    for picture in ("ttft", "hits", "load", "sustained"):
        assert f"(b2b-73-{picture}.svg)" in summary
        assert "cache_aware" in (tmp_path / "results" / f"b2b-73-{picture}.svg").read_text()

    runs = (tmp_path / "runs.jsonl").read_text()
    (tmp_path / "runs.jsonl").write_text(runs + '{"key": "cut off')
    lab.main(small(tmp_path, "--hardship", "one at half speed"))
    assert (tmp_path / "runs.jsonl").read_text().startswith(runs)
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == len(runs.splitlines()) + 1, "nothing anew"


def test_a_policy_is_played_as_it_stood_when_the_lab_began(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    text = policy_file("least_loaded").read_text()
    mine.write_text(text)
    player = as_it_stands(str(mine), tmp_path / "settings")
    mine.write_text("being edited")
    assert player.name == "mine"
    assert Path(player.policy).read_text() == text


def test_every_rival_of_the_shelf_can_be_loaded() -> None:
    assert set(lab.RIVALS) <= set(lab.shelf_rivals())
    for name in lab.shelf_rivals():
        assert load(name).name == name


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_begins_with_the_policy_as_it_ships_and_has_nine_settings_at_most(name: str, tmp_path: Path) -> None:
    found = list(grid(GRIDS[name]))
    assert len(found) <= MOST_SETTINGS
    text = policy_file(name).read_text()
    assert parse(varied(text, found[0]), name) == load(name)
    tried = [load(player.policy) for player in players(as_it_stands(name, tmp_path), tmp_path)]
    assert len(tried) == len(found)
    assert len({repr(policy) for policy in tried}) == len(found), "each is another policy"


def test_the_ladder_climbs_stage_after_stage() -> None:
    arm = next(arm for arm in ladder.ARMS if arm.policy == "cache_aware")
    steps = ladder.climb(arm, [(3.0, 10.0), (6.0, 5.0)], seed=1, noise_ratio=0.0)
    assert [step.rate_per_second for step in steps] == [3.0, 6.0]
    assert all(0.0 < step.ttft_p90_seconds < 1.0 for step in steps), "after a warm-up nobody waits at such rates"


@pytest.mark.parametrize(
    "path", sorted((Path(lab.__file__).parent / "ablation").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_ablation_is_a_policy_that_differs_from_the_default(path: Path) -> None:
    ablated, default = load(str(path)), load(lab.OURS)
    assert (ablated.terms, ablated.picker, ablated.hold) != (default.terms, default.picker, default.hold)
