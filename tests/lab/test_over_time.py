"""Hits and load from a run's beginning to its end."""

from __future__ import annotations

import pytest

from router.lab.over_time import STRETCHES, over_time, unevenness
from router.sim.virtual import Story


def story(arrival: float, replica: int = 0, ends: float | None = None, prompt: int = 100, cached: int = 0) -> Story:
    return Story(
        arrival_seconds=arrival,
        prompt_tokens=prompt,
        replica=replica,
        sent_seconds=arrival,
        first_token_seconds=arrival,
        last_token_seconds=arrival if ends is None else ends,
        cached_tokens=cached,
        finished=True,
    )


def test_hits_are_told_for_the_prompts_that_arrived_then() -> None:
    run = over_time([story(0.0), story(0.5, cached=50), story(60.0, cached=100)], replicas=1)
    assert run.stretch_seconds == pytest.approx(60.0 / STRETCHES)
    assert run.hit_ratio[0] == 0.25
    assert run.hit_ratio[-1] == 1.0
    assert run.hit_ratio[1:-1] == [None] * (STRETCHES - 2)


def test_a_request_is_open_until_its_last_token_on_its_replica() -> None:
    stories = [story(0.0, 0, ends=30.0), story(0.1, 0, ends=20.0), story(0.2, 1, ends=60.0), story(60.0, 1)]
    run = over_time(stories, replicas=2)
    assert (run.open_mean[10], run.open_most[10]) == (1.5, 2)
    assert (run.open_mean[25], run.open_most[25]) == (1.0, 1)
    assert (run.open_mean[45], run.open_most[45]) == (0.5, 1)


def test_what_was_never_answered_is_left_out() -> None:
    lost = Story(0.0, 100, replica=0)
    run = over_time([lost, story(1.0), story(2.0)], replicas=1)
    assert run.hit_ratio[0] == 0.0
    assert max(run.open_most) <= 1


def test_a_fleet_is_as_uneven_as_its_fullest_replica_is_fuller_than_the_mean_over_time() -> None:
    even = [story(0.0, 0, ends=10.0), story(0.0, 1, ends=10.0)]
    assert unevenness(even, replicas=2) == pytest.approx(1.0)
    assert unevenness(even[:1], replicas=2) == pytest.approx(2.0)
    half_the_time = [story(0.0, 0, ends=20.0), story(0.0, 1, ends=10.0)]
    assert unevenness([*half_the_time, Story(0.0, 100)], replicas=2) == pytest.approx(4 / 3)
