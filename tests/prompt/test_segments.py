from __future__ import annotations

import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from router.prompt.blocks import TokenIds, pack_tokens
from router.prompt.cuts import Cuts
from router.prompt.segments import CHUNK_CHARS, SegmentCache
from tests.prompt.makers import loaded, shipped

SPECIALS = ["<s>", "<s><t>", "[x]"]
CUTS = Cuts(SPECIALS)


class Stretchy:
    """An encoder for which every run between special tokens counts as one whole, and the very beginning apart."""

    seconds_per_byte = 1e-9

    def __init__(self) -> None:
        self.encoded_characters = 0
        self._split = re.compile("(" + "|".join(map(re.escape, sorted(SPECIALS, key=len, reverse=True))) + ")")

    def encode(self, text: str) -> TokenIds:
        self.encoded_characters += len(text)
        ids = []
        for place, piece in enumerate(self._split.split(text)):
            if piece:
                ids.append(hash((piece, place == 0)) % 2**32)
        return pack_tokens(ids)


def text_of(seed: int, pieces: int) -> str:
    """A text whose special tokens stand anywhere, also across the ends of chunks."""
    chance = random.Random(seed)
    return "".join(chance.choice([*SPECIALS, "a" * chance.randint(1, 900), "<s", "é<"]) for _ in range(pieces))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200), st.integers(0, 3)), min_size=1, max_size=6))
def test_a_text_has_the_same_ids_whatever_was_seen_before(texts: list[tuple[int, int, int]]) -> None:
    cache = SegmentCache(Stretchy(), CUTS)
    for seed, pieces, tail in texts:
        text = text_of(seed, pieces) + text_of(tail, 3)
        assert cache.encode(text) == Stretchy().encode(text)


def test_a_token_that_the_next_character_makes_longer_is_no_settled_cut() -> None:
    cache = SegmentCache(Stretchy(), CUTS)
    beginning = "a" * (CHUNK_CHARS - 3) + "<s>"
    for ending in ("b" * 50, "<t>" + "b" * 50):
        assert cache.encode(beginning + ending) == Stretchy().encode(beginning + ending)


def test_a_seen_beginning_is_not_tokenized_again() -> None:
    encoder = Stretchy()
    cache = SegmentCache(encoder, CUTS)
    text = "".join(f"<s>{'a' * 500}" for _ in range(200))
    cache.encode(text)
    seen = encoder.encoded_characters
    cache.encode(text + "<s>one more turn")
    assert encoder.encoded_characters - seen < 2 * CHUNK_CHARS


def test_a_text_without_special_tokens_is_read_whole() -> None:
    cache = SegmentCache(Stretchy(), CUTS)
    assert cache.encode("a" * 50_000) == Stretchy().encode("a" * 50_000)


def test_without_cuts_texts_are_passed_on() -> None:
    text = text_of(1, 200)
    assert SegmentCache(Stretchy(), None).encode(text) == Stretchy().encode(text)


def test_a_cache_without_room_still_tells_the_truth() -> None:
    text = text_of(2, 300)
    assert SegmentCache(Stretchy(), CUTS, cache_bytes=0).encode(text) == Stretchy().encode(text)


def test_a_growing_conversation_has_the_ids_of_the_plain_tokenizer() -> None:
    local, plain = loaded(shipped()), loaded(shipped())
    text = ""
    for turn in range(40):
        text += f"<|im_start|>user\nQuestion {turn}: {'why does a é cache forget? ' * 25}<|im_end|>\n"
        assert local.encoder.encode(text) == SegmentCache(plain.encoder, None).encode(text)
