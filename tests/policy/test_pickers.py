"""Whom each picker chooses of those left to it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.replica import Seat
from router.policy.candidate import Candidates
from router.policy.pickers import PICKERS, LowestCost, Picker, PowerOfTwo, RandomPick, Rendezvous, RoundRobin, Turn
from tests.policy.makers import candidate, columns, fleet, turn


def pick(picker: Picker, costs: list[float], rows: list[int] | None = None, at: Turn | None = None) -> int:
    return pick_of(picker, columns(*fleet(len(costs))), costs, rows, at)


def pick_of(
    picker: Picker, candidates: Candidates, costs: list[float], rows: list[int] | None = None, at: Turn | None = None
) -> int:
    left = np.array(list(range(len(costs))) if rows is None else rows, dtype=np.int64)
    return picker.pick(candidates, np.array(costs, dtype=np.float64), left, at or turn()).row


@given(st.data(), st.integers(1, 12))
def test_a_picker_chooses_only_of_the_rows_left_to_it(data: st.DataObject, count: int) -> None:
    rows = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    costs = data.draw(st.lists(st.floats(0, 100), min_size=count, max_size=count))
    at = turn(last_seat=data.draw(st.integers(-1, count)))
    for picker in PICKERS.values():
        assert pick(picker(), costs, rows, at) in rows


def test_the_lowest_cost_wins() -> None:
    assert pick(LowestCost(), [0.4, 0.1, 0.2]) == 1


def test_near_ties_go_to_the_fewest_open_requests() -> None:
    candidates = columns(candidate(0, open_requests=3), candidate(1, open_requests=1), candidate(2))
    assert pick_of(LowestCost(near_ratio=0.05), candidates, [1.00, 1.04, 1.06]) == 1


def test_near_ties_between_idle_replicas_spread_evenly() -> None:
    at = turn()
    picks = Counter(pick(LowestCost(), [1.0, 1.01, 1.02, 1.03], at=at) for _ in range(400))
    assert min(picks.values()) > 70
    assert len(picks) == 4


def test_without_a_tolerance_only_equal_costs_tie() -> None:
    assert pick(LowestCost(near_ratio=0.0, near_seconds=0.0), [1.0000001, 1.0]) == 1


def test_round_robin_visits_everyone_in_turn() -> None:
    candidates, at, visits = columns(*fleet(3)), turn(), []
    for _ in range(6):
        row = pick_of(RoundRobin(), candidates, [0.0] * 3, at=at)
        at.last_seat = Seat(int(candidates.seats[row]))
        visits.append(row)
    assert visits == [0, 1, 2, 0, 1, 2]


def test_round_robin_keeps_its_place_while_replicas_come_and_go() -> None:
    assert pick(RoundRobin(), [0.0] * 4, rows=[0, 3], at=turn(last_seat=1)) == 3
    assert pick(RoundRobin(), [0.0] * 4, rows=[0, 2], at=turn(last_seat=3)) == 0


def test_random_reaches_everyone() -> None:
    at = turn()
    picks = Counter(pick(RandomPick(), [0.0] * 5, at=at) for _ in range(500))
    assert min(picks.values()) > 70


def test_power_of_two_takes_the_cheaper_of_two_different_ones() -> None:
    at = turn()
    picks = Counter(pick(PowerOfTwo(), [0.3, 0.2, 0.1, 0.4], at=at) for _ in range(600))
    assert picks[3] == 0, "the dearest of all never wins, since it is never drawn twice"
    assert picks[2] == pytest.approx(300, abs=60), "the cheapest wins whenever it is drawn: half the time"
    assert picks[1] == pytest.approx(200, abs=60)


def test_the_same_seed_makes_the_same_picks() -> None:
    for picker in (LowestCost(), RandomPick(), PowerOfTwo()):
        one, other = turn(seed=7), turn(seed=7)
        assert [pick(picker, [1.0] * 9, at=one) for _ in range(50)] == [
            pick(picker, [1.0] * 9, at=other) for _ in range(50)
        ]


def homes(names: list[str], keys: range) -> list[str]:
    rows = [candidate(seat, name) for seat, name in enumerate(names)]
    found = []
    for key in keys:
        candidates = columns(*rows, prefix_key=key * 0x9E37_79B9_7F4A_7C15)
        found.append(candidates.ids[pick_of(Rendezvous(), candidates, [0.0] * len(names))])
    return [str(name) for name in found]


def test_one_beginning_has_one_home_whatever_the_order_of_the_replicas() -> None:
    assert homes(["a", "b", "c", "d"], range(100)) == homes(["d", "b", "a", "c"], range(100))


def test_homes_are_spread_evenly() -> None:
    counts = Counter(homes([f"http://10.0.0.{host}:8000" for host in range(8)], range(1_600)))
    assert len(counts) == 8
    assert max(counts.values()) < 260
    assert min(counts.values()) > 150


def test_when_a_replica_leaves_only_its_own_prompts_move() -> None:
    names = [f"r{number}" for number in range(6)]
    before, after = homes(names, range(600)), homes([name for name in names if name != "r2"], range(600))
    moved = [was for was, now in zip(before, after, strict=True) if was != now]
    assert set(moved) == {"r2"}
    gone_to = Counter(now for was, now in zip(before, after, strict=True) if was == "r2")
    assert len(gone_to) == 5, "and each to its own next home"
