"""Runs are kept by their content: nothing is played twice, and nothing changed is taken for played."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loadtest.cells import HARDSHIPS, Cell, cells
from loadtest.notebook import Notebook
from router.lab.run import Run

POLICY = """
name: mine
description: a test's own
scorers: {queue_wait: {}}
picker: lowest_cost
"""


def cell(name: str = "b2b-73") -> Cell:
    (found,) = cells([name], Path("nowhere"))
    return found


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def run(policy: str) -> Run:
    return cell().run(policy, 10.0, 25, 1)


def test_a_run_is_played_once_whoever_asks_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    first = Notebook(path).figures(run("round_robin"))
    assert lines(path) == 1
    assert Notebook(path).figures(run("round_robin")) == first
    assert lines(path) == 1
    whole = Notebook(path).whole(run("round_robin"))
    assert len(whole["ttft"]) == 25
    assert {**whole["outcome"], "cpu_seconds": 0} == {**first, "cpu_seconds": 0}, "played again for what was not kept"
    assert lines(path) == 2
    Notebook(path).whole(run("round_robin"))
    assert lines(path) == 2


def test_a_policy_is_known_by_its_text(tmp_path: Path) -> None:
    path, mine, copy = tmp_path / "runs.jsonl", tmp_path / "mine.yaml", tmp_path / "copy.yaml"
    mine.write_text(POLICY)
    copy.write_text(POLICY)
    Notebook(path).figures(run(str(mine)))
    Notebook(path).figures(run(str(copy)))
    assert lines(path) == 1
    mine.write_text(POLICY.replace("queue_wait", "open_requests"))
    Notebook(path).figures(run(str(mine)))
    assert lines(path) == 2


def test_late_events_are_nothing_to_a_policy_that_hears_none(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    late = cell().under("events 5 s late")
    for policy in ("llmd_affinity", "dynamo"):
        Notebook(path).figures(cell().run(policy, 10.0, 25, 1))
        Notebook(path).figures(late.run(policy, 10.0, 25, 1))
    assert lines(path) == 1 + 2


def test_each_hardship_changes_what_it_says_and_nothing_else() -> None:
    plain = run("cache_aware").fleet
    changed = {name: cell().under(name).run("cache_aware", 10.0, 30, 1).fleet for name in HARDSHIPS}
    assert changed["events 1 s late"] == replace(plain, event_delay_seconds=1.0)
    assert changed["events 5 s late"] == replace(plain, event_delay_seconds=5.0)
    assert changed["5 % of events lost"] == replace(plain, lost_events_ratio=0.05)
    assert changed["one at half speed"] == replace(plain, slow=2.0)
    assert changed["4 routers"] == replace(plain, routers=4)
    assert changed["a cold join"] == replace(plain, join_seconds=1.0), "a third of thirty requests at ten a second"


def test_a_cell_of_sessions_takes_so_many_at_a_time() -> None:
    agents = cell("agents")
    assert agents.by_sessions
    assert agents.run("cache_aware", 41.6, 500, 1).load.sessions == 42
    join_seconds = agents.under("a cold join").run("cache_aware", 40, 500, 1).fleet.join_seconds
    assert join_seconds is not None
    assert 500 / 3 / 40 < join_seconds < 500 * 60 / 40
