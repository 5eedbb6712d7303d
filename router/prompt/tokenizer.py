"""Text to token ids with the model's own tokenizer.json.

`fastokens` where it loads the file and gives the same ids as Hugging Face `tokenizers` on a set of awkward texts at
start-up; `tokenizers` itself otherwise. Both are wrapped alike, and both are behind the segment cache, so a text seen
before costs little with either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import fastokens
import tokenizers

from router.prompt.awkward import awkward_texts
from router.prompt.blocks import TokenIds, pack_tokens
from router.prompt.cuts import Cuts, find_cuts
from router.prompt.lru import Lru

# Seconds per byte of text never seen before, measured on source code and prose, rounded up. They decide only where the
# work is done, in line or in the pool.
FAST_SECONDS_PER_BYTE = 6e-9
REFERENCE_SECONDS_PER_BYTE = 1e-6


class Encoder(Protocol):
    """Text to ids. Special tokens inside the text count as such; none are added. Thread-safe."""

    seconds_per_byte: float

    def encode(self, text: str) -> TokenIds: ...


class FastEncoder:
    """fastokens, with its own cache of the segments between special tokens."""

    seconds_per_byte = FAST_SECONDS_PER_BYTE

    def __init__(self, tokenizer: fastokens.Tokenizer, cache_bytes: int) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.enable_segment_cache(cache_bytes)

    def encode(self, text: str) -> TokenIds:
        return TokenIds(self._tokenizer.encode_batch_flat([text], add_special_tokens=False)[0])


class ReferenceEncoder:
    """Hugging Face tokenizers, remembering the ids of each segment where segments are independent of each other."""

    seconds_per_byte = REFERENCE_SECONDS_PER_BYTE

    def __init__(self, tokenizer: tokenizers.Tokenizer, cuts: Cuts | None, cache_bytes: int) -> None:
        self._tokenizer = tokenizer
        self._cuts = cuts
        self._segments: Lru[str, TokenIds] = Lru(cache_bytes)
        tokenizer.no_truncation()
        tokenizer.no_padding()

    def encode(self, text: str) -> TokenIds:
        if self._cuts is None:
            return self._encode(text)
        edges = [0, *(at for at in self._cuts.before_specials(text) if at > 0), len(text)]
        return TokenIds(b"".join(self._segment(text[a:b]) for a, b in pairwise(edges)))

    def _segment(self, text: str) -> TokenIds:
        ids = self._segments.get(text)
        if ids is None:
            ids = self._encode(text)
            self._segments.put(text, ids, len(ids) + 4 * len(text))
        return ids

    def _encode(self, text: str) -> TokenIds:
        return pack_tokens(self._tokenizer.encode(text, add_special_tokens=False).ids)


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """A tokenizer.json ready for use. `prefix` and `suffix` are what add_special_tokens puts around a text."""

    encoder: Encoder
    cuts: Cuts | None
    prefix: TokenIds
    suffix: TokenIds
    note: str  # which implementation, and why not the fast one


def load_tokenizer(path: Path, cache_bytes: int = 64 << 20) -> LoadedTokenizer:
    """Load a tokenizer.json. Raises OSError or ValueError where neither implementation can."""
    written = path.read_bytes()
    try:
        reference = tokenizers.Tokenizer.from_buffer(written)
        cuts = find_cuts(written)
    except Exception as error:
        # The binding raises bare Exception for whatever it does not understand.
        raise ValueError(
            f"{path}: not a tokenizer.json that tokenizers {tokenizers.__version__} loads: {error}"
        ) from error
    reference.no_truncation()
    reference.no_padding()
    prefix, suffix = _surroundings(reference)
    fast, note = _load_fast(path, reference, cache_bytes)
    encoder = fast or ReferenceEncoder(reference, cuts, cache_bytes)
    return LoadedTokenizer(encoder, cuts, prefix, suffix, note)


def _load_fast(path: Path, reference: tokenizers.Tokenizer, cache_bytes: int) -> tuple[FastEncoder | None, str]:
    try:
        encoder = FastEncoder(fastokens.Tokenizer.from_file(str(path)), cache_bytes)
    except Exception as error:  # the same: what it cannot load it says in any type
        return None, f"tokenizers (fastokens: {error})"
    specials = [token.content for token in reference.get_added_tokens_decoder().values()]
    difference = first_difference(encoder, reference, awkward_texts(specials))
    if difference is not None:
        return None, f"tokenizers (fastokens differs on {difference[:40]!r})"
    return encoder, "fastokens"


def first_difference(encoder: Encoder, reference: tokenizers.Tokenizer, texts: Sequence[str]) -> str | None:
    """The first text on which an encoder and the reference part, or None."""
    for text in texts:
        if encoder.encode(text) != pack_tokens(reference.encode(text, add_special_tokens=False).ids):
            return text
    return None


def _surroundings(reference: tokenizers.Tokenizer) -> tuple[TokenIds, TokenIds]:
    """What add_special_tokens puts before and after a text."""
    bare = reference.encode("x", add_special_tokens=False).ids
    dressed = reference.encode("x", add_special_tokens=True).ids
    for before in range(len(dressed) - len(bare) + 1):
        if dressed[before : before + len(bare)] == bare:
            return pack_tokens(dressed[:before]), pack_tokens(dressed[before + len(bare) :])
    raise ValueError("its post-processor changes the text's own tokens")
