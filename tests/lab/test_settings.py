"""A policy with other settings."""

from __future__ import annotations

import pytest

from router.errors import ConfigError
from router.lab.settings import grid, told, varied
from router.policy.reading import parse

TEXT = """
name: mine
description: a test's own
filters: [not_overloaded, session_home: {max_queue_seconds: 5}]
scorers:
  queue_wait: {}
  prefill: {weight: 2}
picker: lowest_cost
"""


def test_parameters_and_weights_are_changed_where_they_stand() -> None:
    changes = {"session_home.max_queue_seconds": 2, "prefill.weight": 3, "lowest_cost.near_ratio": 0.1}
    by_hand = TEXT.replace("max_queue_seconds: 5", "max_queue_seconds: 2").replace("weight: 2", "weight: 3")
    by_hand = by_hand.replace("picker: lowest_cost", "picker: {lowest_cost: {near_ratio: 0.1}}")
    assert parse(varied(TEXT, changes), "a") == parse(by_hand, "a")
    assert parse(varied(TEXT, {}), "a") == parse(TEXT, "a")


def test_a_bare_part_can_be_given_a_parameter() -> None:
    changed = parse(varied(TEXT, {"not_overloaded.max_queue_seconds": 9}), "a")
    assert "max_queue_seconds=9" in repr(changed.filters[0])


def test_a_part_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="mine has no such part: dynamo_blocks"):
        varied(TEXT, {"dynamo_blocks.overlap_credit": 1})


def test_a_grid_has_every_combination_the_first_values_first() -> None:
    assert list(grid({"a.x": (1, 2), "b.y": (3, 4)})) == [
        {"a.x": 1, "b.y": 3},
        {"a.x": 1, "b.y": 4},
        {"a.x": 2, "b.y": 3},
        {"a.x": 2, "b.y": 4},
    ]
    assert list(grid({})) == [{}]


def test_settings_are_told_without_the_parts_they_stand_in_but_for_weights() -> None:
    settings = {"prefix_affinity.max_penalty_seconds": 18.0, "longest_match.trusting": True, "prefill.weight": 0.5}
    assert told(settings) == "max_penalty_seconds 18, trusting True, prefill.weight 0.5"
    assert told({}) == ""
