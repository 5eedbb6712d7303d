"""What virtual clients ask: shapes as published, files as recorded, the same for every policy."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from router.errors import ConfigError
from router.lab.block_trace import BlockRow, part
from router.lab.workloads import PRESETS, Half, Load, workload
from router.sim.timing import TIMINGS
from router.sim.virtual import Arrival, Workload

TRACES = Path(__file__).resolve().parents[3] / "shared" / "traces"


def load(requests: int = 200, rate: float = 5.0, sessions: int | None = None, seed: int = 1) -> Load:
    return Load(requests, rate, sessions, seed)


def asked(of: Workload, answer_seconds: float | Callable[[Arrival], float] = 0.5) -> list[Arrival]:
    """All a workload asks of a fleet that answers each request after so long, in the order of arrival."""
    waiting, seen = list(of.begin()), []
    while waiting:
        waiting.sort(key=lambda one: one.at_seconds)
        one = waiting.pop(0)
        seen.append(one)
        seconds = answer_seconds(one) if callable(answer_seconds) else answer_seconds
        waiting += of.after(one, one.at_seconds + seconds)
    return seen


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_asks_the_same_again_and_something_else_with_another_seed(name: str) -> None:
    at, preset = workload(name), PRESETS[name]
    first, again, other = (asked(at(load(60, seed=seed))) for seed in (3, 3, 4))
    assert first == again
    assert [(one.at_seconds, len(one.prompt)) for one in first] != [(one.at_seconds, len(one.prompt)) for one in other]
    assert len({one.request_id for one in first}) == len(first) >= 60
    assert preset.timing in TIMINGS
    assert max(len(one.prompt) + len(one.answer) for one in first) <= preset.cache_tokens


def test_the_prompts_of_a_group_share_its_system_prompt_and_nothing_more() -> None:
    prompts = [one.prompt for one in asked(workload("b2b-73")(load(400, rate=50.0)))]
    shared = [_in_common(prompts[0], other) for other in prompts[1:]]
    assert set(shared) <= {0, 6_000, 7_200}
    assert {len(prompt) for prompt in prompts} == {7_200}


def test_a_turn_begins_with_the_turn_before_it_and_its_answer() -> None:
    turns: dict[str | None, list[Arrival]] = {}
    for one in asked(workload("multi-turn")(load(200))):
        turns.setdefault(one.session, []).append(one)
    assert all(len(session) == 20 for session in turns.values())
    for session in turns.values():
        for before, after in pairwise(session):
            whole = list(before.prompt) + list(before.answer)
            assert list(after.prompt[: len(whole)]) == whole
            assert len(after.prompt) == len(whole) + 200


def test_sessions_share_the_system_prompt_alone() -> None:
    first, second = [one for one in asked(workload("agents")(load(200))) if one.request_id.endswith(".0")][:2]
    assert _in_common(first.prompt, second.prompt) == 78


def test_a_turn_waits_for_its_answer_and_its_think_time() -> None:
    for slow in (0.5, 20.0):
        last: dict[str | None, float] = {}
        for one in asked(workload("interactive-chat")(load(100)), slow):
            if one.session in last:
                assert one.at_seconds >= last[one.session] + slow + 5.0
            last[one.session] = one.at_seconds


def test_a_slow_fleet_is_asked_the_same_later() -> None:
    at = workload("agents-long")
    fast, slow = (asked(at(load(300, sessions=4)), seconds) for seconds in (0.1, 10.0))
    prompts = {one.request_id: one.prompt for one in slow}
    common = [one for one in fast if one.request_id in prompts]
    assert len(common) > 270, "but for the last ones, where the run is cut off"
    assert all(one.prompt == prompts[one.request_id] for one in common)
    assert slow[-1].at_seconds > fast[-1].at_seconds


def test_sessions_at_a_time_end_with_the_last_request_that_was_to_be_asked() -> None:
    seen = asked(workload("agents")(load(500, sessions=12)))
    assert len(seen) == 500
    by_session: dict[str, float] = {}
    for one in seen:
        by_session[(one.session or "").split(".")[0]] = one.at_seconds
    late = [name for name, at in by_session.items() if at > seen[-1].at_seconds - 60.0]
    assert len(late) >= 12, "and until then as many are at work as at any time"


def test_the_halves_of_a_workload_have_nothing_in_common(tmp_path: Path) -> None:
    at = workload(str(_trace(tmp_path, [(1_000 + number, None) for number in range(50)])))
    whole, first, second = ([len(one.prompt) for one in asked(at(replace(load(50), half=half)))] for half in Half)
    assert first + second == whole
    assert len(first) == 25
    made = workload("b2b-73")
    first_prompts, second_prompts = (
        [one.prompt for one in asked(made(replace(load(60), half=half)))] for half in (Half.FIRST, Half.SECOND)
    )
    assert first_prompts != second_prompts


def test_sub_agents_work_at_once_and_their_parent_waits_for_all_of_them() -> None:
    seen = asked(workload("agents")(load(1_500)), lambda one: 1.0 + len(one.prompt) / 1_000)
    ends = {one.request_id: one.at_seconds + 1.0 + len(one.prompt) / 1_000 for one in seen}
    children = [one for one in seen if "-" in one.request_id]
    assert children
    by_parent: dict[tuple[str, int], list[Arrival]] = {}
    for child in children:
        session, rest = child.request_id.split(".", 1)
        by_parent.setdefault((session, int(rest.split("-")[0])), []).append(child)
    times = {one.request_id: one.at_seconds for one in seen}
    for (session, turn), brood in by_parent.items():
        assert min(child.at_seconds for child in brood) >= ends[f"{session}.{turn}"]
        assert times[f"{session}.{turn + 1}"] >= max(ends[child.request_id] for child in brood)
        starts = {child.at_seconds for child in brood if child.request_id.endswith(".0")}
        assert max(starts) - min(starts) < 1e-9, "together"


def test_so_many_sessions_are_played_at_a_time() -> None:
    live: set[str | None] = set()
    most = 0
    for one in asked(workload("multi-turn")(load(400, sessions=7)), 10.0):  # long enough for all to have begun
        live.add(one.session)
        most = max(most, len(live))
        if one.request_id.endswith(".19"):
            live.discard(one.session)
    assert most == 7


def test_a_trace_is_played_at_the_rate_that_is_asked_for(tmp_path: Path) -> None:
    path = _trace(tmp_path, [(1_000, None)] * 50)
    arrivals = asked(workload(str(path))(load(50, rate=25.0)))
    assert arrivals[0].at_seconds == 0.0
    assert arrivals[-1].at_seconds == pytest.approx(50 / 25)


def test_prompts_of_a_trace_of_lengths_share_nothing(tmp_path: Path) -> None:
    first, second = asked(workload(str(_trace(tmp_path, [(1_300, None)] * 2)))(load(2)))
    assert len(first.prompt) == len(second.prompt) == 1_300
    assert _in_common(first.prompt, second.prompt) == 0


def test_seeds_take_stretches_of_a_trace_one_after_another() -> None:
    rows = [BlockRow(number, float(number), (number,), 10, 1) for number in range(10)]
    numbers = [[row.number for row in part(rows, 4, seed)] for seed in (1, 2, 3)]
    assert numbers[0] == [0, 1, 2, 3]
    assert numbers[1] == [4, 5, 6, 7]
    assert len(set(numbers[2])) == 4
    assert [row.number for row in part(rows, 99, 2)] == list(range(10))


def _trace(folder: Path, rows: Sequence[tuple[int, list[int] | None]]) -> Path:
    path = folder / "trace.jsonl"
    lines = [
        {"timestamp": 1_000 * number, "input_length": length, "output_length": 5} | ({"hash_ids": ids} if ids else {})
        for number, (length, ids) in enumerate(rows)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two sessions with one system prompt; the first goes to another prompt and comes back."""
    system = "You are an agent. " * 40
    calls = [
        ("a", 0.0, system + "task one. " * 40, "answer " * 20),
        ("b", 0.5, system + "something else. " * 40, "answer " * 20),
        ("a", 3.0, system + "task one. " * 40 + "result. " * 30, "answer " * 20),
        ("a", 6.0, "Summarise: " + "x" * 400, "answer " * 20),
        ("a", 7.0, "", "of a picture"),
        ("a", 9.0, system + "task one. " * 40 + "result. " * 30 + "more. " * 10, "done"),
    ]
    path = tmp_path / "agents.jsonl"
    lines = [
        {"session_id": session, "timestamp": 1e6 * at, "input": text, "output": answer}
        for session, at, text, answer in calls
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_recorded_sessions_are_cloned_with_what_they_share(log: Path) -> None:
    clones: dict[str | None, list[Arrival]] = {}
    for one in asked(workload(str(log))(load(80))):
        clones.setdefault(one.session, []).append(one)
    of_a = [clone for clone in clones.values() if len(clone) == 4]
    of_b = [clone for clone in clones.values() if len(clone) == 1]
    assert len(of_a) > 1
    assert len(of_b) > 1
    system = len("You are an agent. " * 40) // 4
    assert abs(_in_common(of_a[0][0].prompt, of_a[1][0].prompt) - system) <= 1, "roots differ, the system prompt stays"
    assert abs(_in_common(of_a[0][0].prompt, of_b[0][0].prompt) - system) <= 1
    first, second, summary, back = of_a[0]
    assert list(second.prompt[: len(first.prompt)]) == list(first.prompt)
    assert _in_common(summary.prompt, second.prompt) == 0
    assert list(back.prompt[: len(second.prompt)]) == list(second.prompt)
    assert [len(one.prompt) for one in of_a[0]] == [280, 340, 102, 355]


@pytest.mark.shared
@pytest.mark.skipif(not TRACES.exists(), reason="the recorded sessions are not part of the repository")
def test_the_recorded_agents_hit_as_often_as_their_tokens_did() -> None:
    for name, published in (("agent_miniswe_a", 0.935), ("agent_magagent_a", 0.840)):
        seen: set[tuple[int, int]] = set()
        hits = tokens = 0
        for one in asked(workload(str(TRACES / f"{name}.jsonl.zst"))(load(600))):
            parent = 0
            counting = True
            tokens += len(one.prompt)
            for start in range(0, len(one.prompt) - 16, 16):
                block = (parent, hash(one.prompt[start : start + 16].tobytes()))
                counting = counting and block in seen
                hits += 16 * counting
                seen.add(block)
                parent = hash(block)
        assert hits / tokens == pytest.approx(published, abs=0.02)


def test_what_is_no_workload_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a file nor one of: b2b-73"):
        workload("nonsense")
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"messages": [{"role": "user", "content": "hello"}]}))
    with pytest.raises(ConfigError, match="texts without sessions"):
        workload(str(texts))


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    unlike = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(unlike, min(len(one), len(other)))
