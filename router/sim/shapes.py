"""Responses in the shape of vLLM 0.32.0, down to the order of members and which nulls are written.

Stream events are built as text: one is made for every token, and most of each never changes.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any  # JSON documents

import msgspec

from router.sim.ask import Ask, ToolCall
from router.sim.body import Endpoint
from router.sim.model import Model

EMBEDDING_DIMENSIONS = 64
DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Named:
    """What every part of one response repeats."""

    id: str
    created: int  # Unix seconds
    model: str
    fingerprint: str


@dataclass(slots=True)
class Counts:
    """Tokens of one response so far. Changed by whoever relays the engine's outputs."""

    prompt: int
    completion: int = 0
    cached: int = 0
    full_block_tokens: int = 0  # prompt tokens in full blocks: those not cached were created


def error_body(message: str, kind: str, param: str | None, status: int) -> bytes:
    return _encode({"error": {"message": message, "type": kind, "param": param, "code": status}})


def usage(counts: Counts, endpoint: Endpoint, *, reports_cached: bool) -> dict[str, Any]:
    """The usage object of a whole response."""
    details: dict[str, Any] | None = None
    if reports_cached:
        created = counts.full_block_tokens - counts.cached if endpoint is Endpoint.CHAT else None
        details = {"cached_tokens": counts.cached, "created_cache_tokens": created, "multimodal_tokens": None}
    return {
        "prompt_tokens": counts.prompt,
        "total_tokens": counts.prompt + counts.completion,
        "completion_tokens": counts.completion,
        "prompt_tokens_details": details,
        "completion_tokens_details": None,
    }


def whole(
    ask: Ask,
    named: Named,
    model: Model,
    answers: Sequence[Sequence[int]],
    counts: Counts,
    *,
    reports_cached: bool,
    transfer: dict[str, Any] | None = None,
) -> bytes:
    """The body of a response that was not streamed. `answers` are the tokens of each choice."""
    texts = [model.tokens.decode(tokens) for tokens in answers]
    if ask.endpoint is Endpoint.CHAT:
        choices = [_chat_choice(ask, named, i, text, answers[i]) for i, text in enumerate(texts)]
    else:
        choices = [_completion_choice(ask, i, text, answers[i]) for i, text in enumerate(texts)]
    is_chat = ask.endpoint is Endpoint.CHAT
    body: dict[str, Any] = {
        "id": named.id,
        "object": "chat.completion" if is_chat else "text_completion",
        "created": named.created,
        "model": named.model,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": named.fingerprint,
        "usage": usage(counts, ask.endpoint, reports_cached=reports_cached),
    }
    if is_chat:
        ids = ask.prompts[0] if ask.return_token_ids else None
        body |= {"prompt_logprobs": None, "prompt_token_ids": ids, "prompt_text": None}
    return _encode(body | {"kv_transfer_params": transfer, "ec_transfer_params": None, "metrics": None})


def _chat_choice(ask: Ask, named: Named, index: int, text: str, tokens: Sequence[int]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None if ask.tool_call else text}
    message |= {"refusal": None, "annotations": None, "audio": None, "function_call": None}
    if ask.tool_call:
        message["tool_calls"] = [_call(ask.tool_call, named)]
    return {
        "index": index,
        "message": message | {"reasoning": None},
        "logprobs": None,
        "finish_reason": ask.finish_reason,
        "stop_reason": None,
        "token_ids": list(tokens) if ask.return_token_ids else None,
        "routed_experts": None,
    }


def _call(call: ToolCall, named: Named) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-tool-{sha256(named.id.encode()).hexdigest()[:16]}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _completion_choice(ask: Ask, index: int, text: str, tokens: Sequence[int]) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": ask.finish_reason,
        "stop_reason": None,
        "token_ids": list(tokens) if ask.return_token_ids else None,
        "prompt_logprobs": None,
        "prompt_token_ids": ask.prompts[index // ask.choices] if ask.return_token_ids else None,
        "routed_experts": None,
    }


def embeddings(ask: Ask, named: Named, counts: Counts) -> bytes:
    """One unit-length vector for each input, a function of its tokens."""
    items = []
    for index, prompt in enumerate(ask.prompts):
        vector = _vector(prompt)
        shown = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if ask.base64 else vector
        items.append({"index": index, "object": "embedding", "embedding": shown})
    total = {"prompt_tokens": counts.prompt, "total_tokens": counts.prompt, "completion_tokens": 0}
    return _encode(
        {
            "id": named.id,
            "object": "list",
            "created": named.created,
            "model": named.model,
            "data": items,
            "usage": total | {"prompt_tokens_details": None},
        }
    )


def _vector(prompt: Sequence[int]) -> list[float]:
    seed = sha256(struct.pack(f"<{len(prompt)}I", *prompt)).digest()
    noise = b"".join(sha256(seed + bytes([i])).digest() for i in range(EMBEDDING_DIMENSIONS // 32 + 1))
    raw = [byte - 127.5 for byte in noise[:EMBEDDING_DIMENSIONS]]
    length = sum(value * value for value in raw) ** 0.5
    return [value / length for value in raw]


class StreamShape:
    """The events of one stream, as bytes ready to send."""

    def __init__(self, ask: Ask, named: Named, *, reports_cached: bool) -> None:
        self._ask = ask
        self._named = named
        self._reports_cached = reports_cached
        kind = "chat.completion.chunk" if ask.endpoint is Endpoint.CHAT else "text_completion"
        self._head = (
            f'data: {{"id":{json.dumps(named.id)},"object":"{kind}","created":{named.created},'
            f'"model":{json.dumps(named.model)},"choices":['
        )
        self._call_pieces = _pieces(ask.tool_call.arguments, len(ask.answers[0]) - 2) if ask.tool_call else []

    def first(self, index: int, counts: Counts) -> bytes:
        """The event that opens a chat choice."""
        ids = json.dumps(self._ask.prompts[0], separators=(",", ":")) if self._ask.return_token_ids else "null"
        return (
            f'{self._head}{{"index":{index},"delta":{{"role":"assistant","content":""}},"logprobs":null,'
            f'"finish_reason":null}}]{self._running(counts)},"prompt_token_ids":{ids},"prompt_text":null}}\n\n'
        ).encode()

    def token(self, index: int, position: int, token: int, text: str, counts: Counts, *, finished: bool) -> bytes:
        """The event of one token, the `position`-th of its choice."""
        reason = json.dumps(self._ask.finish_reason) if finished else "null"
        ids = f"[{token}]" if self._ask.return_token_ids else "null"
        if self._ask.endpoint is Endpoint.CHAT:
            stop = '"stop_reason":null,' if finished else ""
            choice = (
                f'{{"index":{index},"delta":{self._delta(position, text, finished)},"logprobs":null,'
                f'"finish_reason":{reason},{stop}"token_ids":{ids}}}]'
            )
        else:
            prompt = self._ask.prompts[index // self._ask.choices]
            prompt_ids = (
                json.dumps(prompt, separators=(",", ":")) if self._ask.return_token_ids and not position else "null"
            )
            choice = (
                f'{{"index":{index},"text":{json.dumps(text, ensure_ascii=False)},"logprobs":null,'
                f'"finish_reason":{reason},"stop_reason":null,"prompt_token_ids":{prompt_ids},"token_ids":{ids}}}]'
            )
        last = finished and not self._ask.include_usage
        fingerprint = f',"system_fingerprint":{json.dumps(self._named.fingerprint)}' if last else ""
        return f"{self._head}{choice}{self._running(counts)}{fingerprint}}}\n\n".encode()

    def last(self, counts: Counts) -> bytes:
        """The event that carries the usage, for those who asked."""
        total: dict[str, Any] = {
            "prompt_tokens": counts.prompt,
            "total_tokens": counts.prompt + counts.completion,
            "completion_tokens": counts.completion,
        }
        if self._reports_cached:
            details = {"cached_tokens": counts.cached}
            if self._ask.endpoint is Endpoint.CHAT:
                details["created_cache_tokens"] = counts.full_block_tokens - counts.cached
            total["prompt_tokens_details"] = details
        shown = _encode(total).decode()
        return (
            f'{self._head}],"usage":{shown},"system_fingerprint":{json.dumps(self._named.fingerprint)}}}\n\n'.encode()
        )

    def _running(self, counts: Counts) -> str:
        if not self._ask.continuous_usage:
            return ""
        return (
            f',"usage":{{"prompt_tokens":{counts.prompt},"total_tokens":{counts.prompt + counts.completion},'
            f'"completion_tokens":{counts.completion},"completion_tokens_details":null}}'
        )

    def _delta(self, position: int, text: str, finished: bool) -> str:
        call = self._ask.tool_call
        if call is None:
            return f'{{"content":{json.dumps(text, ensure_ascii=False)}}}'
        if finished:
            return "{}"
        if not position:
            opened = _call(ToolCall(call.name, ""), self._named)
            return _encode({"tool_calls": [{"index": 0, **opened}]}).decode()
        piece = self._call_pieces[position - 1]
        return _encode({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}).decode()


def _pieces(text: str, count: int) -> list[str]:
    """The text in `count` pieces, some empty."""
    width = -(-len(text) // max(count, 1))
    return [text[i * width : (i + 1) * width] for i in range(count)]
