from __future__ import annotations

from typing import Any

import pytest

from router.prompt.local import read_chat
from router.prompt.source import probe_chats
from router.prompt.template import Chat, ChatTemplate
from tests.prompt.makers import CHATML, assistant, chat, template, user

ARGUMENTS = (
    "{% for m in messages if m.tool_calls %}{% for c in m.tool_calls %}"
    "{% for k, v in c.function.arguments | items %}{{ k }}={{ v FILTER }};{% endfor %}{% endfor %}{% endfor %}"
    "{% for t in tools or [] %}{% set p = t.function.parameters %}"
    "{{ p.default FILTER if p.default is defined else '' }}{% endfor %}"
)


def read(written: ChatTemplate, *messages: dict[str, Any], **fields: Any) -> Chat:
    found = read_chat(chat([*messages], **fields), written, frozenset())
    assert isinstance(found, Chat), found
    return found


@pytest.mark.parametrize(
    ("fields", "extra"),
    [
        ({"chat_template_kwargs": {"a": None, "b": "auto", "c": False, "d": ["auto"]}}, {"c": False, "d": ["auto"]}),
        ({"chat_template_kwargs": {"enable_thinking": None}, "reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False, "reasoning_effort": "none"}),
        ({"reasoning_effort": None}, {}),
    ],
)
def test_arguments_that_are_null_or_auto_are_none_at_all(fields: dict[str, Any], extra: dict[str, Any]) -> None:
    assert read(template(), user("a"), **fields).extra == extra


def called(arguments: str) -> dict[str, Any]:
    return assistant(
        None, tool_calls=[{"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    )


@pytest.mark.parametrize("filtered", ["", "| string", "| tojson"])
def test_odd_floats_are_written_as_the_engine_writes_them(filtered: str) -> None:
    printer = template(ARGUMENTS.replace("FILTER", filtered))
    assert printer.prove(probe_chats(printer)) is None
    usual, odd = (
        read(printer, called('{"a": 2.5, "b": 3}')),
        read(printer, called('{"a": 3.0, "b": 1e22, "c": 0.00001}')),
    )
    assert (usual.odd_floats, odd.odd_floats, printer.is_fast) == (False, True, True)
    assert (printer.render(usual), printer.render(odd)) == ("a=2.5;b=3;", "a=3.0;b=1e+22;c=1e-05;")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"default": 1.0}}}
    assert printer.render(read(printer, user("a"), tools=[tool])) == "1.0"


def test_a_template_that_prints_no_floats_does_not_look_for_them() -> None:
    plain = template(CHATML)
    plain.prove(probe_chats(plain))
    assert not plain.minds_odd_floats
    assert not read(plain, called('{"a": 1e22}')).odd_floats
