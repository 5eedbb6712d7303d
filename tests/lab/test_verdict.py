"""The sentence says what the interval says, and nothing more."""

from __future__ import annotations

from dataclasses import replace

from router.lab.outcome import Outcome
from router.lab.pairs import Difference
from router.lab.verdict import held_against, verdict
from router.sim.recording import Became, Truth

FIGURES = Outcome("mine", 5.0, None, 1, 100, 100, 0.60, 1.0, 0.5, 2.0, 3.0, 0.02, 500.0, 1.1, 1.0, 0.1)


def said(low: float, high: float, hit_ratio: float = 0.60) -> str:
    found = Difference((low + high) / 2, low, high, 900)
    return verdict("mine", "theirs", 5.0, found, [replace(FIGURES, hit_ratio=hit_ratio)], [FIGURES])


def test_a_win_is_said_with_its_size_and_its_interval() -> None:
    told = said(-0.3, -0.1)
    assert "0.200 s sooner with mine than with theirs on average, 20% of its time" in told
    assert "95 % interval 0.300 s sooner to 0.100 s sooner" in told
    assert "900 requests" in told


def test_a_loss_is_said_as_plainly() -> None:
    assert "0.200 s later with mine than with theirs" in said(0.1, 0.3)


def test_an_interval_that_holds_nought_is_no_difference() -> None:
    told = said(-0.3, 0.1)
    assert "no difference in the time to first token can be told" in told
    assert "0.300 s sooner to 0.100 s later" in told


def test_hit_ratios_are_told_apart_only_where_they_differ() -> None:
    assert "Both find 60.2% of prompt tokens cached" in said(-0.3, 0.1, hit_ratio=0.602)
    assert "mine finds 72.0% of prompt tokens cached, up from 60.0%" in said(-0.3, 0.1, hit_ratio=0.72)
    assert "down from" in said(-0.3, 0.1, hit_ratio=0.5)


def test_too_few_requests_tell_nothing() -> None:
    assert "too few requests" in verdict("mine", "theirs", 5.0, None, [FIGURES], [FIGURES])


def test_what_really_happened_stands_beside_what_was_simulated() -> None:
    told = held_against(Truth((Became(100, 58, 900.0),)), [FIGURES])
    assert "58.0% of prompt tokens cached, 60.0% simulated" in told
    assert "first tokens after 0.900 s, 1.000 s simulated" in told
    assert held_against(Truth((Became(100),)), [FIGURES]) == ""
