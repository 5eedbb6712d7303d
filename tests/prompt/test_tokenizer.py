"""Ids of the encoders against Hugging Face tokenizers, the reference, on fuzzed texts and rendered conversations."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tokenizers

from router.prompt.awkward import awkward_texts
from router.prompt.blocks import pack_tokens, unpack_tokens
from router.prompt.local import LocalTokens
from router.prompt.template import Chat
from router.prompt.tokenizer import FastEncoder, ReferenceEncoder, load_tokenizer
from tests.prompt.makers import folder, fuzzed_conversation, fuzzed_text, loaded, shipped

SHARED = ("qwen3", "deepseek_v3", "mistral_v3")
TEXTS = 2000
CONVERSATIONS = 200


def reference(path: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))


def specials(tokenizer: tokenizers.Tokenizer) -> list[str]:
    """The model's special tokens, the common ones of chats first, and some of other families."""
    own = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    ours = [content for content in own if "place" not in content and "control" not in content.lower()]
    return [*ours[:40], "<|im_end|>", "</s>", "[INST]", "<think>"]


def assert_same_ids(local: LocalTokens, tokenizer: tokenizers.Tokenizer, texts: list[str]) -> None:
    expected = tokenizer.encode_batch(texts, add_special_tokens=False)
    for text, encoding in zip(texts, expected, strict=True):
        assert list(unpack_tokens(local.encoder.encode(text))) == encoding.ids, text


def rendered(local: LocalTokens, chance: random.Random, names: list[str], conversations: int) -> list[str]:
    """Conversations as the model sees them."""
    assert local.template is not None
    texts = []
    for _ in range(conversations):
        messages = fuzzed_conversation(chance, names)
        texts.append(local.template.render(Chat(messages)))
    return texts


def grown(local: LocalTokens, chance: random.Random, names: list[str]) -> list[str]:
    """One long conversation after each of its turns: every text begins like the one before."""
    assert local.template is not None
    messages = [m for _ in range(6) for m in fuzzed_conversation(chance, names)[-1:]]
    turns = [
        {"role": role, "content": m["content"] * 40}
        for role, m in zip(("user", "assistant") * 3, messages, strict=True)
    ]
    return [local.template.render(Chat(turns[:count])) for count in (1, 3, 5)]


@pytest.mark.shared
@pytest.mark.parametrize("name", SHARED)
def test_ids_equal_the_references_on_fuzzed_texts_and_conversations(name: str) -> None:
    path = folder(name)
    local, tokenizer = loaded(path), reference(path)
    chance = random.Random(2026)
    names = specials(tokenizer)
    assert_same_ids(local, tokenizer, awkward_texts(names))
    assert_same_ids(local, tokenizer, [fuzzed_text(chance, names) for _ in range(TEXTS)])
    assert_same_ids(local, tokenizer, rendered(local, chance, names, CONVERSATIONS))
    for _ in range(3):
        assert_same_ids(local, tokenizer, grown(local, chance, names))


def test_ids_equal_the_references_for_the_tokenizer_that_is_shipped() -> None:
    path = shipped()
    local, tokenizer = loaded(path), reference(path)
    chance = random.Random(7)
    names = specials(tokenizer)
    assert_same_ids(local, tokenizer, awkward_texts(names))
    assert_same_ids(local, tokenizer, [fuzzed_text(chance, names) for _ in range(300)])
    assert_same_ids(local, tokenizer, rendered(local, chance, names, 30))
    for _ in range(5):
        assert_same_ids(local, tokenizer, grown(local, chance, names))


def test_the_fast_tokenizer_is_used_where_it_proves_equal() -> None:
    found = load_tokenizer(shipped() / "tokenizer.json")
    assert isinstance(found.encoder, FastEncoder)
    assert found.note == "fastokens"


@pytest.mark.shared
def test_what_the_fast_tokenizer_refuses_falls_back_to_the_reference() -> None:
    found = load_tokenizer(folder("mistral_v3") / "tokenizer.json")
    assert isinstance(found.encoder, ReferenceEncoder)
    assert "Metaspace" in found.note
    assert found.prefix == pack_tokens([1])
    assert found.suffix == b""


def test_a_file_that_is_no_tokenizer_is_a_value_error_naming_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")
