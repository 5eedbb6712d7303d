"""Messages and tools, laid out for a template as vLLM 0.32.0 does; expectations were taken from its own code."""

from __future__ import annotations

import json
from typing import Any  # messages are JSON of any shape

import pytest

from router.sim.chat import Malformed, conversation, tool_forms, with_reasoning, without_developer


def read(message: dict[str, Any], *, parts: bool = False) -> dict[str, Any]:
    (laid_out,) = conversation([message], parts=parts)
    return laid_out


def call(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "id": "1", "function": {"name": "f", "arguments": "{}"}} | fields


def arguments(written: str) -> Any:
    message = {"role": "assistant", "tool_calls": [call(function={"name": "f", "arguments": written})]}
    return read(message)["tool_calls"][0]["function"]["arguments"]


def test_only_known_members_stay_in_their_order() -> None:
    message = {
        "refusal": None,
        "name": "bob",
        "content": "hi",
        "role": "user",
        "tool_calls": [call()],
        "reasoning": "r",
    }
    assert json.dumps(read(message)) == '{"role": "user", "content": "hi", "name": "bob"}'


def test_parts_become_lines_without_the_empty_ones() -> None:
    texts: list[Any] = [
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        "b",
        {"type": "text", "text": ""},
        {"type": "text", "text": None},
        {"type": "input_text", "text": "c"},
        {"type": "refusal", "refusal": "d"},
        {"type": "thinking", "thinking": "e", "closed": True},
        {"type": "tool_reference", "name": "f"},
    ]
    assert read({"role": "user", "content": texts})["content"] == "a\nb\nc\nd\ne\nf"


def test_a_template_that_takes_parts_gets_texts_with_what_no_part_knows() -> None:
    cached = {"cache_control": {"type": "ephemeral"}, "text": "a", "type": "text"}
    assert json.dumps(read({"role": "user", "content": [cached, {"type": "refusal", "refusal": ""}]}, parts=True)) == (
        '{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, '
        '{"type": "text", "text": ""}]}'
    )
    assert read({"role": "user", "content": "a"}, parts=True)["content"] == [{"type": "text", "text": "a"}]
    assert read({"role": "assistant", "content": None}, parts=True)["content"] == []


def test_a_tool_result_is_one_text_even_where_the_template_takes_parts() -> None:
    texts = [{"type": "text", "text": ""}, {"type": "text", "text": "b"}]
    result = {"role": "tool", "tool_call_id": "1", "content": texts}
    assert read(result, parts=True) == {"role": "tool", "content": "\nb", "tool_call_id": "1"}
    assert read(result)["content"] == "b"
    named = [{"type": "tool_reference", "name": "f"}]
    assert read({"role": "tool", "content": named}, parts=True)["content"] == named


def test_a_tool_call_is_put_in_the_order_of_its_type_with_unknown_members_behind() -> None:
    written = {"index": 0, "type": "function", "function": {"x": 1, "name": "f", "arguments": '{"b": 1}'}, "id": "1"}
    (laid_out,) = read({"role": "assistant", "content": None, "tool_calls": [written]})["tool_calls"]
    assert json.dumps(laid_out) == (
        '{"id": "1", "function": {"arguments": {"b": 1}, "name": "f", "x": 1}, "type": "function", "index": 0}'
    )


@pytest.mark.parametrize("written", ["", "{", "[1]", "null", "7"])
def test_arguments_that_are_no_object_count_as_none(written: str) -> None:
    assert arguments(written) == {}


def test_no_tool_calls_are_left_out() -> None:
    nothing: list[Any] = [[], None]
    for none in nothing:
        assert read({"role": "assistant", "content": "a", "tool_calls": none}) == {"role": "assistant", "content": "a"}


def test_reasoning_goes_under_both_names_and_is_read_from_the_newer() -> None:
    assert read({"role": "assistant", "content": "a", "reasoning": "r"}) == {
        "role": "assistant",
        "content": "a",
        "reasoning": "r",
        "reasoning_content": "r",
    }
    assert "reasoning" not in read({"role": "assistant", "content": "a", "reasoning_content": "r"})


def test_renaming_keeps_the_newer_name_where_it_is_set() -> None:
    both = {"reasoning": "new", "reasoning_content": "old"}
    older = {"reasoning": None, "reasoning_content": "old"}
    assert with_reasoning([both, older, {"reasoning_content": None}]) == [
        {"reasoning": "new"},
        {"reasoning": "old"},
        {},
    ]


def test_the_billing_line_is_taken_off_a_system_message() -> None:
    line = "x-anthropic-billing-header: cch=1;"
    assert read({"role": "system", "content": f"{line}\nBe brief."})["content"] == "Be brief."
    assert read({"role": "system", "content": [{"type": "text", "text": line}, "a"]})["content"] == "a"
    assert read({"role": "user", "content": line})["content"] == line


def test_a_developers_tools_are_put_in_order_too() -> None:
    function: dict[str, Any] = {"strict": None, "parameters": {}, "name": "f"}
    laid_out = read({"role": "developer", "content": "d", "tools": [{"type": "function", "function": function}]})
    assert json.dumps(laid_out["tools"]) == (
        '[{"function": {"name": "f", "parameters": {}, "strict": null}, "type": "function"}]'
    )
    assert read({"role": "developer", "content": "d"})["tools"] is None


def test_a_developer_in_front_is_renamed_and_elsewhere_merged_into_one_system_message() -> None:
    developer = read({"role": "developer", "content": "d", "name": "n"})
    user, system = read({"role": "user", "content": "u"}), read({"role": "system", "content": "s"})
    assert without_developer([developer, user]) == [{"role": "system", "content": "d", "name": "n"}, user]
    assert without_developer([system, user, developer]) == [{"role": "system", "content": "s\n\nd"}, user]
    assert without_developer([user, developer]) == [{"role": "system", "content": "d"}, user]


def test_a_tool_is_written_out_whole() -> None:
    function = {"parameters": {"type": "object"}, "name": "f", "unknown": 1, "strict": None}
    assert json.dumps(tool_forms([{"function": function, "unknown": 1}])) == (
        '[{"type": "function", "function": {"name": "f", "description": null, "parameters": {"type": "object"}}}]'
    )
    full = {"name": "f", "strict": False}
    assert json.dumps(tool_forms([{"function": full, "defer_loading": True}])) == (
        '[{"type": "function", "function": {"name": "f", "description": null, "parameters": null, "strict": false, '
        '"defer_loading": true}, "defer_loading": true}]'
    )


@pytest.mark.parametrize(
    "message",
    [
        {"content": "nobody"},
        {"role": "user", "content": None},
        {"role": "tool", "content": None},
        {"role": "user", "content": 5},
        {"role": "user", "content": "a", "name": None},
        {"role": "user", "content": [{"text": "no type"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
        {"role": "user", "content": [{"type": "text", "text": "a", "uuid": "u"}]},
        {"role": "user", "content": [{"type": "text", "text": 5}]},
        {"role": "assistant", "tool_calls": ["f"]},
        {"role": "assistant", "tool_calls": [call(id=None)]},
        {"role": "assistant", "tool_calls": [call(type="custom")]},
        {"role": "assistant", "tool_calls": [call(function={"name": "f", "arguments": {}})]},
    ],
)
def test_what_vllms_types_refuse_is_malformed(message: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        read(message)


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function"},
        {"function": {"description": "no name"}},
        {"type": "web_search", "function": {"name": "f"}},
        {"function": {"name": "f", "parameters": []}},
    ],
)
def test_what_is_no_function_is_malformed(tool: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        tool_forms([tool])
