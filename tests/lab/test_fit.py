"""The speed of recorded engines is read from those of their first tokens that waited least."""

from __future__ import annotations

import pytest

from router.lab.fit import LEAST_REQUESTS, alone_seconds, speedup
from router.sim.recording import Became
from router.sim.timing import LLAMA3_70B_H100_TP2 as FIT


def answered(times_as_fast: float, tokens: int, cached: int = 0, waited_seconds: float = 0.0) -> Became:
    seconds = alone_seconds(FIT, tokens, cached) / times_as_fast + waited_seconds
    return Became(tokens, cached, 1e3 * seconds)


def test_engines_twice_as_fast_are_found_to_be() -> None:
    told = [answered(2.0, 2_000 + 500 * number, cached=64 * number) for number in range(LEAST_REQUESTS)]
    assert speedup(told, FIT) == pytest.approx(2.0)


def test_those_who_waited_do_not_make_an_engine_slow() -> None:
    told = [answered(2.0, 4_000, waited_seconds=3.0 * (number % 2)) for number in range(2 * LEAST_REQUESTS)]
    assert speedup(told, FIT) == pytest.approx(2.0)


def test_where_the_gateway_knew_who_waited_only_the_others_tell() -> None:
    alone = [Became(4_000, 0, one.first_token, queued=0.0) for one in [answered(2.0, 4_000)] * LEAST_REQUESTS]
    waited = Became(4_000, 0, 1e3 * alone_seconds(FIT, 4_000, 0) / 2.0 + 5_000, queued=5_000.0)
    assert speedup([*alone, *[waited] * 900], FIT) == pytest.approx(2.0)
    assert speedup([alone[0], *[waited] * 900], FIT) == pytest.approx(speedup([waited] * 900, FIT))


def test_prompts_nearly_all_cached_and_answers_that_told_nothing_are_passed_over() -> None:
    told = [answered(2.0, 4_000) for _ in range(LEAST_REQUESTS)]
    assert speedup([*told, *([answered(9.0, 4_000, cached=3_900), Became(4_000), Became(4_000, 0)] * 40)], FIT) == (
        pytest.approx(2.0)
    )


def test_a_handful_of_requests_tells_nothing() -> None:
    assert speedup([answered(2.0, 4_000)] * (LEAST_REQUESTS - 1), FIT) is None


def test_long_prompts_take_as_many_steps_as_they_need() -> None:
    assert alone_seconds(FIT, 20_000, 0) > 2 * alone_seconds(FIT, 8_192, 0)
    assert alone_seconds(FIT, 20_000, 19_000) > alone_seconds(FIT, 1_000, 0)
