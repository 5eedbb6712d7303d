"""A policy file is held against the tables, and every fault in it is told at once."""

from __future__ import annotations

import pytest

from router.errors import ConfigError
from router.policy.filters import BoundedLoad, NotOverloaded
from router.policy.pickers import LowestCost, RoundRobin
from router.policy.pipeline import IndexSource
from router.policy.reading import parse
from router.policy.scorers import Prefill, QueueWait

HEAD = "name: mine\ndescription: when nothing else will do\n"
RANDOM = HEAD + "picker: random\n"


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "mine.yaml")
    return caught.value.faults


def test_a_policy_is_its_parts_with_their_parameters() -> None:
    policy = parse(
        HEAD
        + """
filters: [not_overloaded, bounded_load: {factor: 2}]
scorers: {queue_wait: {}, prefill: {weight: 2}}
picker: {lowest_cost: {near_seconds: 0.5}}
""",
        "mine.yaml",
    )
    assert (policy.name, policy.description) == ("mine", "when nothing else will do")
    assert [part.filter for part in policy.filters] == [NotOverloaded(), BoundedLoad(factor=2)]
    assert [(term.name, term.scorer, term.weight) for term in policy.terms] == [
        ("queue_wait", QueueWait(), 1.0),
        ("prefill", Prefill(), 2.0),
    ]
    assert policy.picker == LowestCost(near_seconds=0.5)


def test_a_policy_may_be_a_picker_alone() -> None:
    policy = parse(HEAD + "picker: round_robin", "mine.yaml")
    assert (policy.filters, policy.terms, policy.picker) == ((), (), RoundRobin())


def test_a_policy_may_say_that_its_authors_feed_it_an_approximate_index() -> None:
    assert parse(RANDOM, "mine.yaml").index is IndexSource.EVENTS
    assert parse(RANDOM + "index: approximate", "mine.yaml").index is IndexSource.APPROXIMATE


def test_a_weight_of_zero_switches_a_scorer_off() -> None:
    policy = parse(HEAD + "scorers: {prefill: {weight: 0}, queue_wait:}\npicker: lowest_cost", "mine.yaml")
    assert [term.name for term in policy.terms] == ["queue_wait"]


def test_every_fault_is_told_at_once() -> None:
    told = faults(
        """
nmae: mine
description: ""
filters: [bounded_lod, bounded_load: {factor: 0.5, fctor: 1}, {a: 1, b: 2}]
scorers: {queue_wiat: {}, prefill: {weight: -1}, open_requests: {seconds_each: "1"}}
picker: lowest
"""
    )
    assert told == [
        "mine.yaml: nmae: is not a key of a policy. Did you mean 'name'? "
        "Known: description, filters, hold, index, name, picker, scorers, split.",
        "mine.yaml: name: is None, but must be a text of at least one letter. Add `name: ...`.",
        "mine.yaml: description: is '', but must be a text of at least one letter. Add `description: ...`.",
        "mine.yaml: filters[0]: 'bounded_lod' is not a filter. Did you mean 'bounded_load'? "
        "Known: bounded_load, exploit_or_explore, first_holder, longest_match, not_overloaded, prefix_affinity, "
        "session_home, two_homes.",
        "mine.yaml: filters[1].factor: is 0.5, but must be 1 or more. The default is 1.25.",
        "mine.yaml: filters[1].fctor: is not a parameter of bounded_load. Did you mean 'factor'? Known: factor.",
        "mine.yaml: filters[2]: is {'a': 1, 'b': 2}, but must be NAME or {NAME: {PARAMETER: VALUE}}.",
        "mine.yaml: scorers.queue_wiat: 'queue_wiat' is not a scorer. Did you mean 'queue_wait'? "
        "Known: cache_in_use, cache_use, dynamo_blocks, open_requests, prefill, prefill_times_batch, "
        "prefix_miss, queue_rank, queue_wait, token_load, waited.",
        "mine.yaml: scorers.prefill.weight: is -1, but cannot be negative. Use 0 to switch the scorer off.",
        "mine.yaml: scorers.open_requests.seconds_each: is '1', but must be a number. The default is 0.0005.",
        "mine.yaml: picker: 'lowest' is not a picker. Did you mean 'lowest_cost'? "
        "Known: exact_lowest, lowest_cost, power_of_two, random, rendezvous, round_robin.",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: [1, 2", "not YAML at line 1, column 9: expected ',' or ']'"),
        ("a: b\n  c: d", "not YAML at line 2, column 4: mapping values are not allowed here"),
        ("a: \x00", "not YAML: unacceptable character"),
        ("", "must be a mapping with the keys name, description"),
        ("- a", "must be a mapping with the keys name, description"),
        (HEAD, "picker: is missing. Add `picker: NAME`, one of: lowest_cost, "),
        (HEAD + "picker: lowest_cost", "scorers: has nothing for the picker to compare. Add at least one of: "),
        (HEAD + "picker: [random]", "picker: is ['random'], but must be NAME or"),
        (RANDOM + "filters: bounded_load", "filters: must be a list."),
        (RANDOM + "filters: [longest_match: {min_match_ratio: 30}]", "is 30, but must be between 0 and 1."),
        (RANDOM + "filters: [longest_match: {imbalance_requests: 1.5}]", "is 1.5, but must be a whole number"),
        (RANDOM + "filters: [bounded_load: {factor: yes}]", "filters[0].factor: is True, but must be a number."),
        (RANDOM + "index: guesses", "index: is 'guesses', but must be one of: events, approximate."),
        (RANDOM + "scorers: [prefill]", "scorers: must map scorers to their parameters."),
        (RANDOM + "scorers: {prefill: 3}", "scorers.prefill: is 3, but must map parameters"),
        (RANDOM + "scorers: {prefill: {weight: x}}", "scorers.prefill.weight: is 'x', but must"),
        (RANDOM + "scorers: {prefill: {weight: .nan}}", "scorers.prefill.weight: is nan, but"),
        (RANDOM + "picker: round_robin", "picker: stands twice, again at line 4."),
        (HEAD + "picker: &a {random: {x: *a}}", "picker.x: is not a parameter of random. It has none."),
    ],
)
def test_a_fault_names_file_key_and_remedy(text: str, fault: str) -> None:
    (told,) = faults(text)
    assert told.startswith("mine.yaml: ")
    assert fault in told


def test_what_is_written_twice_is_a_fault_since_yaml_would_drop_the_first() -> None:
    told = faults(HEAD + "picker: lowest_cost\nscorers:\n  prefill: {weight: 2}\n  prefill: {}\n")
    assert told == ["mine.yaml: scorers.prefill: stands twice, again at line 6. Remove one of them."]
