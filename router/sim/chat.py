"""A chat's messages and tools as the chat template gets them. Pure.

The engine does not render what the client wrote. It checks every message against the OpenAI types, keeps what it knows
of it, and lays it out anew; this file does so after vLLM 0.32.0 (`renderers/chat_utils.py`, the request models beside
it, and `openai` 3.54 for the types). In short:

- content is one text or a list of parts, whichever the template takes; of tool results it is one text;
- tool calls are put in the order of their type, with unknown members at the end, and their arguments become objects;
- reasoning goes under both of its names, but is read from the newer one alone: `with_reasoning` renames the older;
- tools are written out from a fixed form, nulls included, unknown members left out.

What does not fit is Malformed. Of what vLLM refuses, odd mixtures of parts and nulls are read here all the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any  # JSON that a template looks into by itself

Json = dict[str, Any]


class Malformed(Exception):
    """A chat that the engine refuses before its template sees it."""


# Where the text stands in each kind of part that counts as text.
TEXT_MEMBERS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
# Members that some kind of part has. In a list of parts, only others follow the text to the template.
PART_MEMBERS = frozenset(
    (
        *("audio_embeds", "audio_url", "closed", "data", "file", "image_embeds", "image_pil", "image_url"),
        *("input_audio", "name", "prompt_cache_breakpoint", "refusal", "text", "thinking", "type", "uuid"),
        *("video_embeds", "video_url"),
    )
)
BILLING_HEADER = "x-anthropic-billing-header"  # a line some clients put first, different in every request
NULL_CONTENT = {"assistant", "function"}  # roles whose content may be null


def conversation(messages: Sequence[Mapping[str, Any]], *, parts: bool) -> list[Json]:
    """The messages a template gets. `parts`: it goes through content part by part."""
    return [_message(message, parts=parts) for message in messages]


def with_reasoning(messages: Sequence[Mapping[str, Any]]) -> list[Json]:
    """The messages with `reasoning_content` renamed `reasoning`, which wins where both are there."""
    renamed = []
    for message in messages:
        kept = {key: value for key, value in message.items() if key != "reasoning_content"}
        if kept.get("reasoning") is None and message.get("reasoning_content") is not None:
            kept["reasoning"] = message["reasoning_content"]
        renamed.append(kept)
    return renamed


def without_developer(messages: Sequence[Json]) -> list[Json]:
    """Developer messages as system ones, for a template that does not know the role.

    If a system message then stands anywhere but in front, all become one there.
    """
    renamed = [
        {key: value for key, value in message.items() if key != "tools"} | {"role": "system"}
        if message["role"] == "developer"
        else message
        for message in messages
    ]
    places = [place for place, message in enumerate(renamed) if message["role"] == "system"]
    if places == [0]:
        return renamed
    texts = [_joined(renamed[place]["content"]) for place in places]
    merged = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [merged, *(message for message in renamed if message["role"] != "system")]


def tool_forms(tools: Sequence[Mapping[str, Any]]) -> list[Json]:
    """The tools a template gets."""
    return [_tool(tool) for tool in tools]


def _message(message: Mapping[str, Any], *, parts: bool) -> Json:
    role, name = message.get("role"), message.get("name")
    if not isinstance(role, str):
        raise Malformed("a message needs a role")
    if "name" in message and not isinstance(name, str) and role != "tool":  # which has none, by its type
        raise Malformed("a message's name must be a string")
    content = _parts(message, role)
    laid_out: Json = {"role": role, "content": content if parts else _text(content)}
    if role == "assistant":
        calls = [_call(call) for call in message.get("tool_calls") or ()]
        if calls:
            laid_out["tool_calls"] = calls
        if message.get("reasoning") is not None:
            laid_out["reasoning"] = laid_out["reasoning_content"] = message["reasoning"]
    elif role == "tool":
        if "tool_call_id" in message:
            laid_out["tool_call_id"] = message["tool_call_id"]
        if parts and all(part["type"] == "text" for part in content):
            laid_out["content"] = _joined(content)
    for key in ("name", "task"):
        if isinstance(message.get(key), str):
            laid_out[key] = message[key]
    if role == "developer":
        laid_out["tools"] = _developer_tools(message.get("tools"))
    return laid_out


def _parts(message: Mapping[str, Any], role: str) -> list[Json]:
    """The content as parts: texts, and names of tools. Missing content is empty."""
    content = message.get("content", [])
    if content is None and role in NULL_CONTENT:
        content = []
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise Malformed(f"the content of a message by the {role} must be a string or a list of parts")
    kept = _without_header(parts) if role == "system" else parts
    return [laid_out for part in kept if (laid_out := _part(part)) is not None]


def _without_header(parts: Sequence[Any]) -> Iterator[Any]:
    """The parts without the billing line, which would spoil the prefix cache from there on."""
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        if isinstance(text, str) and text.startswith(BILLING_HEADER):
            rest = text.partition("\n")[2]
            if rest:
                yield {**part, "text": rest} if isinstance(part, dict) else rest
        else:
            yield part


def _part(part: Any) -> Json | None:
    """One part; None for one without text. Raises Malformed for media: the simulated models read text only."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or part.get("uuid") is not None:
        raise Malformed("a part of a message's content must be a string or have a type that this model takes")
    if kind == "tool_reference":
        return {"type": kind, "name": part.get("name")}
    if kind not in TEXT_MEMBERS:
        raise Malformed(f"this model does not take content of type {kind!r}")
    text = part.get(TEXT_MEMBERS[kind])
    if text is None:
        return None
    if not isinstance(text, str):
        raise Malformed(f"the text of a content part of type {kind!r} must be a string")
    return {"type": "text", "text": text} | {key: value for key, value in part.items() if key not in PART_MEMBERS}


def _text(parts: Sequence[Json]) -> str:
    """Parts as one text, for a template that takes no parts. Empty ones leave no line."""
    return "\n".join(text for part in parts if (text := part["text" if part["type"] == "text" else "name"]))


def _joined(content: str | Sequence[Json]) -> str:
    """Parts as one text, where the template takes parts but not here. Empty ones leave an empty line."""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content if "text" in part)


def _call(call: Any) -> Json:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type") != "function" or not isinstance(call.get("id"), str):
        raise Malformed("a tool call needs an id, the type 'function' and a function")
    if not isinstance(function.get("name"), str) or not isinstance(function.get("arguments"), str):
        raise Malformed("the function of a tool call needs a name and arguments, both strings")
    ordered = _in_order(function, "arguments", "name") | {"arguments": _arguments(function["arguments"])}
    return _in_order(call, "id", "function", "type") | {"function": ordered}


def _arguments(written: str) -> Json:
    """Templates take objects only; text that is none would break every later turn, so it counts as empty."""
    try:
        arguments = json.loads(written)
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}


def _developer_tools(tools: Any) -> Any:
    """Tools a developer message brings: put in order if all are functions, else as they came."""
    if not isinstance(tools, list) or not all(
        isinstance(tool, dict) and tool.get("type") == "function" and isinstance(tool.get("function"), dict)
        for tool in tools
    ):
        return tools
    ordered = []
    for tool in tools:
        function = _in_order(tool["function"], "name", "description", "parameters", "strict")
        ordered.append(_in_order(tool, "function", "type") | {"function": function})
    return ordered


def _in_order(members: Mapping[str, Any], *known: str) -> Json:
    """The same members, those known first."""
    return {key: members[key] for key in known if key in members} | dict(members)


def _tool(tool: Mapping[str, Any]) -> Json:
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Malformed("a tool needs a function with a name")
    if tool.get("type", "function") != "function":
        raise Malformed("a tool must be of type 'function'")
    form: Json = {"name": function["name"]}
    for key, kind in (("description", str), ("parameters", dict)):
        form[key] = function.get(key)
        if not isinstance(form[key], kind | None):
            raise Malformed(f"the {key} of tool {form['name']!r} must be a {kind.__name__}")
    deferred = tool.get("defer_loading")
    inner = function.get("defer_loading")
    for key, value in (("strict", function.get("strict")), ("defer_loading", deferred if inner is None else inner)):
        if value is not None:
            form[key] = value
    outer: Json = {"type": "function", "function": form}
    return outer if deferred is None else outer | {"defer_loading": deferred}
