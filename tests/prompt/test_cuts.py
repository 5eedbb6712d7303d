from __future__ import annotations

import json
from typing import Any

from router.prompt.cuts import Cuts, find_cuts


def file(*tokens: dict[str, Any]) -> bytes:
    return json.dumps({"added_tokens": tokens, "model": {"vocab": {}}}).encode()


def test_texts_are_cut_before_their_special_tokens_the_longest_first() -> None:
    assert Cuts(["<a>", "<a><b>"]).before_specials("x<a><b>y<a>") == [1, 8]
    assert Cuts(["<a>", "[b]"]).before_specials("<a>[b]x<a", 3) == [3]


def test_only_tokens_that_match_the_raw_text_are_cuts() -> None:
    cuts = find_cuts(file({"content": "<a>", "normalized": True}, {"content": "<b>", "normalized": False}))
    assert cuts is not None
    assert cuts.before_specials("<a><b>") == [3]
    assert find_cuts(file({"content": "<a>", "normalized": True})) is None
    assert find_cuts(file()) is None
    assert find_cuts(b"{}") is None


def test_a_token_that_takes_its_neighbours_forbids_all_cuts() -> None:
    plain = {"content": "<b>", "normalized": False}
    for flag in ("lstrip", "rstrip", "single_word"):
        assert find_cuts(file(plain, {"content": "<a>", "normalized": True, flag: True})) is None
