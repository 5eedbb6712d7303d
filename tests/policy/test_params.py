"""Parameters declare their defaults and bounds where they are used."""

from __future__ import annotations

import dataclasses

import pytest

from router.policy.filters import FILTERS, BoundedLoad
from router.policy.params import fault_of, params_of
from router.policy.pickers import PICKERS, LowestCost
from router.policy.scorers import SCORERS


def test_a_part_is_built_with_the_declared_defaults() -> None:
    assert BoundedLoad() == BoundedLoad(factor=1.25)


def test_only_parameters_count_as_such() -> None:
    assert list(params_of(LowestCost)) == ["near_ratio", "near_seconds"]


@pytest.mark.parametrize("part", [*FILTERS.values(), *SCORERS.values(), *PICKERS.values()])
def test_every_default_on_the_shelf_lies_within_its_bounds(part: type) -> None:
    for declared in params_of(part).values():
        assert fault_of(declared, declared.default) is None
        assert declared.default is not dataclasses.MISSING
