"""Each cause leaves its own evidence; together they are exclusive and total."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.index.causes import MEANINGS, Cause, Evidence, cause_of

SIZE = 16
# Twelve blocks were predicted of twenty; the events are whole, and the request's own blocks have come back.
LESS = Evidence(
    SIZE, reported_tokens=4 * SIZE, error_blocks=-8, full_blocks=20, told_block_size_tokens=SIZE, held_blocks=20
)
NOTHING = replace(LESS, reported_tokens=0, error_blocks=-12)
# Four were predicted, twelve reported; the index holds the four.
MORE = replace(LESS, reported_tokens=12 * SIZE, error_blocks=8, held_blocks=4)
ONE_LESS = replace(LESS, reported_tokens=11 * SIZE, error_blocks=-1)
ONE_MORE = replace(LESS, reported_tokens=13 * SIZE, error_blocks=1, held_blocks=12)

CASES = [
    ("the events are cut otherwise", replace(MORE, told_block_size_tokens=32), Cause.BLOCK_SIZE),
    ("the answer is no whole number of blocks", replace(LESS, reported_tokens=40), Cause.BLOCK_SIZE),
    ("the story began anew", replace(NOTHING, begun_anew=True), Cause.RESTART),
    ("it began anew after a gap", replace(NOTHING, begun_anew=True, lossy=True), Cause.EVENT_LOSS),
    ("a counter fell", replace(MORE, counters_fell=True), Cause.RESTART),
    ("a removal was announced since", replace(LESS, removed=True), Cause.EVICTION_RACE),
    ("no events, so evictions show in answers only", replace(LESS, heard=False), Cause.EVICTION_RACE),
    ("another tenant's blocks", replace(NOTHING, hides_salts=True), Cause.SALT),
    ("the stream lost something", replace(LESS, lossy=True), Cause.EVENT_LOSS),
    ("its own blocks never came back", replace(LESS, held_blocks=12), Cause.TEMPLATE_DRIFT),
    ("nothing was left, and it was all computed anew", NOTHING, Cause.RESTART),
    ("nothing was left, and nothing said", replace(NOTHING, held_blocks=12, announced=False), Cause.RESTART),
    (
        "the same process said nothing",
        replace(NOTHING, held_blocks=12, announced=False, counters_grew=True),
        Cause.EVENT_LOSS,
    ),
    ("something was left by a process that is another", replace(LESS, restarted=True), Cause.RESTART),
    ("something was left", LESS, Cause.EVENT_LOSS),
    ("the index holds them by now", replace(MORE, held_blocks=20), Cause.EVENT_IN_FLIGHT),
    ("they are held without the salt", replace(MORE, plain_blocks=20), Cause.SALT),
    ("a lossy stream knows less", replace(MORE, lossy=True), Cause.EVENT_LOSS),
    ("nothing was announced", replace(MORE, announced=False), Cause.EVENT_LOSS),
    ("nothing was announced by another process", replace(MORE, announced=False, restarted=True), Cause.RESTART),
    ("events flow, but not of our tokens", MORE, Cause.TEMPLATE_DRIFT),
    ("its own blocks were removed at once", replace(MORE, removed=True), Cause.UNKNOWN),
    ("no events and more than guessed", replace(MORE, heard=False), Cause.UNKNOWN),
    ("always one less", replace(ONE_LESS, usual=True), Cause.ENGINE_HABIT),
    ("always one more", replace(ONE_MORE, usual=True), Cause.ENGINE_HABIT),
    ("once one less", ONE_LESS, Cause.UNKNOWN),
    ("once one more", ONE_MORE, Cause.UNKNOWN),
]


@pytest.mark.parametrize(("evidence", "cause"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_evidence_of_each_cause_names_it(evidence: Evidence, cause: Cause) -> None:
    assert cause_of(evidence) is cause


def test_every_cause_is_told_in_words() -> None:
    assert set(MEANINGS) == set(Cause)


blocks = st.integers(0, 40)
evidences = st.builds(
    Evidence,
    block_size_tokens=st.just(SIZE),
    reported_tokens=st.integers(0, 40 * SIZE),
    error_blocks=st.integers(-40, 40).filter(bool),
    full_blocks=blocks,
    heard=st.booleans(),
    told_block_size_tokens=st.sampled_from((None, SIZE, 2 * SIZE)),
    held_blocks=blocks,
    **{
        name: st.booleans()
        for name in (
            *("begun_anew", "counters_fell", "counters_grew", "removed", "announced", "lossy", "usual"),
            *("hides_salts", "restarted"),
        )
    },
    plain_blocks=blocks,
)


@settings(deadline=None)
@given(evidences)
def test_every_miss_has_exactly_one_cause_and_it_is_not_that_of_counters(evidence: Evidence) -> None:
    assert cause_of(evidence) in set(Cause) - {Cause.UNREPORTED}


@settings(deadline=None)
@given(evidences.map(lambda one: replace(one, told_block_size_tokens=SIZE, begun_anew=False, counters_fell=False)))
def test_who_was_overtaken_by_news_is_never_accused(evidence: Evidence) -> None:
    whole = replace(evidence, reported_tokens=evidence.reported_tokens // SIZE * SIZE, heard=True, lossy=False)
    late = replace(whole, removed=True) if whole.error_blocks < 0 else replace(whole, held_blocks=40, plain_blocks=0)
    assert cause_of(late) in (Cause.EVICTION_RACE, Cause.EVENT_IN_FLIGHT, Cause.ENGINE_HABIT)
