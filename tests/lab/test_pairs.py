"""Paired differences: what counts as a win."""

from __future__ import annotations

from random import Random

import pytest

from router.lab.pairs import Verdict, difference


def times(seed: int, better_by: float = 0.0, noise: float = 0.0, requests: int = 400) -> dict[str, float]:
    """First tokens of requests whose own size matters more than the policy."""
    size, chance = Random(1), Random(seed)
    return {str(number): 5.0 * size.random() - better_by + noise * chance.gauss(0.0, 1.0) for number in range(requests)}


def test_a_small_gain_on_every_request_is_a_win_however_unlike_the_requests_are() -> None:
    found = difference([times(2, better_by=0.05, noise=0.02)], [times(3, noise=0.02)])
    assert found.mean == pytest.approx(-0.05, abs=0.01)
    assert found.verdict is Verdict.BETTER
    assert found.low < found.mean < found.high < 0


def test_the_other_way_round_it_is_a_loss() -> None:
    assert difference([times(3)], [times(2, better_by=0.05)]).verdict is Verdict.WORSE


def test_noise_is_no_win() -> None:
    chance = Random(9)
    draws = ({str(number): chance.gauss(0.0, 1.0) for number in range(100)} for _ in range(1_000))
    verdicts = [difference([one], [other]).verdict for one, other in zip(draws, draws, strict=True)]
    assert 0.92 < verdicts.count(Verdict.INCONCLUSIVE) / len(verdicts) < 0.98, "a 95 % interval"


def test_a_stretch_of_good_luck_is_no_win() -> None:
    """Requests in one queue are not independent: 15 in a row that all fare well are one sample, not 15."""
    ours, theirs = times(1), times(1)
    for number in range(100, 115):
        ours[str(number)] -= 20.0
    assert difference([ours], [theirs]).verdict is Verdict.INCONCLUSIVE


def test_requests_are_paired_within_their_seed_and_averaged_over_seeds() -> None:
    ours = [times(1), {name: value + 100.0 for name, value in times(2).items()}]
    theirs = [{name: value + 1.0 for name, value in one.items()} for one in ours]
    found = difference(ours, theirs)
    assert found.mean == pytest.approx(-1.0)
    assert found.requests == 400


def test_only_what_both_answered_counts_and_too_little_is_told() -> None:
    some = {name: value for name, value in times(1).items() if int(name) % 2}
    assert difference([times(1)], [some]).requests == 200
    with pytest.raises(ValueError, match="too few"):
        difference([times(1, requests=30)], [times(2, requests=30)])
