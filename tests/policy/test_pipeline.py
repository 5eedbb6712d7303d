"""What the shipped policies decide, and how the parts of any policy work together."""

from __future__ import annotations

from collections import Counter

import pytest

from router.index.base import Trust
from router.policy.filters import SessionHome
from router.policy.load import load
from router.policy.pickers import LowestCost, RandomPick
from router.policy.pipeline import NamedFilter, Policy, Term
from router.policy.scorers import Prefill, QueueWait
from tests.policy.makers import candidate, choice, chosen, columns, fleet, turn


def policy(*filters: NamedFilter, terms: tuple[Term, ...] = (Term("queue_wait", QueueWait()),)) -> Policy:
    return Policy("a_test", "for a test", filters, terms, LowestCost())


def test_a_warm_replica_is_chosen_over_a_cold_one() -> None:
    assert chosen("cache_aware", candidate(0, "warm", matched_tokens=3_072), candidate(1, "cold")) == "warm"


def test_a_warm_replica_is_chosen_while_its_queue_costs_less_than_the_cache_saves() -> None:
    warm = candidate(0, "warm", matched_tokens=3_072, queued_tokens=3_000)
    assert chosen("cache_aware", warm, candidate(1, "cold")) == "warm"


def test_a_warm_replica_loses_once_its_queue_costs_more_than_the_cache_saves() -> None:
    warm = candidate(0, "warm", matched_tokens=3_072, queued_tokens=60_000)
    assert chosen("cache_aware", warm, candidate(1, "cold")) == "cold"


def test_a_straggler_prices_itself_out() -> None:
    slow = candidate(0, "slow", matched_tokens=2_048, tokens_per_second=1_000)
    assert chosen("cache_aware", slow, candidate(1, "cold")) == "cold"


def test_a_sure_match_beats_an_equal_guess_and_a_guess_beats_nothing() -> None:
    guessed = candidate(0, "guessed", matched_tokens=3_072, trust=Trust.GUESSED)
    assert chosen("cache_aware", guessed, candidate(1, "sure", matched_tokens=3_072)) == "sure"
    assert chosen("cache_aware", guessed, candidate(1, "cold")) == "guessed"


def test_what_is_not_trusted_at_all_attracts_nothing() -> None:
    liar = candidate(0, "liar", matched_tokens=4_000, open_requests=1, trust=Trust.LOAD_ONLY)
    assert chosen("cache_aware", liar, candidate(1, "idle")) == "idle"


def test_concurrent_siblings_land_together_through_what_is_expected() -> None:
    # The first of them shares 3,584 of its 4,096 tokens with the second and is still being prefilled.
    first = candidate(0, "first", expected_tokens=3_584, queued_tokens=4_096, open_requests=1)
    others = [candidate(seat) for seat in range(1, 8)]
    assert chosen("cache_aware", first, *others) == "first"


def test_strangers_that_share_only_a_system_prompt_part_while_one_of_them_is_being_prefilled() -> None:
    first = candidate(0, "first", expected_tokens=512, queued_tokens=4_096, open_requests=1)
    assert chosen("cache_aware", first, candidate(1, "idle")) == "idle"


@pytest.mark.parametrize("shared_tokens", [16, 512])
def test_a_beginning_that_everyone_shares_does_not_draw_everyone_to_one_replica(shared_tokens: int) -> None:
    """Longest match alone collapses here: the first replica to hold the shared beginning would get all that follows."""
    shipped, at = load("cache_aware"), turn()
    queued, opened, warm = [0.0] * 8, [0] * 8, [0] * 8
    for _ in range(160):
        rows = [
            candidate(seat, matched_tokens=warm[seat], queued_tokens=queued[seat], open_requests=opened[seat])
            for seat in range(8)
        ]
        row = choice(shipped, columns(*rows, prompt_tokens=4_096), at).row
        queued[row] += 4_096 - warm[row]
        opened[row] += 1
        warm[row] = shared_tokens
        queued = [max(0.0, tokens - 400) for tokens in queued]  # 3,200 tokens of work done for 3,600 that arrive
    assert min(opened) >= 15
    assert max(opened) <= 25


@pytest.mark.parametrize("name", ["cache_aware", "least_loaded", "longest_match", "session_sticky"])
def test_near_ties_spread_over_an_idle_fleet(name: str) -> None:
    shipped, at = load(name), turn()
    picks = Counter(choice(shipped, columns(*fleet(8)), at).row for _ in range(800))
    assert len(picks) == 8
    assert max(picks.values()) < 150


def test_new_beginnings_go_where_open_requests_hold_least_of_the_cache() -> None:
    rows = [candidate(seat, used_tokens=90_000 - 10_000 * seat, cache_tokens=100_000) for seat in range(8)]
    assert choice(load("cache_aware"), columns(*rows), turn()).row == 7


def test_a_warm_home_is_kept_though_its_cache_is_in_use() -> None:
    warm = candidate(0, "warm", matched_tokens=4_000, used_tokens=80_000, cache_tokens=100_000)
    assert chosen("cache_aware", warm, candidate(1, cache_tokens=100_000)) == "warm"


def test_load_only_policies_ignore_what_is_cached() -> None:
    warm, idle = candidate(0, "warm", matched_tokens=4_000, queued_tokens=800), candidate(1, "idle")
    assert chosen("least_loaded", warm, idle) == "idle"
    assert chosen("power_of_two", warm, idle) == "idle"


def test_the_longest_match_wins_however_long_its_queue() -> None:
    assert (
        chosen("longest_match", candidate(0, "warm", matched_tokens=4_000, queued_tokens=10**6), candidate(1)) == "warm"
    )


def test_longest_match_sends_to_the_fewest_open_requests_once_the_fleet_is_out_of_balance() -> None:
    warm = candidate(0, "warm", matched_tokens=4_000, open_requests=70)
    picked = choice("longest_match", columns(warm, candidate(1, open_requests=4), candidate(2, open_requests=0)))
    assert (picked.row, picked.rule) == (2, "imbalance+lowest_cost")


def test_a_session_stays_home_while_others_are_idler_and_leaves_an_overloaded_home() -> None:
    busy = candidate(0, "home", queued_tokens=30_000, open_requests=9)
    assert chosen("session_sticky", busy, candidate(1), session=0) == "home"
    overloaded = candidate(0, "home", queued_tokens=50_000, open_requests=9)
    assert chosen("session_sticky", overloaded, candidate(1, "idle"), session=0) == "idle"


def test_consistent_hash_keeps_a_beginning_at_home_until_its_replica_is_full() -> None:
    home = choice("consistent_hash", columns(*fleet(4), prefix_key=99)).row
    rows = [candidate(seat, open_requests=5 if seat == home else 4) for seat in range(4)]
    assert choice("consistent_hash", columns(*rows, prefix_key=99)).row == home
    rows = [candidate(seat, open_requests=9 if seat == home else 4) for seat in range(4)]
    assert choice("consistent_hash", columns(*rows, prefix_key=99)).row != home


def test_terms_add_up_and_weights_multiply_them() -> None:
    terms = (Term("queue_wait", QueueWait()), Term("prefill", Prefill(), weight=3.0))
    priced, asked = policy(terms=terms), columns(candidate(0, queued_tokens=8_000), prompt_tokens=4_000)
    told = priced.price_terms(asked)
    assert {label: seconds.tolist() for label, seconds in told.items()} == {"queue_wait": [1.0], "prefill x3": [1.5]}
    assert choice(priced, asked).cost_seconds.tolist() == [2.5]


def test_a_filter_that_would_leave_nobody_is_passed_over_and_says_so() -> None:
    class Nobody:
        def keep(self, candidates, rows):  # type: ignore[no-untyped-def]  # a filter reduced to its one flaw
            return rows[:0], "nobody"

    picked = choice(policy(NamedFilter("nobody", Nobody())), columns(candidate(0, queued_tokens=9), candidate(1)))
    assert (picked.row, picked.rule) == (1, "nobody_ignored+lowest_cost")


def test_filters_narrow_in_order_and_the_rule_tells_each() -> None:
    parts = (NamedFilter("session_home", SessionHome()),)
    picked = choice(Policy("a_test", "for a test", parts, (), RandomPick()), columns(*fleet(5), session=3))
    assert (picked.row, picked.rule) == (3, "session_home+random")
