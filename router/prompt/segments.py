"""Token ids of texts that begin like earlier texts.

A chat turn repeats everything said before and adds a little. The text is read in chunks of CHUNK_CHARS; each chunk is
known by a 128-bit digest chained over all chunks before it, and remembers the tokens up to the last sound cut inside it
(see cuts.py). So a seen beginning costs one digest and one lookup a chunk, and only what follows is tokenized.

Why it is exact: everything up to a cut depends on the text up to the cut, and on the few characters after it that could
make the special token there a longer one. A cut is taken only where those characters lie inside the chunk, so equal
digests mean equal tokens. The cut before which the rest is tokenized is a place where pieces are independent.
"""

from __future__ import annotations

from xxhash import xxh3_128_digest

from router.prompt.blocks import TokenIds
from router.prompt.cuts import Cuts
from router.prompt.lru import Lru
from router.prompt.tokenizer import Encoder

CHUNK_CHARS = 8192


class SegmentCache:
    """An encoder that remembers beginnings. Thread-safe. Without cuts it only passes texts on."""

    def __init__(self, encoder: Encoder, cuts: Cuts | None, cache_bytes: int = 128 << 20) -> None:
        self._encoder = encoder
        self._cuts = cuts
        self._chunks: Lru[bytes, tuple[int, TokenIds]] = Lru(cache_bytes)
        self.seconds_per_byte = encoder.seconds_per_byte

    def encode(self, text: str) -> TokenIds:
        """The ids of the whole text, as the encoder gives them."""
        if self._cuts is None or len(text) < CHUNK_CHARS:
            return self._encoder.encode(text)
        pieces: list[TokenIds] = []
        at = 0  # a sound cut: the tokens of text[:at] are in pieces
        digest = b""
        for chunk_end in range(CHUNK_CHARS, len(text) + 1, CHUNK_CHARS):
            chunk = text[chunk_end - CHUNK_CHARS : chunk_end]
            digest = xxh3_128_digest(digest + chunk.encode("utf-8", "surrogatepass"))
            remembered = self._chunks.get(digest)
            if remembered is None:
                remembered = self._tokenize_chunk(text, at, chunk_end, self._cuts)
                self._chunks.put(digest, remembered, len(remembered[1]))
            at, tokens = remembered
            pieces.append(tokens)
        pieces.append(self._encoder.encode(text[at:]))
        return TokenIds(b"".join(pieces))

    def _tokenize_chunk(self, text: str, at: int, chunk_end: int, cuts: Cuts) -> tuple[int, TokenIds]:
        """The last cut whose token is settled within the chunk, and the tokens from `at` to it."""
        settled = chunk_end - cuts.longest
        cut = max((place for place in cuts.before_specials(text[:chunk_end], at) if place <= settled), default=at)
        return cut, self._encoder.encode(text[at:cut])
