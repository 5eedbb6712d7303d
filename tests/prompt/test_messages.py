from __future__ import annotations

import json
from typing import Any

import pytest

from router.prompt.floats import OddFloat
from router.prompt.messages import read_messages, read_tools
from router.prompt.prompt import Feature, Unpredicted
from tests.prompt.makers import assistant, user


def read(*messages: Any, parts: bool = False, developer: bool = False, avoid: frozenset[Feature] = frozenset()) -> Any:
    return read_messages(json.dumps(messages).encode(), parts=parts, developer=developer, avoid=avoid)


def test_plain_messages_stay_as_they_are() -> None:
    turns = [{"role": "system", "content": "s"}, user("a"), assistant("b"), user("")]
    assert read(*turns) == turns


def test_unknown_keys_are_dropped_and_names_kept() -> None:
    assert read({**user("a"), "name": "N", "extra": 1, "tool_calls": None}) == [{**user("a"), "name": "N"}]


def test_parts_become_one_text_of_lines_and_empty_ones_vanish() -> None:
    content = [{"type": "text", "text": "one"}, {"type": "text", "text": ""}, "two", {"type": "text", "text": None}]
    assert read(user(content)) == [user("one\ntwo")]


def test_a_template_that_loops_over_parts_gets_parts() -> None:
    assert read(user("a"), user(["b"]), assistant(None), parts=True) == [
        user([{"type": "text", "text": "a"}]),
        user([{"type": "text", "text": "b"}]),
        assistant([]),
    ]


def test_a_tool_result_is_text_for_every_template() -> None:
    result = {
        "role": "tool",
        "tool_call_id": "1",
        "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "", "more": 1}, "y"],
    }
    assert read(result) == [{"role": "tool", "content": "x\ny", "tool_call_id": "1"}]
    assert read(result, parts=True) == [{"role": "tool", "content": "x\n\ny", "tool_call_id": "1"}]
    assert read({**result, "content": []}, parts=True) == [{"role": "tool", "content": "", "tool_call_id": "1"}]


def test_parts_keep_the_members_that_belong_to_no_kind_of_part() -> None:
    part = {"cache_control": {"type": "ephemeral"}, "text": "a", "closed": True, "type": "input_text", "x": None}
    (message,) = read(user([part]), parts=True)
    assert json.dumps(message["content"]) == (
        '[{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}, "x": null}]'
    )
    assert read(user([part])) == [user("a")]


def test_no_content_is_empty_text() -> None:
    assert read({"role": "assistant"}, assistant(None)) == [assistant(""), assistant("")]


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"b": 1, "a": [true, null, 1.5]}', {"b": 1, "a": [True, None, 1.5]}),
        ({"x": 1}, {"x": 1}),
        ("", {}),
        (None, {}),
        ("{not json", {}),
        ("[1]", {}),
        ('"text"', {}),
        (3, {}),
    ],
)
def test_tool_call_arguments_become_an_object(written: Any, arguments: dict[str, Any]) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": written}, "id": "1"}
    (message,) = read(assistant(None, tool_calls=[call]))
    assert message["tool_calls"] == [{"id": "1", "function": {"arguments": arguments, "name": "f"}, "type": "function"}]
    assert list(message["tool_calls"][0]) == ["id", "function", "type"]
    assert list(message["tool_calls"][0]["function"]) == ["arguments", "name"]


def test_unknown_members_of_tool_calls_stand_behind_the_known_ones() -> None:
    call = {"index": 0, "type": "function", "function": {"x": 1, "name": "f", "arguments": "{}"}, "id": "1"}
    (message,) = read(assistant(None, tool_calls=[call]))
    assert json.dumps(message["tool_calls"]) == (
        '[{"id": "1", "function": {"arguments": {}, "name": "f", "x": 1}, "type": "function", "index": 0}]'
    )


@pytest.mark.parametrize("written", ['{"a": 1e22}', '{"a": [3.0]}', '{"a": NaN}'])
def test_odd_floats_are_told_where_asked(written: str) -> None:
    call = assistant(
        None, tool_calls=[{"type": "function", "function": {"name": "f", "arguments": written}, "id": "1"}]
    )
    raw = json.dumps([call]).encode()
    assert isinstance(read_messages(raw, parts=False, developer=False), list)
    with pytest.raises(OddFloat):
        read_messages(raw, parts=False, developer=False, even_floats=True)
    with pytest.raises(OddFloat):
        read_tools(b'[{"function": {"name": "f", "parameters": {"minimum": 0.0}}}]', even_floats=True)


def test_empty_tool_calls_vanish_and_other_roles_have_none() -> None:
    assert read(assistant("a", tool_calls=[]), {**user("b"), "tool_calls": [{}]}) == [assistant("a"), user("b")]


def test_reasoning_has_both_its_names() -> None:
    (message,) = read(assistant("a", reasoning_content="r"))
    assert (message["reasoning"], message["reasoning_content"]) == ("r", "r")
    (message,) = read(assistant("a", reasoning="new", reasoning_content="old"))
    assert (message["reasoning"], message["reasoning_content"]) == ("new", "new")


def test_a_developer_becomes_the_system_where_the_template_does_not_know_it() -> None:
    developer = {"role": "developer", "content": "d"}
    assert read(user("a"), developer, {"role": "system", "content": "s"}) == [
        {"role": "system", "content": "d\n\ns"},
        user("a"),
    ]
    assert read(developer, user("a")) == [{"role": "system", "content": "d"}, user("a")]
    assert read(developer, developer=True) == [{**developer, "tools": None}]
    assert read({**developer, "tools": []}, developer=True) is Unpredicted.ENGINE_SPECIFIC
    assert read({**developer, "tools": []}) == [{"role": "system", "content": "d"}]


@pytest.mark.parametrize(
    ("messages", "cause"),
    [
        ([user([{"type": "image_url", "image_url": {"url": "u"}}])], Unpredicted.MULTIMODAL),
        ([user([{"image_url": "u"}])], Unpredicted.MULTIMODAL),
        ([user([{"type": "input_audio", "input_audio": {}}])], Unpredicted.MULTIMODAL),
        ([user([{"type": "tool_reference", "name": "f"}])], Unpredicted.ENGINE_SPECIFIC),
        ([{"role": "system", "content": "x-anthropic-billing-header: a\nb"}], Unpredicted.ENGINE_SPECIFIC),
        ([user([3])], Unpredicted.MALFORMED),
        ([user(3)], Unpredicted.MALFORMED),
        ([{"content": "a"}], Unpredicted.MALFORMED),
        ([3], Unpredicted.MALFORMED),
        ([assistant(None, tool_calls=[{"type": "custom"}])], Unpredicted.MALFORMED),
    ],
)
def test_what_cannot_be_read_alike_is_said(messages: list[Any], cause: Unpredicted) -> None:
    assert read(*messages) is cause


@pytest.mark.parametrize(
    ("message", "feature"),
    [
        (user([{"type": "text", "text": "a"}]), Feature.PARTS),
        (assistant("a", tool_calls=[]), Feature.TOOLS),
        ({"role": "tool", "content": "a", "tool_call_id": "1"}, Feature.TOOLS),
        (assistant("a", reasoning="r"), Feature.REASONING),
        ({"role": "developer", "content": "a"}, Feature.DEVELOPER),
    ],
)
def test_messages_that_use_a_feature_to_avoid_are_left_to_the_engine(message: Any, feature: Feature) -> None:
    assert read(user("a"), message, avoid=frozenset((feature,))) is Unpredicted.ENGINE_SPECIFIC
    assert isinstance(read(user("a"), message, avoid=frozenset(Feature) - {feature}), list)


def tools(*written: Any) -> Any:
    return read_tools(json.dumps(written).encode())


def test_a_tool_is_written_out_in_the_engines_order_with_nulls() -> None:
    (tool,) = tools({"function": {"parameters": {"z": 1, "a": 2}, "name": "f", "x": 0}, "type": "function", "y": 0})
    assert json.dumps(tool) == (
        '{"type": "function", "function": {"name": "f", "description": null, "parameters": {"z": 1, "a": 2}}}'
    )


def test_strict_is_kept_where_said_and_null_tools_are_none() -> None:
    (tool,) = tools({"type": "function", "function": {"name": "f", "strict": True}})
    assert list(tool["function"]) == ["name", "description", "parameters", "strict"]
    assert read_tools(b"null") is None
    assert tools({"type": "function"}) is Unpredicted.MALFORMED
    assert tools(3) is Unpredicted.MALFORMED
