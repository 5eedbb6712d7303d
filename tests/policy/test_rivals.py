"""Each rival held to its published rule, on cases small enough to work out by hand."""

from __future__ import annotations

import pytest

from router.index.base import Trust
from router.policy.candidate import Candidate
from router.policy.load import load
from router.policy.rivals import CacheUse, DynamoBlocks, PrefixMiss, QueueRank
from tests.policy.makers import candidate, choice, chosen, columns, fleet, turn


def rule(policy: str, *rows: Candidate, prompt_tokens: int = 4_096) -> str:
    return choice(policy, columns(*rows, prompt_tokens=prompt_tokens)).rule


def seats_picked(policy: str, *rows: Candidate, turns: int = 60) -> set[int]:
    at = turn()
    candidates = columns(*rows)
    return {choice(policy, candidates, at).row for _ in range(turns)}


# All of them


@pytest.mark.parametrize(
    "policy",
    [
        *("dynamo", "llmd_blend", "llmd_affinity", "mooncake", "lmetric", "smg_cache_aware"),
        *("preble", "lmcache_first_holder"),
    ],
)
def test_equal_replicas_are_drawn_by_chance(policy: str) -> None:
    assert seats_picked(policy, *fleet(3)) == {0, 1, 2}


@pytest.mark.parametrize("policy", ["dynamo", "llmd_blend", "mooncake", "lmetric"])
def test_the_lowest_wins_by_however_little(policy: str) -> None:
    rows = candidate(0, matched_tokens=16, cache_tokens=300_000), candidate(1, cache_tokens=300_000)
    assert seats_picked(policy, *rows) == {0}


# SMG: guard, longest match, fewest requests


@pytest.mark.parametrize(
    ("busiest", "idlest", "told"),
    [(64, 0, "longest_match"), (65, 0, "imbalance"), (195, 130, "longest_match"), (196, 130, "imbalance")],
)
def test_smg_leaves_affinity_when_both_bounds_are_passed(busiest: int, idlest: int, told: str) -> None:
    warm = candidate(0, matched_tokens=4_000, open_requests=busiest)
    idle = candidate(1, open_requests=idlest)
    assert rule("smg_cache_aware", warm, idle) == f"{told}+exact_lowest"
    assert chosen("smg_cache_aware", warm, idle) == ("r1" if told == "imbalance" else "r0")


def test_smg_sends_a_short_match_to_the_fewest_requests() -> None:
    rows = candidate(0, matched_tokens=300, open_requests=3), candidate(1, open_requests=2)
    assert chosen("smg_cache_aware", *rows, prompt_tokens=1_000) == "r1"
    longer = candidate(0, matched_tokens=301, open_requests=3), rows[1]
    assert chosen("smg_cache_aware", *longer, prompt_tokens=1_000) == "r0"


def test_smg_counts_a_guessed_match_in_full() -> None:
    guess = candidate(0, matched_tokens=400, open_requests=3, trust=Trust.GUESSED)
    assert chosen("smg_cache_aware", guess, candidate(1), prompt_tokens=1_000) == "r0"


# Dynamo: blocks


def test_dynamo_adds_prefill_less_the_hit_and_the_blocks_in_use_with_ours() -> None:
    row = candidate(0, queued_tokens=1_600, matched_tokens=800, used_tokens=3_200, shared_tokens=480)
    candidates = columns(row, prompt_tokens=1_600)
    # (1600 + 1600 - 800) / 16 blocks to prefill, (3200 + 1600 - 480) / 16 in use
    assert DynamoBlocks().cost_seconds(candidates).tolist() == [150 + 270]
    assert DynamoBlocks(prefill_load_scale=2).cost_seconds(candidates).tolist() == [300 + 270]


def test_dynamo_gives_slower_tiers_less_credit_and_requests_a_weight_if_told() -> None:
    candidates = columns(candidate(0, slower_tokens=1_600, open_requests=5), prompt_tokens=1_600)
    assert DynamoBlocks().cost_seconds(candidates).tolist() == [25 + 100]
    assert DynamoBlocks(request_weight=3).cost_seconds(candidates).tolist() == [25 + 100 + 15]


def test_dynamos_prefill_is_never_below_nothing() -> None:
    candidates = columns(candidate(0, matched_tokens=1_599), prompt_tokens=1_600)
    assert DynamoBlocks(overlap_credit=2).cost_seconds(candidates).tolist() == [100]


def test_dynamo_prefers_a_warm_replica_until_it_uses_more_blocks_than_the_hit_spares() -> None:
    cold = candidate(1)
    assert chosen("dynamo", candidate(0, matched_tokens=3_200, used_tokens=3_184), cold) == "r0"
    assert chosen("dynamo", candidate(0, matched_tokens=3_200, used_tokens=3_216), cold) == "r1"


def test_dynamo_counts_a_prompt_in_use_twice_as_a_hit_and_as_blocks_it_need_not_add() -> None:
    in_use = candidate(0, matched_tokens=3_200, used_tokens=6_384, shared_tokens=3_200)
    assert chosen("dynamo", in_use, candidate(1)) == "r0"


# llm-d's blend


def test_the_blend_weighs_prefix_by_three_and_free_cache_and_queue_by_two() -> None:
    rows = (
        candidate(0, matched_tokens=2_000, used_tokens=75_000, cache_tokens=300_000, queued_tokens=16_384),
        candidate(1, used_tokens=0, cache_tokens=300_000, queued_tokens=8_192),
        candidate(2, used_tokens=150_000, cache_tokens=300_000, queued_tokens=12_288),
    )
    costs = choice("llmd_blend", columns(*rows, prompt_tokens=4_000)).cost_seconds
    assert costs.tolist() == pytest.approx([3 * 0.5 + 2 * 0.25 + 2, 3 * 1 + 0 + 0, 3 * 1 + 2 * 0.5 + 2 * 0.5])


def test_the_blends_scores_are_shares_whatever_comes() -> None:
    full = columns(
        candidate(0, used_tokens=900_000, cache_tokens=300_000), candidate(1, used_tokens=9), prompt_tokens=0
    )
    assert CacheUse().cost_seconds(full).tolist() == [1.0, 0.0]
    assert PrefixMiss().cost_seconds(full).tolist() == [1.0, 1.0]


def test_queues_that_one_step_takes_in_are_equal() -> None:
    assert QueueRank().cost_seconds(columns(candidate(0, queued_tokens=8_192), candidate(1))).tolist() == [0.0, 0.0]


def test_queues_are_ranked_among_those_that_may_be_chosen() -> None:
    rows = candidate(0, queued_tokens=90_000, allowed=False), candidate(1, queued_tokens=9_192), candidate(2)
    assert QueueRank().cost_seconds(columns(*rows)).tolist() == [1.0, 1.0, 0.0]


# llm-d's affinity filter and token load


def test_affinity_keeps_those_that_hold_eight_tenths() -> None:
    rows = candidate(0, matched_tokens=800, queued_tokens=5_000), candidate(1, matched_tokens=799)
    assert chosen("llmd_affinity", *rows, prompt_tokens=1_000) == "r0"
    rows = candidate(0, matched_tokens=799, queued_tokens=5_000), candidate(1)
    assert chosen("llmd_affinity", *rows, prompt_tokens=1_000) == "r1"


def test_affinity_is_released_when_the_best_warm_is_later_than_the_best_cold_by_more_than_its_penalty() -> None:
    bound_tokens = 18 * 15_928

    def rows(queued_tokens: int) -> tuple[Candidate, ...]:
        return (
            candidate(0, matched_tokens=900, queued_tokens=queued_tokens),
            candidate(1, matched_tokens=900, queued_tokens=queued_tokens + 50_000),
            candidate(2, queued_tokens=1_000),
            candidate(3, queued_tokens=2_000),
        )

    assert rule("llmd_affinity", *rows(1_000 + bound_tokens), prompt_tokens=1_000) == "affinity+exact_lowest"
    assert chosen("llmd_affinity", *rows(1_000 + bound_tokens), prompt_tokens=1_000) == "r0"
    assert rule("llmd_affinity", *rows(1_001 + bound_tokens), prompt_tokens=1_000) == "released+exact_lowest"
    assert chosen("llmd_affinity", *rows(1_001 + bound_tokens), prompt_tokens=1_000) == "r2"


def test_token_load_counts_what_this_request_would_add() -> None:
    rows = candidate(0, matched_tokens=500, queued_tokens=400), candidate(1, queued_tokens=0)
    assert chosen("llmd_affinity", *rows, prompt_tokens=1_000) == "r0"
    rows = candidate(0, matched_tokens=500, queued_tokens=501), candidate(1, queued_tokens=0)
    assert chosen("llmd_affinity", *rows, prompt_tokens=1_000) == "r1"


# Mooncake


def test_mooncake_takes_the_least_queue_and_prefill_together() -> None:
    warm = candidate(0, matched_tokens=3_000, queued_tokens=2_999)
    assert chosen("mooncake", warm, candidate(1)) == "r0"
    assert chosen("mooncake", candidate(0, matched_tokens=3_000, queued_tokens=3_001), candidate(1)) == "r1"


def test_mooncake_reckons_with_each_replicas_own_speed() -> None:
    slow = candidate(0, matched_tokens=2_000, tokens_per_second=1_000)
    assert chosen("mooncake", slow, candidate(1, queued_tokens=8_000)) == "r1"


# LMetric


def test_lmetric_multiplies_what_is_to_prefill_with_the_batch() -> None:
    rows = (
        candidate(0, matched_tokens=3_096, queued_tokens=1_000, open_requests=9),
        candidate(1, open_requests=4),
        candidate(2, matched_tokens=96, open_requests=3),
    )
    assert choice("lmetric", columns(*rows)).cost_seconds.tolist() == [20_000, 20_480, 16_000]


def test_lmetric_tells_idle_replicas_apart_by_what_they_hold() -> None:
    assert seats_picked("lmetric", candidate(0), candidate(1, matched_tokens=64), candidate(2)) == {1}


# DualMap


def homes(count: int, prefix_key: int) -> set[str]:
    """Where a prompt goes when each replica in turn is busy beyond any objective."""
    return {
        chosen(
            "dualmap",
            *(candidate(seat, queued_tokens=10**6 if seat == busy else 0) for seat in range(count)),
            prefix_key=prefix_key,
        )
        for busy in range(count)
    }


def test_dualmap_knows_two_homes_for_a_beginning() -> None:
    found = [homes(16, key) for key in range(200)]
    assert {len(pair) for pair in found} <= {1, 2}
    assert sum(len(pair) == 2 for pair in found) > 170  # both hashes name one replica for a sixteenth
    assert set().union(*found) == {f"r{seat}" for seat in range(16)}


def test_dualmap_stays_with_the_warmer_home_until_it_is_late() -> None:
    first, second = sorted(homes(8, 5))

    def at(queued_tokens: int) -> str:
        rows = [
            candidate(seat, matched_tokens=3_000 if f"r{seat}" == first else 0, queued_tokens=queued_tokens)
            if f"r{seat}" == first
            else candidate(seat)
            for seat in range(8)
        ]
        return chosen("dualmap", *rows, prefix_key=5)

    assert at(38_000) == first  # (38,000 + 1,096) / 8,000 a second is in time
    assert at(40_000) == second


# Preble


def test_preble_exploits_what_is_held_when_more_of_the_prompt_is_held_than_not() -> None:
    rows = candidate(0, matched_tokens=501, queued_tokens=90_000, open_requests=9), candidate(1)
    assert rule("preble", *rows, prompt_tokens=1_000) == "exploit+exact_lowest"
    assert chosen("preble", *rows, prompt_tokens=1_000) == "r0"
    rows = candidate(0, matched_tokens=500, queued_tokens=90_000, open_requests=9), candidate(1)
    assert rule("preble", *rows, prompt_tokens=1_000) == "explore+exact_lowest"
    assert chosen("preble", *rows, prompt_tokens=1_000) == "r1"


def test_preble_takes_the_least_loaded_of_those_that_hold_most() -> None:
    rows = (
        candidate(0, matched_tokens=800, queued_tokens=4_000),
        candidate(1, matched_tokens=800, queued_tokens=3_000),
        candidate(2, matched_tokens=799),
    )
    assert chosen("preble", *rows, prompt_tokens=1_000) == "r1"


def test_prebles_load_is_time_and_a_running_request_weighs_its_whole_answer() -> None:
    rows = candidate(0, queued_tokens=23_000), candidate(1, open_requests=1)
    assert chosen("preble", *rows) == "r0"
    rows = candidate(0, queued_tokens=25_000), candidate(1, open_requests=1)
    assert chosen("preble", *rows) == "r1"


# LMCache's first holder


def test_the_first_holder_is_followed_however_busy_while_all_but_the_threshold_is_there() -> None:
    rows = candidate(0, matched_tokens=2_048, open_requests=200), candidate(1)
    assert rule("lmcache_first_holder", *rows, prompt_tokens=4_048) == "first_holder+exact_lowest"
    assert chosen("lmcache_first_holder", *rows, prompt_tokens=4_048) == "r0"
    assert rule("lmcache_first_holder", *rows, prompt_tokens=4_049) == "short_match+exact_lowest"
    assert chosen("lmcache_first_holder", *rows, prompt_tokens=4_049) == "r1"


def test_the_first_holder_knows_whole_chunks_alone() -> None:
    rows = candidate(0, matched_tokens=255, open_requests=5), candidate(1)
    assert rule("lmcache_first_holder", *rows, prompt_tokens=300) == "no_holder+exact_lowest"
    rows = candidate(0, matched_tokens=2_047, open_requests=200), candidate(1)
    assert rule("lmcache_first_holder", *rows, prompt_tokens=3_793) == "short_match+exact_lowest"
    assert rule("lmcache_first_holder", *rows, prompt_tokens=3_792) == "first_holder+exact_lowest"


def test_one_of_several_holders_gets_all_of_a_beginning_and_beginnings_differ() -> None:
    def first(prefix_key: int, loads: tuple[int, ...]) -> str:
        rows = [candidate(seat, matched_tokens=4_096, open_requests=load) for seat, load in enumerate(loads)]
        return chosen("lmcache_first_holder", *rows, prompt_tokens=4_200, prefix_key=prefix_key)

    assert all(first(key, (0, 0, 0)) == first(key, (500, 0, 90)) for key in range(20))
    assert {first(key, (0, 0, 0)) for key in range(20)} == {"r0", "r1", "r2"}


# Bounded-load consistent hashing, which we ship as our own


def test_consistent_hash_ships_with_the_customary_bound() -> None:
    (bound,) = load("consistent_hash").filters
    assert getattr(bound.filter, "factor", None) == 1.25


# What they read


def test_only_the_policies_that_read_open_blocks_make_anybody_keep_them() -> None:
    assert load("dynamo").reads_open_blocks
    assert load("llmd_blend").reads_open_blocks
    assert load("cache_aware").reads_open_blocks
    assert not load("least_loaded").reads_open_blocks
    assert not load("mooncake").reads_open_blocks
