"""What is done to step times that no price formula knows."""

from __future__ import annotations

from random import Random
from statistics import correlation, fmean, pstdev

import pytest

from router.sim.rough import MIXED_RATIO, SPELL_RATIO, SPELL_STEPS, Spells, rough
from router.sim.timing import LLAMA3_8B_H100


def test_a_chunk_costs_as_much_as_whole_tiles() -> None:
    fit, timing = LLAMA3_8B_H100, rough(LLAMA3_8B_H100, 0.15, Random(1))
    assert timing.step_seconds([(1, 500)], 0, 0) == fit.step_seconds([(128, 500)], 0, 0)
    assert timing.step_seconds([(256, 500), (129, 0)], 0, 0) == fit.step_seconds([(256, 500), (256, 0)], 0, 0)


def test_a_step_that_computes_prompts_and_decodes_takes_longer_than_its_parts() -> None:
    fit, timing = LLAMA3_8B_H100, rough(LLAMA3_8B_H100, 0.15, Random(1))
    assert timing.step_seconds((), 8, 9_000) == fit.step_seconds((), 8, 9_000)
    mixed = fit.step_seconds([(256, 0)], 8, 9_000) * (1 + MIXED_RATIO)
    assert timing.step_seconds([(256, 0)], 8, 9_000) == pytest.approx(mixed)


def test_spells_leave_the_mean_and_last_for_many_steps() -> None:
    spells = Spells(Random(3))
    paces = [spells.pace(10) for _ in range(60_000)]
    assert fmean(paces) == pytest.approx(1.0, abs=0.01)
    assert pstdev(paces) == pytest.approx(SPELL_RATIO, rel=0.1)
    assert correlation(paces[:-1], paces[1:]) > 0.9
    forgotten = round(5 * SPELL_STEPS / 10)
    assert abs(correlation(paces[:-forgotten], paces[forgotten:])) < 0.2


def test_a_straggler_keeps_its_noise_and_the_same_seed_gives_the_same_steps() -> None:
    one, same = (rough(LLAMA3_8B_H100, 0.15, Random(7)) for _ in range(2))
    assert [one.pace(1) for _ in range(5)] == [same.pace(1) for _ in range(5)]
    slow = one.faster(0.5)
    assert slow.step_seconds([(1, 0)], 0, 0) == pytest.approx(2 * one.step_seconds([(1, 0)], 0, 0))
    assert slow.pace(1) != 1.0
