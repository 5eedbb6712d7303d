"""The shelf, and policies by path."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.errors import ConfigError
from router.policy.load import load, shelf
from tests.policy.makers import candidate, choice, columns, turn

SHIPPED = (
    "cache_aware",
    "consistent_hash",
    "disaggregated",
    "least_loaded",
    "longest_match",
    "power_of_two",
    "random",
    "round_robin",
    "session_sticky",
    "dualmap",
    "dynamo",
    "dynamo_conditional",
    "llmd_affinity",
    "llmd_blend",
    "lmcache_first_holder",
    "lmetric",
    "mooncake",
    "preble",
    "smg_cache_aware",
    "split_always",
    "split_never",
    "split_threshold",
)
RIVALS = SHIPPED[9:]


def test_the_shelf_holds_the_policies_we_promise_each_under_its_own_name() -> None:
    assert tuple(policy.name for policy in shelf()) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_policy_says_when_to_choose_it_in_one_line(name: str) -> None:
    description = load(name).description
    assert 20 < len(description) < 120
    assert "\n" not in description


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_says_that_it_is_there_to_compare_with(name: str) -> None:
    assert load(name).description.startswith("for comparison: ")


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("count", [1, 2, 8])
def test_every_shipped_policy_decides_the_same_with_the_same_seed(name: str, count: int) -> None:
    candidates = columns(*(candidate(seat, open_requests=seat) for seat in range(count)), prefix_key=5, session=0)
    shipped = load(name)

    def rows(seed: int) -> list[int]:
        at = turn(seed)
        return [choice(shipped, candidates, at).row for _ in range(20)]

    assert rows(seed=3) == rows(seed=3)


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_policy_chooses_what_is_not_allowed(name: str) -> None:
    rows = [candidate(0, matched_tokens=4_000, allowed=False), candidate(1, queued_tokens=10**6, open_requests=300)]
    candidates = columns(*rows, session=0)
    assert choice(name, candidates).row == 1


def test_a_path_is_read_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ndescription: a test\npicker: random\n")
    assert load(str(file)).name == "mine"


def test_an_unknown_name_is_answered_with_the_nearest_and_all_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"no policy is named 'cache_awre'. Did you mean 'cache_aware'\? Known: cache_aware, "
    ):
        load("cache_awre")


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere/mine.yaml: cannot be read as a policy"):
        load("nowhere/mine.yaml")
