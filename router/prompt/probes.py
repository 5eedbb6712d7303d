"""The requests on which a local token source is held against the engine's own POST /tokenize (R 3.2).

Each probe covers one thing engines are known to read in their own way. Chats alternate and tool-call ids have nine
letters, because some templates insist; where a template refuses a probe, the engine has to refuse it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from router.prompt.ask import tokenize_body
from router.prompt.awkward import AWKWARD_TEXTS
from router.prompt.prompt import Feature
from router.prompt.request import Endpoint, InferenceRequest, parse

# Special tokens of the common families, as a user would write them.
SPECIALS_IN_TEXT = "<|im_end|>\n<|im_start|>system</s><s>[INST]x[/INST]<|eot_id|><think></think><|end|><｜User｜>"  # noqa: RUF001

_AWKWARD = "\n".join(AWKWARD_TEXTS)
# A schema with what templates that spell tools out look at; `items` is also the name of a method of every dict.
_TOOL: dict[str, Any] = {
    "function": {
        "parameters": {
            "type": "object",
            "required": ["city"],
            "properties": {
                "city": {"type": "string", "enum": ["Köln", "<&'\">"], "description": "Where."},
                "days": {"type": ["integer", "null"], "default": 1, "minimum": 0.5},
                "tags": {"type": "array", "items": {"type": "string"}, "title": "T"},
                "deep": {"anyOf": [{"type": "object", "properties": {"keys": {"type": "boolean"}}}, {"$ref": "#/x"}]},
            },
            "additionalProperties": False,
        },
        "name": "get_weather",
    },
    "type": "function",
}
_TOOL_FULL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "The time.\nIn UTC.",
        "parameters": {"type": "object", "properties": {}},
    },
}
_ARGUMENTS = '{"city": "Köln", "days": 3, "deep": {"a": [1, 2.5, true, null]}, "exact": false, "none": null}'
_FLOATS = '{"a": 1e22, "b": 3.0, "c": 0.00001, "d": 606712937032428.25, "e": [1e22, 3.0], "f": {"g": 0.00001}}'
_FLOATS_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "d",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "number", "default": 3.0, "minimum": 0.00001, "maximum": 1e22}},
        },
    },
}


def _call(arguments: Any, call_id: str = "abcDEF123") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


@dataclass(frozen=True, slots=True)
class Probe:
    """One request body without its model. `feature` is what fails when only this probe does; None: everything."""

    name: str
    endpoint: Endpoint
    fields: Mapping[str, Any] = field(repr=False)
    feature: Feature | None = None

    def request(self, model: str) -> InferenceRequest:
        return parse(self.endpoint, msgspec.json.encode({"model": model, **self.fields}))

    def tokenize_body(self, model: str) -> bytes:
        """The body to post to the engine's /tokenize."""
        prompt = self.fields.get("prompt")
        return tokenize_body(self.request(model), prompt)


def _chat(name: str, messages: list[dict[str, Any]], feature: Feature | None = None, **fields: Any) -> Probe:
    return Probe(name, Endpoint.CHAT, {"messages": messages, **fields}, feature)


def _completion(name: str, prompt: str, **fields: Any) -> Probe:
    return Probe(name, Endpoint.COMPLETIONS, {"prompt": prompt, **fields}, Feature.COMPLETION)


_SYSTEM = {"role": "system", "content": "You are terse.\n\nAlways."}
_TURNS = [_user(" Hi "), _assistant("Hello!\n"), _user("What is 17 * 23?"), _assistant(" 391 "), _user("Thanks")]
_TOOL_TURNS = [
    _user("Weather in Köln?"),
    _assistant(None, tool_calls=[_call(_ARGUMENTS)]),
    {"role": "tool", "tool_call_id": "abcDEF123", "content": '{"sky": "clear", "t": 21.5}'},
    _assistant("Clear, 21.5 degrees."),
    _user("And tomorrow?"),
]

PROBES: tuple[Probe, ...] = (
    _chat("plain", [_user("Hello, world!")]),
    _chat("system", [_SYSTEM, _user("Hello")]),
    _chat("turns", _TURNS),
    _chat("system and turns", [_SYSTEM, *_TURNS]),
    _chat("unicode", [_user(_AWKWARD), _assistant(_AWKWARD), _user("é")]),
    _chat("special tokens in text", [_user(SPECIALS_IN_TEXT), _assistant(SPECIALS_IN_TEXT), _user("a")]),
    _chat("empty content", [_user(""), _assistant(""), _user("x")]),
    _chat("thinking in text", [_user("a"), _assistant("<think>\nhm\n</think>\n\nb"), _user("c")]),
    _chat(
        "parts with more members",
        [
            _user([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]),
            _assistant([{"type": "text", "text": "b"}]),
            _user("c"),
        ],
        Feature.PARTS,
    ),
    _chat("parts", [_user([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])], Feature.PARTS),
    _chat(
        "parts beside text",
        [{"role": "system", "content": [{"type": "text", "text": "s"}]}, _user("a"), _assistant("b"), _user([])],
        Feature.PARTS,
    ),
    _chat("tools", [_user("Weather?")], Feature.TOOLS, tools=[_TOOL, _TOOL_FULL]),
    _chat(
        "floats",
        [
            _user("a"),
            _assistant(None, tool_calls=[_call(_FLOATS)]),
            {"role": "tool", "tool_call_id": "abcDEF123", "content": "b"},
        ],
        Feature.TOOLS,
        tools=[_FLOATS_TOOL],
    ),
    _chat("tools and system", [_SYSTEM, _user("Weather?")], Feature.TOOLS, tools=[_TOOL_FULL]),
    _chat("tool calls", _TOOL_TURNS, Feature.TOOLS, tools=[_TOOL]),
    _chat("tool result last", _TOOL_TURNS[:3], Feature.TOOLS, tools=[_TOOL, _TOOL_FULL]),
    _chat(
        "two calls and text",
        [
            _user("Both?"),
            _assistant("Looking.", tool_calls=[_call("{}", "aaaaaaaaa"), _call('{"city": "A"}', "bbbbbbbbb")]),
            {"role": "tool", "tool_call_id": "aaaaaaaaa", "content": "1"},
            {"role": "tool", "tool_call_id": "bbbbbbbbb", "content": "2"},
        ],
        Feature.TOOLS,
        tools=[_TOOL],
    ),
    _chat(
        "reasoning",
        [_user("a"), _assistant("b", reasoning_content="because"), _user("c"), _assistant("d", reasoning="so")],
        Feature.REASONING,
    ),
    _chat(
        "reasoning and calls",
        [
            _user("Weather?"),
            _assistant("", reasoning_content="I need a tool.", tool_calls=[_call(_ARGUMENTS)]),
            {"role": "tool", "tool_call_id": "abcDEF123", "content": "ok"},
        ],
        Feature.REASONING,
        tools=[_TOOL],
    ),
    _chat("developer", [{"role": "developer", "content": "Be kind."}, _user("a")], Feature.DEVELOPER),
    _chat("no generation prompt", _TURNS, Feature.SWITCHES, add_generation_prompt=False),
    _chat("special tokens added", _TURNS, Feature.SWITCHES, add_special_tokens=True),
    _chat("thinking off", _TURNS, Feature.SWITCHES, chat_template_kwargs={"enable_thinking": False, "thinking": False}),
    _chat("thinking on", _TURNS, Feature.SWITCHES, chat_template_kwargs={"enable_thinking": True, "thinking": True}),
    _chat(
        "continuation",
        [_user("Count."), _assistant("One, two, ")],
        Feature.CONTINUATION,
        add_generation_prompt=False,
        continue_final_message=True,
    ),
    # Content that is found elsewhere in the text, too: only a tag tells where it ends.
    _chat(
        "continuation of a common letter",
        [_user("Count."), _assistant("<")],
        Feature.CONTINUATION,
        add_generation_prompt=False,
        continue_final_message=True,
    ),
    _chat(
        "continuation of nothing",
        [_user("Count."), _assistant("")],
        Feature.CONTINUATION,
        add_generation_prompt=False,
        continue_final_message=True,
    ),
    _completion("completion", "The list of names"),
    _completion("completion of awkward text", " " + _AWKWARD),
    _completion("completion with special tokens in text", SPECIALS_IN_TEXT),
    _completion("bare completion", "The list of names", add_special_tokens=False),
)
