"""The body of an inference request at a simulated engine: its fields, read from JSON.

Unknown fields are ignored, as vLLM does. Refusals carry vLLM's own wording, type and parameter.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any  # bodies hold JSON of any shape where the engine is lenient

import msgspec

from router.sim.model import Refusal


class Endpoint(Enum):
    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"
    TOKENIZE = "/tokenize"


class Body(msgspec.Struct):
    """The fields of all four endpoints that a simulated engine looks at."""

    model: str | None = None
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[Any] | None = None
    input: str | list[Any] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    seed: int | None = None
    temperature: float | None = None
    cache_salt: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    add_special_tokens: bool | None = None
    continue_final_message: bool | None = None
    chat_template: Any = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Any = None
    reasoning_effort: Any = None
    vllm_xargs: dict[str, Any] | None = None
    encoding_format: str | None = None
    kv_transfer_params: dict[str, Any] | None = None
    bootstrap_room: int | None = None


def parse(raw: bytes) -> Body:
    """The body's known fields. Raises Refusal for what is not JSON or has the wrong type."""
    try:
        return msgspec.json.decode(raw, type=Body)
    except msgspec.ValidationError as error:
        raise Refusal(f"1 validation error:\n  {error}", kind="Bad Request", param="body") from error
    except msgspec.DecodeError as error:
        position, reason = _json_fault(raw)
        raise Refusal(
            f"1 validation error:\n  {{'type': 'json_invalid', 'loc': 'body.{position}', 'msg': 'JSON decode error', "
            f"'input': '<dict of 0 items>', 'ctx': {{'error': {reason!r}}}}}",
            kind="Bad Request",
            param=f"body.{position}",
        ) from error


def _json_fault(raw: bytes) -> tuple[int, str]:
    """Where and why a body is not JSON, in the words of Python's own parser, which vLLM passes on."""
    try:
        json.loads(raw)
    except json.JSONDecodeError as error:
        return error.pos, error.msg
    except UnicodeDecodeError as error:
        return error.start, error.reason
    return 0, "Extra data"
