"""Terms that only the lab knows: each plays, none ships, and what is told of them is what was played."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from loadtest.notebook import policy_file
from loadtest.terms.lingering import Lingering
from loadtest.terms.scorers import LAB_SCORERS, EvictedValue, Replicate, SessionPrice, ShadowPrice, TruePrefill
from loadtest.terms.trials import OURS, TRIALS, true_speed
from loadtest.terms.worth import HOT, PLACES, main, trial_of
from router.errors import ConfigError
from router.fleet.replica import Seat
from router.policy.load import load
from router.policy.reading import SCORERS, parse
from tests.policy.makers import candidate, columns

TEXT = policy_file(OURS).read_text()


@pytest.mark.parametrize("name", [*TRIALS, "true_speed"])
def test_every_trial_changes_the_policy_that_ships(name: str) -> None:
    trial = trial_of(name, "qwen3_32b_h100", 1.0)
    changed, ours = trial.policy(TEXT), load(OURS)
    assert changed.terms != ours.terms
    assert (changed.hold, changed.picker) == (ours.hold, ours.picker)
    assert not {term.name for term in ours.terms} < set(trial.drop)
    assert set(trial.drop) <= {term.name for term in ours.terms}, "what is dropped stands there"


def test_a_scorer_of_the_lab_is_unknown_to_policies_that_ship() -> None:
    assert not set(LAB_SCORERS) & set(SCORERS)
    text = TEXT.replace("  open_requests: {}", "  placebo: {}")
    assert parse(text, "lab", LAB_SCORERS).terms
    with pytest.raises(ConfigError, match="placebo"):
        parse(text, "shelf")


def test_places_ask_for_trials_that_there_are() -> None:
    assert {trial for place in PLACES for trial in place.trials} <= {*TRIALS, "true_speed"}


def test_the_price_of_depth_is_the_engines_own() -> None:
    shallow, deep = TruePrefill().cost_seconds(
        columns(candidate(0, matched_tokens=0), candidate(1, matched_tokens=60_000), prompt_tokens=61_000)
    )
    assert deep == pytest.approx(0.0109 + 0.0474 + 0.00000215 * 60_500 + 5.95e-10 * 1_000 * 60_500)
    assert shallow > 2.5
    slow = true_speed("qwen3_32b_h100", 2.0).policy(TEXT)
    costs = slow.price(columns(candidate(0), candidate(1)))
    assert costs[0] == pytest.approx(2 * costs[1])


def test_a_shadow_price_follows_the_queues() -> None:
    rows = [candidate(0, queued_tokens=4_000), candidate(1, queued_tokens=4_000)]
    idle = ShadowPrice().cost_seconds(columns(candidate(0), candidate(1), prompt_tokens=8_000))
    busy = ShadowPrice(full_seconds=0.5).cost_seconds(columns(*rows, prompt_tokens=8_000))
    assert (idle[0], busy[0]) == (2.0, 6.0)


def test_what_is_evicted_costs_only_where_it_is_wanted() -> None:
    rows = [candidate(seat, used_tokens=used, cache_tokens=100_000) for seat, used in enumerate((0, 100_000, 300_000))]
    cost = EvictedValue().cost_seconds(columns(*rows, prompt_tokens=8_000))
    assert cost[0] == cost[2] == 0.0
    assert 0.0 < cost[1] <= 1.0


def test_a_copy_is_cheap_while_all_who_hold_it_are_busy() -> None:
    calm = columns(candidate(0, matched_tokens=4_000), candidate(1))
    busy = columns(candidate(0, matched_tokens=4_000, queued_tokens=50_000), candidate(1))
    assert Replicate().cost_seconds(busy)[1] == pytest.approx(Replicate().cost_seconds(calm)[1] / 6)


def test_leaving_a_sessions_replica_has_a_price() -> None:
    assert SessionPrice(0.5).cost_seconds(columns(candidate(0), candidate(1), session=1)).tolist() == [0.5, 0.0]
    assert not SessionPrice(0.5).cost_seconds(columns(candidate(0), candidate(1))).any()


def test_what_a_request_used_lingers_until_so_many_more_have_ended() -> None:
    used = Lingering(16, requests=1)
    for lease in (1, 2):
        used.open(lease, Seat(0), array("Q", [lease]), 16)
        used.close(lease)
    assert used.tokens[0] == 16
    used.open(3, Seat(0), array("Q", [2]), 16)
    used.close(3)
    assert used.tokens[0] == 16, "shared with one that lingers"


def test_the_table_tells_each_trial_beside_ours(tmp_path: Path) -> None:
    out = tmp_path / "terms.md"
    main(
        [
            *("--place", HOT, "--trial", "placebo", "--trial", "no_waited"),
            *("--requests", "60", "--seeds", "1", "--jobs", "1", "--out", str(out)),
        ]
    )
    told = out.read_text()
    rows = [line for line in told.splitlines() if line.startswith(("| cache_aware |", "| placebo |", "| no_waited |"))]
    assert len(rows) == 5, "two trials in the summary, three policies in the place"
