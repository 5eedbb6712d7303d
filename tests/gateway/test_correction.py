"""Cached tokens of a taker that counts all it was given, put right."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from router.gateway.correction import StreamCorrection, corrected

USAGE = b'"usage":{"prompt_tokens":101,"prompt_tokens_details":{"cached_tokens":101,"created_cache_tokens":null}}'
STREAM = (
    b'data: {"choices":[{"delta":{"content":"say \\"cached_tokens\\": 7"}}]}\n\n'
    b'data: {"choices":[],' + USAGE + b"}\n\ndata: [DONE]\n\n"
)


def test_the_donors_figure_takes_the_place_of_the_takers() -> None:
    assert (
        corrected(b"{" + USAGE + b"}", lambda: 64) == b"{" + USAGE.replace(b'tokens":101,"cr', b'tokens":64,"cr') + b"}"
    )


def test_text_that_talks_of_cached_tokens_is_left_alone() -> None:
    said = b'{"choices":[{"text":"\\"cached_tokens\\": 5, \\"cached_tokens\\":6"}]}'
    assert corrected(said, lambda: 64) == said


def test_while_the_donor_has_told_nothing_nothing_is_changed() -> None:
    assert corrected(USAGE, lambda: None) == USAGE


def test_null_stays_null() -> None:
    assert corrected(b'{"cached_tokens":null}', lambda: 64) == b'{"cached_tokens":null}'


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_stream_is_corrected_wherever_it_is_cut(cuts: list[int]) -> None:
    correction = StreamCorrection(lambda: 64)
    places = [0, *sorted(cuts), len(STREAM)]
    passed = [correction.feed(STREAM[a:b]) for a, b in pairwise(places)]
    whole = b"".join(passed) + correction.finish()
    assert whole == STREAM.replace(b'"cached_tokens":101', b'"cached_tokens":64')


def test_what_ends_without_a_blank_line_is_passed_on_at_the_end() -> None:
    correction = StreamCorrection(lambda: 1)
    assert correction.feed(b"data: half") == b""
    assert correction.finish(b" of it") == b"data: half of it"
