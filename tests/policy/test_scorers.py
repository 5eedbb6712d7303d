"""What each scorer prices, in seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.index.base import Trust
from router.policy.load import load
from router.policy.rivals import RIVAL_SCORERS
from router.policy.scorers import SCORERS, OpenRequests, Prefill, QueueWait, Waited
from tests.policy.makers import candidate, choice, columns


def test_waiting_costs_the_queued_tokens_over_the_replicas_own_rate() -> None:
    candidates = columns(
        candidate(0, queued_tokens=16_000), candidate(1, queued_tokens=16_000, tokens_per_second=4_000)
    )
    assert QueueWait().cost_seconds(candidates).tolist() == [2.0, 4.0]


def test_prefill_costs_only_what_the_cache_does_not_spare() -> None:
    candidates = columns(candidate(0, matched_tokens=3_072), candidate(1), prompt_tokens=4_096)
    assert Prefill().cost_seconds(candidates).tolist() == [1_024 / 8_000, 4_096 / 8_000]


def test_prefill_counts_what_our_requests_in_flight_will_have_cached() -> None:
    candidates = columns(candidate(0, matched_tokens=16, expected_tokens=4_000), prompt_tokens=4_096)
    assert Prefill().cost_seconds(candidates).tolist() == [96 / 8_000]


def test_the_further_prompts_of_a_batch_are_all_prefilled() -> None:
    candidates = columns(candidate(0, matched_tokens=4_000), prompt_tokens=4_096, other_tokens=7_904)
    assert Prefill().cost_seconds(candidates).tolist() == [1.0]


@pytest.mark.parametrize(
    ("trust", "uncached_tokens"),
    [(Trust.EXACT, 1_000), (Trust.CATCHING_UP, 1_000), (Trust.GUESSED, 1_900), (Trust.LOAD_ONLY, 4_000)],
)
def test_a_match_counts_as_far_as_it_is_trusted(trust: Trust, uncached_tokens: int) -> None:
    candidates = columns(candidate(0, matched_tokens=3_000, trust=trust), prompt_tokens=4_000)
    assert Prefill().cost_seconds(candidates)[0] == pytest.approx(uncached_tokens / 8_000)


def test_open_requests_cost_little_beside_a_prefill() -> None:
    candidates = columns(candidate(0, open_requests=10), candidate(1))
    assert OpenRequests().cost_seconds(candidates).tolist() == pytest.approx([0.005, 0.0])


@given(
    st.lists(
        st.tuples(st.integers(0, 1_000_000), st.integers(0, 1_000), st.integers(0, 100_000), st.sampled_from(Trust)),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 100_000),
)
def test_no_scorer_ever_pays_for_a_choice(loads: list[tuple[int, int, int, Trust]], prompt_tokens: int) -> None:
    candidates = columns(
        *(
            candidate(
                seat,
                queued_tokens=queued,
                open_requests=opened,
                matched_tokens=min(match, prompt_tokens - 1),
                trust=trust,
            )
            for seat, (queued, opened, match, trust) in enumerate(loads)
        ),
        prompt_tokens=prompt_tokens,
    )
    for scorer in (*SCORERS.values(), *RIVAL_SCORERS.values()):
        assert (scorer().cost_seconds(candidates) >= 0.0).all()


def test_a_request_that_was_not_held_back_is_charged_no_waiting() -> None:
    candidates = columns(candidate(0, queued_tokens=100_000), candidate(1))
    assert Waited().cost_seconds(candidates).tolist() == [0.0, 0.0]


def test_waiting_is_charged_where_there_is_no_room_as_far_as_there_is_elsewhere() -> None:
    full, half, idle = (candidate(seat, queued_tokens=tokens) for seat, tokens in enumerate((9_000, 4_096, 0)))
    charged = Waited(ahead_tokens=8_192).cost_seconds(columns(full, half, idle, waited_seconds=4.0))
    assert charged.tolist() == pytest.approx([2.0, 1.0, 0.0])
    assert not Waited().cost_seconds(columns(full, full, waited_seconds=4.0)).any(), "nobody has room: nothing to gain"


def test_a_request_goes_elsewhere_once_it_has_waited_for_as_long_as_a_copy_takes() -> None:
    policy = load("cache_aware")
    warm, others = candidate(0, matched_tokens=4_000, queued_tokens=9_000), [candidate(seat) for seat in (1, 2, 3)]

    def goes(waited_seconds: float) -> int:
        return choice(policy, columns(warm, *others, waited_seconds=waited_seconds)).row

    copy_seconds = 4_000 / 8_000
    assert goes(0.0) == goes(copy_seconds / 2) == 0
    assert goes(2 * copy_seconds) != 0
