"""A model's own tokenizer and chat template, used to read prompts here instead of asking the engine.

What a request needs beyond them (media, its own template, what only the engine rewrites) is answered with a cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from router.prompt.blocks import TOKEN_BYTES, TokenIds, pack_tokens
from router.prompt.floats import OddFloat
from router.prompt.messages import Message, read_messages, read_tools
from router.prompt.parity import Parity
from router.prompt.probes import Probe
from router.prompt.prompt import Feature, Tokenized, Unpredicted
from router.prompt.request import CHAT, InferenceRequest
from router.prompt.segments import SegmentCache
from router.prompt.template import RESERVED, Chat, ChatTemplate, Refused

# Costs beside tokenizing, per byte of body and measured likewise: decoding and rendering, then hashing.
_FAST_RENDER_SECONDS_PER_BYTE = 15e-9
_RENDER_SECONDS_PER_BYTE = 70e-9

# Further names with a meaning of their own in an engine's call of its template.
_ENGINE_ARGUMENTS = RESERVED | {"chat_template", "continue_final_message", "tokenize", "conversation", "return_dict"}

# Fields whose presence means that a feature is used; what messages use is found on the way through them.
_USED_BY = {
    Feature.TOOLS: ("tools",),
    Feature.CONTINUATION: ("continue_final_message",),
    Feature.SWITCHES: (
        "add_generation_prompt",
        "add_special_tokens",
        "chat_template_kwargs",
        "documents",
        "reasoning_effort",
    ),
}

# Everything beside the messages that changes how a chat is rendered.
_ARGUMENTS = frozenset(name for names in _USED_BY.values() for name in names) | {"chat_template", "mm_processor_kwargs"}

_KWARGS: msgspec.json.Decoder[dict[str, Any] | None] = msgspec.json.Decoder(dict[str, Any] | None)
_LIST: msgspec.json.Decoder[list[Any] | None] = msgspec.json.Decoder(list[Any] | None)
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_UNSET = (None, "auto")  # values of template arguments that an engine takes for no argument
_FLAG: msgspec.json.Decoder[bool | None] = msgspec.json.Decoder(bool | None)


@dataclass(frozen=True, slots=True)
class LocalTokens:
    """One model's token source on this machine. Thread-safe; `parity` alone changes (R 3.2)."""

    encoder: SegmentCache
    prefix: TokenIds  # what add_special_tokens puts before a text
    suffix: TokenIds
    template: ChatTemplate | None
    parity: Parity
    note: str  # which tokenizer and renderer, for the start-up line

    @property
    def seconds_per_byte(self) -> float:
        """Rough upper estimate of reading a body never seen before, per byte of body."""
        fast = self.template is not None and self.template.is_fast
        return self.encoder.seconds_per_byte + (_FAST_RENDER_SECONDS_PER_BYTE if fast else _RENDER_SECONDS_PER_BYTE)

    def read(self, request: InferenceRequest) -> Tokenized | Unpredicted:
        """The request's prompts as token ids, or why not. Runs in any thread; never raises for what a client sent."""
        return self._read(request, self.parity.broken)

    def _read(self, request: InferenceRequest, avoid: frozenset[Feature]) -> Tokenized | Unpredicted:
        try:
            if request.endpoint is CHAT:
                return self._read_chat(request, avoid)
            return self._read_completion(request, avoid)
        except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError):
            return Unpredicted.MALFORMED

    def judge(self, probe: Probe, engine_ids: Sequence[int] | None) -> None:
        """Hold one answer of the engine's own POST /tokenize against ours; None: it refused the probe with a 4xx."""
        self.parity.judge(probe, self.ids(probe), engine_ids)

    def ids(self, probe: Probe) -> TokenIds | None:
        """The probe as it is read here, whatever parity says; None: it is not."""
        ours = self._read(probe.request("probe"), frozenset())
        return ours.tokens if isinstance(ours, Tokenized) else None

    def _read_chat(self, request: InferenceRequest, avoid: frozenset[Feature]) -> Tokenized | Unpredicted:
        if self.template is None:
            return Unpredicted.NO_TOKENIZER
        chat = read_chat(request, self.template, avoid)
        if isinstance(chat, Unpredicted):
            return chat
        try:
            text = self.template.render(chat)
        except Refused:
            return Unpredicted.TEMPLATE_REFUSED
        special = _decode(request, "add_special_tokens", _FLAG) is True
        tokens = self._encode(text, special=special)
        return Tokenized(tokens, len(tokens) // TOKEN_BYTES)

    def _read_completion(self, request: InferenceRequest, avoid: frozenset[Feature]) -> Tokenized | Unpredicted:
        prompt = _decode(request, request.prompt_field, _ANY)
        special = _decode(request, "add_special_tokens", _FLAG) is not False
        prompts = [prompt] if isinstance(prompt, str) or _is_ids(prompt) else prompt
        if not isinstance(prompts, list) or not prompts:
            return Unpredicted.MALFORMED
        longest, total_bytes = TokenIds(b""), 0
        for one in prompts:
            if isinstance(one, str):
                if Feature.COMPLETION in avoid:
                    return Unpredicted.ENGINE_SPECIFIC
                tokens = self._encode(one, special=special)
            elif _is_ids(one):
                tokens = pack_tokens(one)
            else:
                return Unpredicted.MALFORMED
            total_bytes += len(tokens)
            longest = max(longest, tokens, key=len)
        return Tokenized(longest, total_bytes // TOKEN_BYTES)

    def _encode(self, text: str, *, special: bool) -> TokenIds:
        tokens = self.encoder.encode(text)
        return TokenIds(b"".join((self.prefix, tokens, self.suffix))) if special else tokens


def read_chat(request: InferenceRequest, template: ChatTemplate, avoid: frozenset[Feature]) -> Chat | Unpredicted:
    """What the template renders for a chat request. Raises msgspec.DecodeError for fields of a wrong type.

    A request that uses a feature of `avoid`, in which this engine was seen to differ, is left to the engine.
    """
    if not template.minds_odd_floats:
        return _read_chat(request, template, avoid, even_floats=False)
    try:
        return _read_chat(request, template, avoid, even_floats=True)
    except OddFloat:
        chat = _read_chat(request, template, avoid, even_floats=False)
        return chat if isinstance(chat, Unpredicted) else msgspec.structs.replace(chat, odd_floats=True)


def _read_chat(
    request: InferenceRequest, template: ChatTemplate, avoid: frozenset[Feature], *, even_floats: bool
) -> Chat | Unpredicted:
    members = request.members
    extra: dict[str, Any] = {}
    usual = members.spans.keys().isdisjoint(_ARGUMENTS)  # most chats use none of them
    if not usual:
        if avoid and any(
            feature in avoid and any(map(members.is_present, names)) for feature, names in _USED_BY.items()
        ):
            return Unpredicted.ENGINE_SPECIFIC
        if members.is_present("chat_template"):
            return Unpredicted.CUSTOM_TEMPLATE
        if members.is_present("mm_processor_kwargs"):
            return Unpredicted.MULTIMODAL
        extra = _decode(request, "chat_template_kwargs", _KWARGS) or {}
        if not extra.keys().isdisjoint(_ENGINE_ARGUMENTS):
            return Unpredicted.ENGINE_SPECIFIC
        effort = _decode(request, "reasoning_effort", _ANY)
        if effort is not None:
            extra = {"enable_thinking": effort != "none"} | extra | {"reasoning_effort": effort}
        extra = {name: value for name, value in extra.items() if value not in _UNSET}
    raw = members.raw("messages")
    assert raw is not None, "a chat without messages does not pass the parser"
    messages = read_messages(
        raw,
        parts=template.takes_parts,
        developer=template.knows_developer,
        avoid=avoid,
        even_floats=even_floats,
    )
    if isinstance(messages, Unpredicted):
        return messages
    if usual:
        return Chat(messages=messages)
    tools: Sequence[Message] | None = None
    if (raw_tools := members.raw("tools")) is not None:
        read = read_tools(raw_tools, even_floats=even_floats)
        if isinstance(read, Unpredicted):
            return read
        tools = read
    return Chat(
        messages=messages,
        tools=tools,
        documents=_decode(request, "documents", _LIST),
        add_generation_prompt=_decode(request, "add_generation_prompt", _FLAG) is not False,
        continue_final_message=_decode(request, "continue_final_message", _FLAG) is True,
        extra=extra,
    )


def _is_ids(prompt: object) -> bool:
    return isinstance(prompt, list) and bool(prompt) and type(prompt[0]) is int


def _decode(request: InferenceRequest, name: str, decoder: msgspec.json.Decoder[Any]) -> Any:
    raw = request.members.raw(name)
    return None if raw is None else decoder.decode(raw)
