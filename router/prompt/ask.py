"""The body of POST /tokenize that makes an engine read a request's prompt as it will read the request itself.

vLLM's /tokenize knows fewer fields than its chat endpoint: `documents` and `reasoning_effort` reach the template
through `chat_template_kwargs` there, and `reasoning_content` is renamed only by the chat endpoint.
"""

from __future__ import annotations

from typing import Any

import msgspec

from router.prompt.request import Endpoint, InferenceRequest

_PASSED_ON = (
    "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message", "add_special_tokens",
)  # fmt: skip


def tokenize_body(request: InferenceRequest, prompt: str | None = None) -> bytes:
    """The body to post; `prompt` is the one text of a completion to ask about.

    Raises msgspec.DecodeError where fields do not have the types the engine takes.
    """
    asked: dict[str, Any] = {"model": request.model}
    if request.endpoint is not Endpoint.CHAT:
        asked["prompt"] = prompt
        _pass_on(request, asked, ("add_special_tokens",))
        return msgspec.json.encode(asked)
    _pass_on(request, asked, _PASSED_ON)
    kwargs: dict[str, Any] = {}
    effort = _value(request, "reasoning_effort")
    if effort is not None:
        kwargs["enable_thinking"] = effort != "none"
    kwargs |= _value(request, "chat_template_kwargs") or {}
    if effort is not None:
        kwargs["reasoning_effort"] = effort
    documents = _value(request, "documents")
    if documents is not None:
        kwargs["documents"] = documents
    if kwargs:
        asked["chat_template_kwargs"] = kwargs
    if b'"reasoning_content"' in request.body:
        asked["messages"] = [_renamed(message) for message in _value(request, "messages")]
    return msgspec.json.encode(asked)


def _pass_on(request: InferenceRequest, asked: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if request.members.is_present(name):
            raw = request.members.raw(name)
            assert raw is not None
            asked[name] = msgspec.Raw(raw)


def _value(request: InferenceRequest, name: str) -> Any:
    raw = request.members.raw(name)
    return None if raw is None else msgspec.json.decode(raw)


def _renamed(message: Any) -> Any:
    if isinstance(message, dict) and "reasoning_content" in message:
        message = dict(message)
        reasoning = message.pop("reasoning_content")
        if reasoning is not None and message.get("reasoning") is None:
            message["reasoning"] = reasoning
    return message
