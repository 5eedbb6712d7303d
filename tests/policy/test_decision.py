"""How a decision explains itself."""

from __future__ import annotations

import json
import sys

import pytest

from router.index.base import Trust
from router.policy.candidate import Candidate
from router.policy.decision import Whole, chosen
from router.policy.load import load
from tests.policy.makers import candidate, choice, columns


def decision(policy_name: str, *rows: Candidate, session: int | None = None) -> Whole:
    policy, candidates = load(policy_name), columns(*rows, session=session)
    row, rule, total_seconds = choice(policy, candidates)
    return chosen(candidates, row, 16, policy, rule, total_seconds)


def test_the_reason_sets_the_price_here_beside_the_next_best() -> None:
    warm = candidate(0, "r1", matched_tokens=3_072, queued_tokens=3_040)
    made = decision("cache_aware", warm, candidate(1, "r2"), candidate(2, "r3", queued_tokens=8_000))
    assert made.reason == "lowest_cost: 0.38 s queue wait + 0.77 s prefill x6 here; next best r2: 3.07 s prefill x6"


def test_small_prices_are_told_in_milliseconds_and_nothings_not_at_all() -> None:
    made = decision("least_loaded", candidate(0, open_requests=1), candidate(1, open_requests=3))
    assert made.reason == "lowest_cost: 0.5 ms open requests here; next best r1: 1.5 ms open requests"
    assert "nothing to wait for here" in decision("least_loaded", candidate(0), candidate(1, open_requests=3)).reason


def test_a_cheaper_replica_that_the_rule_passed_over_is_named() -> None:
    made = decision("session_sticky", candidate(0, queued_tokens=8_000), candidate(1), session=0)
    assert made.reason == (
        "session_home+lowest_cost: 1.00 s queue wait here; cheaper but passed over: r1: nothing to wait for"
    )


def test_the_reason_of_a_policy_without_prices_is_its_rule() -> None:
    assert decision("round_robin", candidate(0), candidate(1), candidate(2, allowed=False)).reason == (
        "round_robin, of 2 replicas"
    )


def test_the_reason_says_when_there_was_no_choice() -> None:
    made = decision("cache_aware", candidate(0), candidate(1, allowed=False))
    assert made.reason.endswith("here; no other replica may be chosen")


def test_the_explanation_lists_the_chosen_first_and_then_by_cost_with_every_term() -> None:
    made = decision(
        "cache_aware",
        candidate(0, "far", queued_tokens=80_000),
        candidate(1, "warm", matched_tokens=4_000, trust=Trust.CATCHING_UP),
        candidate(2, "cold", allowed=False),
    )
    told = made.explain()
    assert [entry["replica"] for entry in told] == ["warm", "cold", "far"]
    assert told[0] == {
        "replica": "warm",
        "chosen": True,
        "allowed": True,
        "trust": "CATCHING_UP",
        "belief": 1.0,
        "held_tokens": 4_000,
        "slower_tokens": 0,
        "expected_tokens": 4_000,
        "queued_tokens": 0.0,
        "open_requests": 0,
        "context_tokens": 0.0,
        "tokens_per_second": 8_000.0,
        "cost_seconds": pytest.approx(0.072),
        "terms_seconds": {
            "queue_wait": 0.0,
            "prefill x6": pytest.approx(0.072),
            "waited x6": 0.0,
            "cache_in_use": 0.0,
            "open_requests": 0.0,
        },
    }
    assert json.loads(json.dumps(told)) == told, "plain values only"


def test_the_byte_size_is_what_the_decision_keeps_alive() -> None:
    made = decision("cache_aware", *(candidate(seat) for seat in range(128)))
    columns_bytes = sum(
        sys.getsizeof(column)
        for column in (
            made.candidates.held_tokens, made.candidates.slower_tokens, made.candidates.expected_tokens,
            made.candidates.queued_tokens, made.candidates.open_requests, made.candidates.context_tokens,
            made.candidates.used_tokens, made.candidates.shared_tokens, made.candidates.allowed, made.total_seconds,
        )
    )  # fmt: skip
    scalars_bytes = sys.getsizeof(made) + sys.getsizeof(made.candidates) + 12 * 32
    assert made.byte_size >= 0.9 * (columns_bytes + scalars_bytes)
    assert made.byte_size <= 1.2 * (columns_bytes + scalars_bytes)
