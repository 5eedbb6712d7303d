"""Who waits for room, in whose turn: long work lets short work pass, but only what comes soon enough."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import ConfigError
from router.policy.candidate import Candidate
from router.policy.decision import Whole, chosen
from router.policy.hold import MOST_REFUSALS, HoldRule, Line
from router.policy.load import load
from router.policy.pickers import Turn
from router.policy.reading import parse
from router.policy.split import Split
from router.policy.splitters import Pair
from tests.policy.makers import candidate, columns

LATE = 1_000.0


def decided(*rows: Candidate) -> Whole:
    policy, candidates = load("least_loaded"), columns(*rows)
    row, rule, cost = policy.choose(candidates, candidates.allowed.nonzero()[0], Turn(Random(1)))
    return chosen(candidates, row, 16, policy, rule, cost)


def let_go(line: Line[str], now_seconds: float = 0.0, room: int = 100) -> list[str]:
    gone: list[str] = []

    def goes(item: str, forced: bool) -> bool:
        if forced or len(gone) < room:
            gone.append(item)
            return True
        return False

    line.advance(now_seconds, goes)
    return gone


def test_a_replica_has_room_until_a_step_of_prefill_waits_there() -> None:
    rule = HoldRule(ahead_tokens=8_192)
    assert rule.has_room(decided(candidate(0, queued_tokens=8_191)))
    assert not rule.has_room(decided(candidate(0, queued_tokens=8_192)))


def test_a_split_request_has_room_where_its_donor_has_whatever_waits_at_its_taker() -> None:
    whole = decided(candidate(0, queued_tokens=9_000), candidate(1))

    def split(donor: int, taker: int) -> Split:
        figures = whole.candidates.figures
        legs = [msgspec.structs.replace(whole, row=row, here=figures(row)) for row in (donor, taker)]
        return Split(legs[0], legs[1], Pair(donor, taker, 0.1, 0.0, 0.0, 0.0, "split_joint"), whole, "split_joint")

    rule = HoldRule(ahead_tokens=8_192)
    assert rule.has_room(split(1, 0))
    assert not rule.has_room(split(0, 1))


def test_a_turn_is_put_off_by_the_work_where_it_is_least() -> None:
    rule = HoldRule(patience=10)
    cold = decided(candidate(0), candidate(1))  # 4,096 tokens at 8,000 a second
    warm = decided(candidate(0), candidate(1, matched_tokens=4_000))
    assert rule.turn_seconds(cold, 5.0) == pytest.approx(5.0 + 10 * 4_096 / 8_000)
    assert rule.turn_seconds(warm, 5.0) == pytest.approx(5.0 + 10 * 96 / 8_000)
    assert HoldRule(patience=0).turn_seconds(cold, 5.0) == 5.0
    away = decided(candidate(0), candidate(1, matched_tokens=4_000, allowed=False))
    assert rule.turn_seconds(away, 5.0) == rule.turn_seconds(cold, 5.0)


def test_little_work_passes_long_work_but_not_once_that_has_waited_for_its_turn() -> None:
    line = Line[str]()
    line.join("long, at 0 s", 50.0, LATE)
    line.join("short, at 40 s", 41.0, LATE)
    line.join("short, at 60 s", 61.0, LATE)
    assert let_go(line) == ["short, at 40 s", "long, at 0 s", "short, at 60 s"]
    assert len(line) == 0


def test_equal_turns_go_in_the_order_they_came() -> None:
    line = Line[str]()
    for name in "abc":
        line.join(name, 1.0, LATE)
    assert let_go(line) == ["a", "b", "c"]


def test_who_finds_no_room_keeps_its_turn() -> None:
    line = Line[str]()
    for turn, name in enumerate("abc"):
        line.join(name, turn, LATE)
    assert let_go(line, room=1) == ["a"]
    assert let_go(line, room=0) == []
    assert let_go(line) == ["b", "c"]


def test_one_who_is_refused_does_not_stop_those_behind_but_only_so_many_are_tried() -> None:
    line = Line[str]()
    for turn in range(MOST_REFUSALS + 1):
        line.join(f"refused {turn}", turn, LATE)
    line.join("first", -1.0, LATE)
    asked: list[str] = []

    def goes(item: str, forced: bool) -> bool:
        asked.append(item)
        return item == "first"

    line.advance(0.0, goes)
    assert asked == ["first", *(f"refused {turn}" for turn in range(MOST_REFUSALS))]
    assert len(line) == MOST_REFUSALS + 1


def test_who_left_is_never_let_go_and_leaving_twice_is_leaving_once() -> None:
    line = Line[str]()
    gone = line.join("gone", 0.0, LATE)
    line.join("stays", 1.0, LATE)
    line.leave(gone)
    line.leave(gone)
    assert len(line) == 1
    assert let_go(line) == ["stays"]


def test_nobody_waits_longer_than_the_rule_allows() -> None:
    line = Line[str]()
    line.join("long", 900.0, 60.0)
    line.join("short", 1.0, 61.0)
    assert let_go(line, now_seconds=59.9, room=0) == []
    assert let_go(line, now_seconds=60.0, room=0) == ["long"]
    assert let_go(line, now_seconds=61.0, room=0) == ["short"]


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=30), st.integers(0, 5))
def test_everyone_who_stays_goes_exactly_once_and_in_turn(joins: list[tuple[float, bool]], room: int) -> None:
    line, expected = Line[str](), []
    for number, (turn, leaves) in enumerate(joins):
        ticket = line.join(str(number), turn, LATE)
        if leaves:
            line.leave(ticket)
        else:
            expected.append((turn, number))
    gone = []
    while len(line):
        batch = let_go(line, room=room)
        gone += batch
        if not batch:
            gone += let_go(line, now_seconds=LATE, room=0)
            break
    if room:
        assert gone == [str(number) for _, number in sorted(expected)]
    assert sorted(gone) == sorted(str(number) for _, number in expected)


def test_a_policy_file_says_whether_and_how_it_holds() -> None:
    text = "{name: n, description: d, scorers: {queue_wait: {}}, picker: lowest_cost, hold: {patience: 3}}"
    assert parse(text, "n").hold == HoldRule(patience=3)
    assert load("least_loaded").hold is None
    with pytest.raises(ConfigError) as told:
        parse(text.replace("patience: 3", "patience: -1, ahead: 5"), "n")
    assert [fault.split(" ", 3)[:2] for fault in told.value.faults] == [["n:", "hold.patience:"], ["n:", "hold.ahead:"]]
