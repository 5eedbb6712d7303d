"""Chat messages and tools as the engine hands them to its chat template.

Engines do not render what the client sent: they check it against their own types first, which drops unknown keys
or moves them, reorders known ones and fills defaults, and then rewrite it. This file does the same for vLLM (read from
0.32.0):

- content parts become one text joined by newlines, or, for templates that iterate over parts, typed dicts with what
  other members they have; empty parts leave no line, but in tool results for templates of the latter kind they do;
- `reasoning_content` is renamed `reasoning`, and templates see both names;
- tool calls get the order of their type, unknown members last; arguments given as JSON text become objects, anything
  else an empty object;
- tools are written out with type, then function with name, description and parameters, null where left out;
- a `developer` message becomes `system` where the template does not know that role.

What it cannot do alike is said, not guessed: the answer is then a cause instead of messages.
"""

from __future__ import annotations

import json
from typing import Any, TypedDict

import msgspec

from router.prompt.floats import even_float
from router.prompt.prompt import Feature, Unpredicted

# Values below are whatever JSON the client wrote: they go to a template, which looks into them by itself.
Message = dict[str, Any]


class _Message(TypedDict, total=False):
    role: str
    content: str | list[Any] | None
    name: Any
    tool_call_id: Any
    tool_calls: list[dict[str, Any]] | None
    reasoning: str | None
    reasoning_content: str | None
    task: Any
    tools: Any


_MESSAGES: msgspec.json.Decoder[list[_Message]] = msgspec.json.Decoder(list[_Message])
_TOOLS: msgspec.json.Decoder[list[dict[str, Any]] | None] = msgspec.json.Decoder(list[dict[str, Any]] | None)
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
# The same for chats that must have even floats only.
_EVEN_MESSAGES = msgspec.json.Decoder(list[_Message], float_hook=even_float)
_EVEN_TOOLS = msgspec.json.Decoder(list[dict[str, Any]] | None, float_hook=even_float)
_EVEN_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=even_float)

_TEXT_PARTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}

# Members that some kind of part has. A template that iterates over parts gets all others, and of these the text alone.
_PART_MEMBERS = frozenset(
    (
        *("audio_embeds", "audio_url", "closed", "data", "file", "image_embeds", "image_pil", "image_url"),
        *("input_audio", "name", "prompt_cache_breakpoint", "refusal", "text", "thinking", "type", "uuid"),
        *("video_embeds", "video_url"),
    )
)

# Roles whose plain messages need a closer look.
_SPECIAL_ROLES = frozenset(("system", "developer", "tool"))

# vLLM 0.32 drops this line from system messages, older ones keep it.
_ATTRIBUTION_HEADER = "x-anthropic-billing-header"


def read_messages(
    raw: bytes | memoryview,
    *,
    parts: bool,
    developer: bool,
    avoid: frozenset[Feature] = frozenset(),
    even_floats: bool = False,
) -> list[Message] | Unpredicted:
    """The messages a template gets. `parts`: it iterates over content parts; `developer`: it knows that role.

    Messages that use a feature of `avoid` are left to the engine. With `even_floats`, raises OddFloat for any other.
    """
    try:
        decoded = (_EVEN_MESSAGES if even_floats else _MESSAGES).decode(raw)
    except msgspec.DecodeError:
        return Unpredicted.MALFORMED
    messages: list[Message] = []
    foreign_role = False
    for message in decoded:
        role = message.get("role")
        if role is None:
            return Unpredicted.MALFORMED
        content = message.get("content")
        if len(message) == 2 and content.__class__ is str and not parts and role not in _SPECIAL_ROLES:
            messages.append(message)  # type: ignore[arg-type]  # the common case, already what a template gets
            continue
        if (
            len(message) == 3
            and role == "tool"
            and content.__class__ is str
            and "tool_call_id" in message
            and not avoid
        ):
            messages.append(message)  # type: ignore[arg-type]  # likewise
            continue
        if avoid and not avoid.isdisjoint(_features(message, role)):
            return Unpredicted.ENGINE_SPECIFIC
        if role == "developer":
            if developer and message.get("tools") is not None:
                return Unpredicted.ENGINE_SPECIFIC  # laid out anew in ways of their own
            foreign_role = foreign_role or not developer
        read = _read_message(message, role, content, parts, even_floats)
        if isinstance(read, Unpredicted):
            return read
        messages.append(read)
    return _as_system(messages) if foreign_role else messages


def _features(message: _Message, role: str) -> set[Feature]:
    used = set()
    if isinstance(message.get("content"), list):
        used.add(Feature.PARTS)
    if role == "tool" or message.get("tool_calls") is not None:
        used.add(Feature.TOOLS)
    if message.get("reasoning") is not None or message.get("reasoning_content") is not None:
        used.add(Feature.REASONING)
    if role == "developer":
        used.add(Feature.DEVELOPER)
    return used


def _read_message(message: _Message, role: str, content: Any, parts: bool, even_floats: bool) -> Message | Unpredicted:
    read_content = _read_content(content, parts=parts)
    if isinstance(read_content, Unpredicted):
        return read_content
    if role == "tool" and not isinstance(read_content, str):
        read_content = "\n".join(part["text"] for part in read_content)
    if role == "system" and _begins_with_header(content):
        return Unpredicted.ENGINE_SPECIFIC
    result: Message = {"role": role, "content": read_content}
    if role == "assistant":
        calls = message.get("tool_calls")
        if calls:
            read_calls = [_read_call(call, even_floats) for call in calls]
            if None in read_calls:
                return Unpredicted.MALFORMED
            result["tool_calls"] = read_calls
        reasoning = message.get("reasoning")
        if reasoning is None:
            reasoning = message.get("reasoning_content")
        if reasoning is not None:
            result["reasoning"] = result["reasoning_content"] = reasoning
    elif role == "tool" and "tool_call_id" in message:
        result["tool_call_id"] = message["tool_call_id"]
    for key in ("name", "task"):
        value = message.get(key)
        if isinstance(value, str):
            result[key] = value
    if role == "developer":
        result["tools"] = message.get("tools")
    return result


def _begins_with_header(content: Any) -> bool:
    texts = content if isinstance(content, list) else [content]
    for part in texts:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str) and text.startswith(_ATTRIBUTION_HEADER):
            return True
    return False


def _read_content(content: Any, *, parts: bool) -> str | list[Message] | Unpredicted:
    if content is None:
        return [] if parts else ""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if parts else content
    texts: list[str] = []
    read: list[Message] = []
    for part in content:
        if isinstance(part, str):
            text: Any = part
        elif not isinstance(part, dict):
            return Unpredicted.MALFORMED
        else:
            kind = part.get("type")
            if kind == "tool_reference":
                return Unpredicted.ENGINE_SPECIFIC
            key = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
            if key is None or part.get("uuid") is not None:
                return Unpredicted.MULTIMODAL
            text = part.get(key)
            if text is None and kind in ("text", "refusal"):
                continue
        if not isinstance(text, str):
            return Unpredicted.MALFORMED
        if parts:
            read_part = {"type": "text", "text": text}
            if len(part) > 2 and isinstance(part, dict):
                read_part |= {key: value for key, value in part.items() if key not in _PART_MEMBERS}
            read.append(read_part)
        elif text:
            texts.append(text)
    return read if parts else "\n".join(texts)


def _read_call(call: Message, even_floats: bool) -> Message | None:
    """One tool call in the key order of the engine's types; None for what the engine refuses."""
    function = call.get("function")
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        return None
    read: Message = {}
    if "id" in call:
        read["id"] = call["id"]
    read_function: Message = {"arguments": _arguments(function.get("arguments"), even_floats)}
    if "name" in function:
        read_function["name"] = function["name"]
    if len(function) > len(read_function):
        read_function = {**read_function, **function, "arguments": read_function["arguments"]}
    read["function"] = read_function
    if "type" in call:
        read["type"] = call["type"]
    if len(call) > len(read):
        read = {**read, **call, "function": read_function}
    return read


def _arguments(written: Any, even_floats: bool) -> Message:
    if isinstance(written, str) and written:
        try:
            written = (_EVEN_ANY if even_floats else _ANY).decode(written)
        except (msgspec.DecodeError, RecursionError):
            try:
                # Also takes NaN and lone surrogates, as the engine does.
                hook = even_float if even_floats else None
                written = json.loads(written, parse_float=hook, parse_constant=hook)
            except (ValueError, RecursionError):
                return {}
    return written if isinstance(written, dict) else {}


def _as_system(messages: list[Message]) -> list[Message]:
    """Developer messages as system ones, and all system messages merged into one at the front."""
    renamed = [
        {key: value for key, value in message.items() if key != "tools"} | {"role": "system"}
        if message["role"] == "developer"
        else message
        for message in messages
    ]
    system = [message for message in renamed if message["role"] == "system"]
    if len(system) == 1 and renamed[0] is system[0]:
        return renamed
    contents = []
    for message in system:
        content = message["content"]
        text = content if isinstance(content, str) else "\n".join(part["text"] for part in content)
        if text:
            contents.append(text)
    merged: Message = {"role": "system", "content": "\n\n".join(contents)}
    return [merged, *(message for message in renamed if message["role"] != "system")]


def read_tools(raw: bytes | memoryview, *, even_floats: bool = False) -> list[Message] | Unpredicted | None:
    """The tools a template gets; None where the client sent null. `even_floats` is as for messages."""
    try:
        tools = (_EVEN_TOOLS if even_floats else _TOOLS).decode(raw)
    except msgspec.DecodeError:
        return Unpredicted.MALFORMED
    if tools is None:
        return None
    read: list[Message] = []
    for tool in tools:
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return Unpredicted.MALFORMED
        written: Message = {
            "name": function["name"],
            "description": function.get("description"),
            "parameters": function.get("parameters"),
        }
        if function.get("strict") is not None:
            written["strict"] = function["strict"]
        if tool.get("defer_loading") is not None or function.get("defer_loading") is not None:
            return Unpredicted.ENGINE_SPECIFIC
        read.append({"type": tool.get("type", "function"), "function": written})
    return read
