"""What load a policy can sustain, and what no policy can beat."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import pytest

from router.lab.capacity import bound, full_load, sustained
from router.lab.oracle import ideal
from router.lab.workloads import Load, workload
from router.sim.timing import QWEN3_32B_H100_TP2
from router.sim.virtual import Arrival


@pytest.mark.parametrize("knee", [3.0, 40.0, 217.0])
def test_the_knee_is_found_within_five_per_cent(knee: float) -> None:
    found = sustained(lambda load: 0.3 if load < knee else 30.0, full=40.0, bound_seconds=1.0)
    assert found.below <= knee <= found.above
    assert found.above / found.below <= 1.05
    assert found.below <= found.load <= found.above


@pytest.mark.parametrize("near", [None, 5.0, 30.0, 44.0, 52.0, 200.0])
def test_the_load_is_where_the_p90_crosses_the_bound_wherever_the_search_begins(near: float | None) -> None:
    found = sustained(lambda load: (load / 46.0) ** 4, full=60.0, bound_seconds=1.0, near=near)
    assert found.load == pytest.approx(46.0, rel=1e-6)


def test_a_good_guess_saves_runs() -> None:
    def played(near: float | None) -> int:
        asked: list[float] = []

        def p90_at(load: float) -> float:
            asked.append(load)
            return (load / 46.0) ** 4

        sustained(p90_at, full=60.0, bound_seconds=1.0, near=near)
        assert len(set(asked)) == len(asked), "nothing is played twice"
        return len(asked)

    assert played(45.0) < played(None)


def test_nothing_that_was_tried_being_sustained_is_told_as_little() -> None:
    found = sustained(lambda load: 9.0, full=60.0, bound_seconds=1.0)
    assert found.load == found.below < 1.0


def test_where_even_a_light_load_takes_long_three_times_as_long_is_allowed() -> None:
    assert bound([0.2, 0.3]) == 1.0
    assert bound([2.2, 9.0]) == pytest.approx(6.6), "and the slowest sets no bound of its own"
    found = sustained(lambda load: 2.0 + load / 10, full=10.0, bound_seconds=6.6)
    assert found.load == pytest.approx(46, rel=0.05)


def test_full_load_keeps_all_replicas_busy_computing_everything_anew() -> None:
    timing = QWEN3_32B_H100_TP2
    prompts = [(8_192, 1)] * 10
    assert full_load(prompts, timing, 8) == pytest.approx(8 / 0.40, rel=0.01)
    assert full_load([(8_192, 1_000)], timing, 8) < full_load(prompts, timing, 8)


class Asked:
    def __init__(self, *prompts: tuple[float, range]) -> None:
        self._prompts = prompts

    def begin(self) -> Iterator[Arrival]:
        for number, (at, tokens) in enumerate(self._prompts):
            yield Arrival(str(number), at, array("I", tokens), range(9_000_000, 9_000_001))

    def after(self, arrival: Arrival, now: float) -> Sequence[Arrival]:
        return ()


def test_the_oracle_computes_nothing_twice_and_waits_only_when_all_are_busy() -> None:
    timing = QWEN3_32B_H100_TP2
    whole = timing.step_seconds([(1_024, 0)], 0, 0)
    again = timing.step_seconds([(64, 960)], 0, 0)
    other = range(5_000, 6_024)
    one = ideal(Asked((0.0, range(1_024)), (0.0, range(1_024)), (0.0, other)), timing, 2, 64)
    assert one.ttft_seconds["0"] == pytest.approx(whole)
    assert one.ttft_seconds["1"] == pytest.approx(again)
    assert one.ttft_seconds["2"] == pytest.approx(again + whole)
    assert one.hit_ratio == pytest.approx(960 / 3_072)


def test_the_oracle_follows_sessions_and_counts_their_answers_as_cached() -> None:
    at = workload("multi-turn")
    one = ideal(at(Load(100, 2.0, None, 1)), QWEN3_32B_H100_TP2, 4, 16)
    assert len(one.ttft_seconds) == 100
    assert one.hit_ratio > 0.9
