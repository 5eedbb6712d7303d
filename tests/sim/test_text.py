"""Text to tokens: the memory of stretches changes nothing, and answers survive the way back."""

from __future__ import annotations

import json
from pathlib import Path

import fastokens
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.sim.answers import answer, word_tokens
from router.sim.text import SHIPPED_TOKENIZER, ChatTemplate, TextError, Tokens

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "tokenizers"
OTHERS = [
    pytest.param(SHARED / name, id=name, marks=pytest.mark.shared) for name in ("qwen3", "deepseek_v3", "mistral_v3")
]
ALL = [pytest.param(SHIPPED_TOKENIZER, id="shipped"), *OTHERS]
TEXTS = [
    "def f(x):\n    return x + 1\n\n\n# naïve café, 東京 and 🙂\tend  ",
    "<|im_start|>user\n  hello <|im_end|>\n<|im_start|>assistant\n",
    "<tool_call>\n{}\n</tool_call><|im_end|> <|im_end|>",
    " ",
    "1234 it's\r\n",
]


def tokens(directory: Path, remembered_bytes: int = 1 << 20) -> Tokens:
    if not directory.exists():
        pytest.skip(f"{directory} is not part of the repository")
    return Tokens(directory, remembered_bytes=remembered_bytes)


@pytest.mark.parametrize("directory", ALL)
@pytest.mark.parametrize("framed", [False, True])
def test_stretch_by_stretch_equals_the_whole(directory: Path, framed: bool) -> None:
    ours = tokens(directory)
    for text in [*TEXTS, "".join(TEXTS), *TEXTS]:
        assert ours.encode(text, framed=framed) == ours.tokenizer.encode(text, add_special_tokens=framed).ids


SHIPPED = Tokens(SHIPPED_TOKENIZER, remembered_bytes=4096)
pieces = st.lists(st.sampled_from([*TEXTS, "<|im_end|>", "<|im_start|>", "\n"]) | st.text(max_size=30), max_size=8)


@settings(max_examples=100, deadline=None)
@given(pieces)
def test_a_small_memory_forgets_without_changing_a_token(parts: list[str]) -> None:
    text = "".join(parts)
    assert SHIPPED.encode(text) == SHIPPED.tokenizer.encode(text, add_special_tokens=False).ids


def test_the_shipped_tokenizer_is_small_and_reads_the_same_in_fastokens() -> None:
    assert SHIPPED.vocabulary_tokens <= 8192
    fast = fastokens.Tokenizer.from_file(str(SHIPPED_TOKENIZER / "tokenizer.json"))
    for text in [*TEXTS, Path(json.__file__).read_text(), Path(__file__).read_text()]:
        assert list(fast.encode(text).ids) == SHIPPED.tokenizer.encode(text).ids


def test_the_template_is_the_same_in_both_of_its_places() -> None:
    config = json.loads((SHIPPED_TOKENIZER / "tokenizer_config.json").read_text())
    assert config["chat_template"] == (SHIPPED_TOKENIZER / "chat_template.jinja").read_text()


@pytest.mark.parametrize("directory", [ALL[0], *OTHERS[:2]])
def test_an_answers_text_gives_back_its_tokens_in_the_next_turn(directory: Path) -> None:
    ours = tokens(directory)
    words = word_tokens(ours.tokenizer.get_vocab())
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    prompt = ours.encode(text)
    said = answer(prompt, 200, words)
    assert ours.encode(text + ours.decode(said)) == prompt + said
    assert "".join(ours.text(token) for token in said) == ours.decode(said)


def test_equal_prompts_get_equal_answers_and_others_do_not() -> None:
    words = list(range(100, 1000))
    assert answer([1, 2, 3], 20, words) == answer([1, 2, 3], 20, words)
    assert answer([1, 2, 3], 20, words) != answer([1, 2, 4], 20, words)
    assert answer([1, 2, 3], 20, words) != answer([1, 2, 3], 20, words, variant=1)
    assert answer([1, 2, 3], 20, words)[:5] == answer([1, 2, 3], 5, words)


def test_a_conversation_is_rendered_as_chatml_with_tools_and_calls() -> None:
    template = ChatTemplate(SHIPPED_TOKENIZER)
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "é"}'}}
    text = template.render(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "seen"},
        ],
        tools=[{"type": "function", "function": {"name": "look"}}],
    )
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert "<|im_start|>user\none\ntwo<|im_end|>\n" in text
    assert '<tool_call>\n{"name": "look", "arguments": {"at": "é"}}\n</tool_call><|im_end|>\n' in text
    assert text.endswith("<|im_start|>user\n<tool_response>\nseen\n</tool_response><|im_end|>\n<|im_start|>assistant\n")


def test_what_does_not_fit_the_engines_types_is_refused() -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    with pytest.raises(TextError, match="needs an id"):
        ChatTemplate(SHIPPED_TOKENIZER).render([{"role": "assistant", "content": "", "tool_calls": [call]}])


def test_a_developer_speaks_as_the_system_where_the_template_does_not_know_the_role() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "developer", "content": "Be kind."}]
    text = ChatTemplate(SHIPPED_TOKENIZER).render(messages)
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>")


@pytest.mark.parametrize("said", ["", "<", "im_end", "One, two, ", "a\n"])
def test_a_continued_message_stays_open_at_its_very_end(said: str) -> None:
    messages = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": said}]
    text = ChatTemplate(SHIPPED_TOKENIZER).render(messages, add_generation_prompt=False, continue_final_message=True)
    assert text == f"<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\n{said}"


def test_a_continued_message_cannot_have_a_generation_prompt_behind_it() -> None:
    messages = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One"}]
    with pytest.raises(TextError, match="cannot add a generation prompt"):
        ChatTemplate(SHIPPED_TOKENIZER).render(messages, continue_final_message=True)


def test_a_template_of_its_own_file_wins_over_the_one_in_the_config(tmp_path: Path) -> None:
    config = {"chat_template": "config", "eos_token": {"content": "<end>"}, "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}{{ eos_token }}{{ add_bos_token }}")
    assert ChatTemplate(tmp_path).render([{"role": "user", "content": "file"}]) == "file<end>"
