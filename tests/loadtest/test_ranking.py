from __future__ import annotations

from random import Random

import pytest

from loadtest.ranking import Accord, order, pairs


def run(mean: float, seed: int, spread: float = 1.0) -> dict[str, float]:
    """One policy's figure for each of 400 requests."""
    chance = Random(seed)
    return {str(number): mean + spread * chance.gauss(0.0, 1.0) for number in range(400)}


@pytest.mark.parametrize(
    ("virtual", "http", "accord"),
    [
        ((1.0, 2.0), (3.0, 5.0), Accord.SAME),
        ((1.0, 1.0), (2.0, 2.0), Accord.SAME),
        ((1.0, 2.0), (3.0, 3.0), Accord.UNDECIDED),
        ((1.0, 2.0), (5.0, 3.0), Accord.OPPOSITE),
    ],
)
def test_worlds_disagree_only_where_each_is_sure_of_the_opposite(
    virtual: tuple[float, float], http: tuple[float, float], accord: Accord
) -> None:
    (pair,) = pairs(
        {"a": [run(virtual[0], 1), run(virtual[0], 5)], "b": [run(virtual[1], 2), run(virtual[1], 6)]},
        {"a": [run(http[0], 3)], "b": [run(http[1], 4)]},
    )
    assert (pair.first, pair.second, pair.accord) == ("a", "b", accord)


def test_every_two_policies_are_a_pair() -> None:
    world = {name: [run(mean, seed)] for seed, (name, mean) in enumerate({"a": 3.0, "b": 1.0, "c": 2.0}.items())}
    assert [(pair.first, pair.second) for pair in pairs(world, world)] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert order(world) == ["b", "c", "a"]


def test_what_one_world_did_not_answer_is_left_out_of_its_pairs_alone() -> None:
    whole = {"a": [run(1.0, 1)], "b": [run(2.0, 2)]}
    torn = {"a": [dict(list(whole["a"][0].items())[10:])], "b": whole["b"]}
    (pair,) = pairs(whole, torn)
    assert (pair.virtual.requests, pair.http.requests) == (400, 390)
