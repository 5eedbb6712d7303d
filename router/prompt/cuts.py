"""Where a text may be cut so that its pieces, tokenized apart, give the ids of the whole.

A tokenizer takes the special tokens out of the raw text before it normalizes or splits anything, and handles each run
between them by itself. So the place just before such a token is a sound cut: the piece that follows begins with the
token, which also keeps tokenizers that treat the very beginning of a text apart (Metaspace, "first") from seeing a
beginning where there is none. It holds only for tokens that match the raw text (normalized false) and look neither at
neighbouring spaces nor at word boundaries; where a tokenizer has one of the others there are no cuts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec


class Cuts:
    """The special tokens of one tokenizer before which its texts may be cut."""

    def __init__(self, contents: Sequence[str]) -> None:
        # The matcher takes the leftmost and then the longest; an alternation tries its branches in order.
        self._pattern = re.compile("|".join(re.escape(content) for content in sorted(contents, key=len, reverse=True)))
        self.longest = max(map(len, contents))

    def before_specials(self, text: str, start: int = 0) -> list[int]:
        """Offsets of the special tokens found from `start` on, which must itself be 0 or a cut."""
        return [match.start() for match in self._pattern.finditer(text, start)]


class _AddedToken(msgspec.Struct):
    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


class _TokenizerFile(msgspec.Struct):
    added_tokens: list[_AddedToken] = []


def find_cuts(tokenizer_json: bytes) -> Cuts | None:
    """The cuts of a tokenizer.json, or None where there are none to be had."""
    added = msgspec.json.decode(tokenizer_json, type=_TokenizerFile).added_tokens
    raw = [token for token in added if not token.normalized and token.content]
    if not raw or any(token.single_word or token.lstrip or token.rstrip for token in added):
        return None
    return Cuts([token.content for token in raw])
