from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import msgspec

from loadtest.scenario import Scenario, over_http, rows
from router.lab.block_trace import BlockTrace

SMALL = Scenario(groups=3, prompts_per_group=2, system_blocks=2, question_blocks=1, requests=24)


def shared_tokens(one: list[int], other: list[int]) -> int:
    """Length of the common beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def test_prompts_share_over_http_what_they_share_in_virtual_time() -> None:
    requests = rows(SMALL)
    virtual = [list(arrival.prompt) for arrival in BlockTrace(requests, speed=1.0).begin()]
    http = [msgspec.json.decode(turn.body("m"))["prompt"] for turn in over_http(requests).turns]
    for one, other in combinations(range(len(requests)), 2):
        assert shared_tokens(virtual[one], virtual[other]) == shared_tokens(http[one], http[other])
    overlaps = {shared_tokens(http[0], other) for other in http[1:]}
    assert overlaps == {0, 2 * 512, 3 * 512}, "strangers, the same group, the same prompt"


def test_both_worlds_get_the_same_requests_at_the_same_moments() -> None:
    requests = rows(SMALL)
    virtual = list(BlockTrace(requests, speed=1.0).begin())
    turns = over_http(requests).turns
    assert [arrival.request_id for arrival in virtual] == [turn.conversation for turn in turns]
    assert [len(arrival.answer) for arrival in virtual] == [turn.max_tokens for turn in turns]
    gaps = {round(turn.at_seconds - one.at_seconds, 9) for one, turn in zip(virtual, turns, strict=True)}
    assert len(gaps) == 1, "but for where time begins"


def test_a_seed_fixes_the_rows() -> None:
    assert rows(SMALL) == rows(SMALL) != rows(replace(SMALL, seed=2))
