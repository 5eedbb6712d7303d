from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from router.prompt.source import probe_chats
from router.prompt.template import Chat, ChatTemplate, Refused
from tests.prompt.makers import TOKENIZERS, WALL_SECONDS, assistant, folder, fuzzed_conversation, template, user


def render(source: str, *messages: dict[str, Any], **more: Any) -> str:
    return template(source, bos_token="<s>").render(Chat(messages or [user("a")], **more))


def test_a_chat_is_rendered_with_its_generation_prompt() -> None:
    assert template().render(Chat([user("hi")])) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert template().render(Chat([user("hi")], add_generation_prompt=False)) == "<|im_start|>user\nhi<|im_end|>\n"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}", "a\n"),
        ("{{ bos_token }}{{ eos_token }}", "<s>"),
        ('{{ {"b": "é<&\'", "a": 1} | tojson }}', '{"b": "é<&\'", "a": 1}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% generation %}x{{ messages[0].content }}{% endgeneration %}", "xa"),
        ("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", "TrueTrueTrue"),
    ],
)
def test_templates_have_what_transformers_gives_them(source: str, text: str) -> None:
    assert render(source) == text


def test_the_date_comes_from_the_clock_that_was_passed() -> None:
    days = [0.0, 3 * 86_400.0]
    dated = ChatTemplate("{{ strftime_now('%Y-%m-%d') }}", {}, lambda: WALL_SECONDS + days[0])
    first = dated.render(Chat([]))
    days.pop(0)
    assert first.startswith("2023-11-1")
    assert dated.render(Chat([])) != first


def test_arguments_of_the_request_reach_the_template_but_not_in_place_of_messages() -> None:
    assert render("{{ thinking }}{{ messages | length }}", extra={"thinking": False, "messages": []}) == "False1"
    assert render("{{ x }}", extra={"x": "text"}) == "text"


def test_a_template_that_raises_refuses() -> None:
    with pytest.raises(Refused, match="only users"):
        render("{{ raise_exception('only users') }}")
    with pytest.raises(Refused):
        render("{{ messages[0].content.no.such }}")
    with pytest.raises(Refused, match="cannot be compiled"):
        template("{% for %}")


def test_a_template_cannot_change_what_it_is_given() -> None:
    messages = [user("a")]
    with pytest.raises(Refused):
        template("{{ messages.append(1) }}").render(Chat(messages))
    assert messages == [user("a")]


@pytest.mark.parametrize(
    ("source", "content", "text"),
    [
        ("{{ messages[-1].content }}<end>", "one two ", "one two "),
        ("{{ messages[-1].content | trim }}<end>", "one two ", "one two"),
        ("one two {{ messages[-1].content }}<end>", "one two", "one two one two"),
        ("<one>{{ messages[-1].content }}<end>", "<", "<one><"),
        ("<one>{{ messages[-1].content }}<end>", "end", "<one>end"),
        ("<one>\n{{ messages[-1].content }}<end>", "", "<one>\n"),
        ("<one>\n{{ messages[-1].content | trim }}<end>", "", "<one>"),
        ("{% if messages[-1].content %}some: {{ messages[-1].content }}{% endif %}", "", "some: "),
        ("{{ messages[-1].content[1].text }}<end>", ["x", {"text": "a"}, {"type": "b"}], "a"),
    ],
)
def test_a_continued_message_is_left_open(source: str, content: Any, text: str) -> None:
    final = assistant(content)
    before = deepcopy(final)
    assert render(source, user("<"), final, continue_final_message=True) == text
    assert final == before


def test_a_message_that_is_not_in_the_text_cannot_be_continued() -> None:
    with pytest.raises(Refused, match="cannot be continued"):
        render("x", assistant("a"), continue_final_message=True)
    for messages in ([], [{"role": "tool", "content": None}], [assistant([])]):
        with pytest.raises(Refused, match="no final message"):
            template().render(Chat(messages, continue_final_message=True))


def test_minijinja_is_dropped_where_it_prints_otherwise() -> None:
    floats = template("{{ messages[0].n }}")
    assert floats.is_fast
    difference = floats.prove([Chat([{"role": "user", "n": 1e22}])])
    assert difference is not None
    assert not floats.is_fast
    assert floats.render(Chat([{"role": "user", "n": 1e22}])) == "1e+22"


@pytest.mark.parametrize(
    ("source", "minds"),
    [("{{ messages[0].n }}", True), ("{{ messages[0].n | tojson }}", True), ("{{ messages[0] | tojson }}", False)],
)
def test_chats_with_odd_floats_go_to_the_reference_where_the_template_prints_them(source: str, minds: bool) -> None:
    printer = template(source)
    odd = [Chat([{"role": "user", "n": number}], odd_floats=True) for number in (1e22, 3.0, 1e-5)]
    assert printer.minds_odd_floats
    assert printer.prove([Chat([{"role": "user", "n": 2.5}]), *odd]) is None
    assert (printer.is_fast, printer.minds_odd_floats) == (True, minds)
    for one in odd:
        assert printer.render(one) == printer.render_reference(one)


def test_what_minijinja_refuses_is_rendered_by_the_reference() -> None:
    odd = template("{{ messages[0].content.encode('utf-8') | length }}")
    assert odd.prove([Chat([user("a")])]) is None
    assert odd.render(Chat([user("é")])) == "2"


@pytest.mark.parametrize("separator", ["\x1c", "\x1d", "\x1e", "\x1f"])
def test_separators_are_trimmed_as_python_trims_them(separator: str) -> None:
    trimmed = template("[{{ messages[0].content | trim }}]")
    assert trimmed.prove([Chat([user(" a ")])]) is None
    assert trimmed.is_fast
    assert trimmed.render(Chat([user(f" {separator}a{separator} ")])) == "[a]"


def sources() -> list[Path]:
    return sorted(TOKENIZERS.glob("templates/*.jinja")) + sorted(TOKENIZERS.glob("*/chat_template.jinja"))


@pytest.mark.shared
def test_both_renderers_agree_on_real_templates_and_fuzzed_chats() -> None:
    folder("templates")
    chance = random.Random(5)
    chats = [Chat(fuzzed_conversation(chance, ["<|im_end|>", "</think>", "<think>"])) for _ in range(12)]
    fast = 0
    for path in sources():
        real = template(path.read_text(), bos_token="<s>", eos_token="</s>")
        real.prove(probe_chats(real))
        fast += real.is_fast
        for one in chats:
            wrapped = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in one.messages]
            chat = Chat(wrapped) if real.takes_parts else one
            assert real.render(chat) == real.render_reference(chat), path.name
    assert fast >= 9, "minijinja should render most templates"
