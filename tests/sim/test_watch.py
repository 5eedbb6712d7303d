from __future__ import annotations

from itertools import count, pairwise

from hypothesis import given
from hypothesis import strategies as st

from router.sim.watch import Watch

STREAM = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"caf\xc3\xa9 "}}]}\n\n'
    b'data: {"choices":[{"text":"au lait"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
    b"data: [DONE]\n\n"
)


def ticking() -> Watch:
    """Its clock moves by a second each time it is read."""
    seconds = count()
    return Watch(lambda: float(next(seconds)))


@given(st.sets(st.integers(1, len(STREAM) - 1)))
def test_a_reply_reads_the_same_however_it_is_cut(cuts: set[int]) -> None:
    watch = ticking()
    edges = [0, *sorted(cuts), len(STREAM)]
    for begin, end in pairwise(edges):
        watch.feed(STREAM[begin:end])
    assert watch.fault(200) is None
    assert watch.text == "caf\N{LATIN SMALL LETTER E WITH ACUTE} au lait"
    assert (watch.first_token_seconds, watch.inter_token_seconds) == (1.0, 1.0), "an empty content is no token"
    assert watch.usage is not None
    assert (watch.usage.prompt_tokens, watch.usage.cached_tokens) == (9, 4)


def test_a_stream_without_its_end_is_at_fault() -> None:
    watch = ticking()
    watch.feed(STREAM.removesuffix(b"data: [DONE]\n\n"))
    assert watch.fault(200) == "the stream ended without [DONE]"
