"""Body bytes to InferenceRequest and back to the bytes an engine gets.

The body is parsed once, into the few fields routing needs; messages and prompts stay raw until someone reads them. What
is sent on is the client's own bytes, but for the splices of R 1.1, each cut in at its exact place. Fields not named
here pass unread; a field that is read must have its type, else the request is refused naming it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TypeVar

import msgspec

from router.errors import BadRequest
from router.prompt.members import Members, Span, nested_members, read_members

T = TypeVar("T")

# Duplicates of these are refused (R 1.1): engines take the last, we might read the first, and the two would differ.
READ_FIELDS = frozenset(
    (
        "add_generation_prompt", "add_special_tokens", "best_of", "cache_salt", "chat_template",
        "chat_template_kwargs", "continue_final_message", "documents", "echo", "extra_key", "input", "logprobs",
        "lora_path",
        "max_completion_tokens", "max_tokens", "messages", "mm_processor_kwargs", "model", "n", "prompt",
        "prompt_cache_key", "prompt_embeds", "prompt_logprobs", "reasoning_effort", "stream", "stream_options",
        "suffix", "tools", "top_logprobs", "truncate_prompt_tokens", "user", "vllm_xargs",
    )
)  # fmt: skip

# What vLLM and SGLang generate at most for a completion that does not say.
DEFAULT_COMPLETION_TOKENS = 16

INCLUDE_USAGE = "include_usage"
REPORT_MODE = "report_mode"
_REPORT_MODE_KEY = "kv_cache_report_mode"

_QUOTE, _ARRAY, _OBJECT = ord('"'), ord("["), ord("{")

_BOOL: msgspec.json.Decoder[bool | None] = msgspec.json.Decoder(bool | None)
_TEXT: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)
_NUMBER: msgspec.json.Decoder[int | float | None] = msgspec.json.Decoder(int | float | None)
_RAWS: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])


class Endpoint(Enum):
    """What is asked for; the value is the path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"
    GENERATE = "/generate"  # SGLang's own; read by `generate`

    def __init__(self, path: str) -> None:
        self.path = path  # `value` is looked up by a function of the standard library, at half a microsecond


# Python 3.11 finds a member by its class through a hook, which on the hot path adds up.
CHAT, COMPLETIONS, EMBEDDINGS, GENERATE = Endpoint


class InferenceRequest(msgspec.Struct, frozen=True, gc=False):
    """One request as routing sees it. `members` keeps the place of every top-level field of the body."""

    endpoint: Endpoint
    body: bytes
    members: Members
    model: str
    stream: bool = False
    wants_usage: bool = False  # the client asked for usage in its stream
    continuous_usage: bool = False
    choices: int = 1  # n, or best_of where that is more
    prompts: int = 1  # prompts in the body
    max_output_tokens: int | None = None  # None: the client did not say
    prompt_logprobs: bool = False  # engines then compute the whole prompt again: predicts no cached token (R 5.1)
    cache_salt: str | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    adapter: str | None = None  # named in the body beside the model

    @property
    def prompt_field(self) -> str:
        """The field that holds the prompts of anything but a chat."""
        if self.endpoint is not GENERATE:
            return "prompt"
        return "text" if self.members.is_present("text") else "input_ids"

    @property
    def body_bytes(self) -> int:
        return len(self.body)


def parse(endpoint: Endpoint, body: bytes) -> InferenceRequest:
    """Read what routing needs. Raises BadRequest, naming the field in `param` where one is at fault."""
    members = read_members(body)
    if members.repeated:
        _refuse_repeated(members, READ_FIELDS, "")
    spans = members.spans
    model = _text(members, "model")
    if not model:
        raise BadRequest("You must provide a model: a non-empty string in the field 'model'.", param="model")
    # Most bodies have few of these: looking for a name costs a tenth of reading a field that is not there.
    stream = "stream" in spans and bool(_flag(members, "stream")) and endpoint is not EMBEDDINGS
    wants_usage, continuous_usage = _stream_options(members) if "stream_options" in spans else (False, False)
    if "vllm_xargs" in spans:
        _report_mode(members)
    max_tokens = _count(members, "max_tokens") if "max_tokens" in spans else None
    if endpoint is COMPLETIONS and max_tokens is None:
        max_tokens = DEFAULT_COMPLETION_TOKENS
    if endpoint is CHAT and "max_completion_tokens" in spans:
        asked_tokens = _count(members, "max_completion_tokens")
        max_tokens = max_tokens if asked_tokens is None else asked_tokens
    choices = 1
    for name in ("n", "best_of"):
        if name in spans:
            choices = max(choices, _count(members, name) or 1)
    return InferenceRequest(
        endpoint=endpoint,
        body=body,
        members=members,
        model=model,
        stream=stream,
        wants_usage=wants_usage,
        continuous_usage=continuous_usage,
        choices=choices,
        prompts=_count_prompts(endpoint, members),
        max_output_tokens=max_tokens,
        prompt_logprobs=("prompt_logprobs" in spans or "echo" in spans) and _wants_prompt_logprobs(endpoint, members),
        cache_salt=(_text(members, "cache_salt") or None) if "cache_salt" in spans else None,
        user=_text(members, "user") if "user" in spans else None,
        prompt_cache_key=_text(members, "prompt_cache_key") if "prompt_cache_key" in spans else None,
    )


def engine_body(request: InferenceRequest, *, ask_usage: bool) -> tuple[Sequence[bytes | memoryview], tuple[str, ...]]:
    """The pieces to send, in order, and the names of the splices made (R 1.1).

    Usage is not asked for beside `continuous_usage_stats`: it would put usage into every chunk of the client's stream.
    """
    edits: list[tuple[int, int, bytes]] = []
    splices: list[str] = []
    if ask_usage and request.stream and not request.wants_usage and not request.continuous_usage:
        edits.append(_usage_edit(request.members))
        splices.append(INCLUDE_USAGE)
    if "vllm_xargs" in request.members.spans and (removal := _report_mode(request.members)) is not None:
        edits.append((*removal, b""))
        splices.append(REPORT_MODE)
    if not edits:
        return (request.body,), ()
    pieces: list[bytes | memoryview] = []
    whole, at = memoryview(request.body), 0
    for start, end, replacement in sorted(edits):
        pieces += (whole[at:start], replacement)
        at = end
    pieces.append(whole[at:])
    return [piece for piece in pieces if len(piece)], tuple(splices)


def _refuse_repeated(members: Members, names: frozenset[str], within: str) -> None:
    for name in sorted(members.repeated & names):
        raise BadRequest(f"The field '{within}{name}' occurs more than once.", param=within + name)


def _decode(members: Members, name: str, decoder: msgspec.json.Decoder[T], wanted: str, within: str = "") -> T | None:
    raw = members.raw(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise BadRequest(f"The field '{within}{name}' must be {wanted}.", param=within + name) from error


def _flag(members: Members, name: str, within: str = "") -> bool | None:
    return _decode(members, name, _BOOL, "true or false", within)


def _text(members: Members, name: str) -> str | None:
    return _decode(members, name, _TEXT, "a string")


def _count(members: Members, name: str) -> int | None:
    number = _decode(members, name, _NUMBER, "an integer")
    if isinstance(number, float):
        if not number.is_integer():
            raise BadRequest(f"The field '{name}' must be an integer.", param=name)
        return int(number)
    return number


def _object(members: Members, name: str) -> Members | None:
    """The members of an object-valued field; None where it is absent or null."""
    if not members.is_present(name):
        return None
    if members.first_byte(name) != _OBJECT:
        raise BadRequest(f"The field '{name}' must be an object.", param=name)
    return nested_members(members.body, members.spans[name])


def _stream_options(members: Members) -> tuple[bool, bool]:
    options = _object(members, "stream_options")
    if options is None:
        return False, False
    within = "stream_options."
    _refuse_repeated(options, frozenset(("include_usage", "continuous_usage_stats")), within)
    wants_usage = bool(_flag(options, "include_usage", within))
    return wants_usage, bool(_flag(options, "continuous_usage_stats", within))


def _report_mode(members: Members) -> tuple[int, int] | None:
    """The bytes to cut so that `vllm_xargs.kv_cache_report_mode` is gone, with the comma that went with it."""
    xargs = _object(members, "vllm_xargs")
    if xargs is None or _REPORT_MODE_KEY not in xargs.spans:
        return None
    _refuse_repeated(xargs, frozenset((_REPORT_MODE_KEY,)), "vllm_xargs.")
    span = xargs.spans[_REPORT_MODE_KEY]
    if xargs.repeated:
        # The comma to cut is found from the neighbours, and those are known only where every name stands once.
        raise BadRequest("A field of 'vllm_xargs' occurs more than once.", param="vllm_xargs")
    order = list(xargs.spans.values())
    place = order.index(span)
    if place + 1 < len(order):
        return span.start, order[place + 1].start
    if place > 0:
        return order[place - 1].end, span.end
    return span.start, span.end


def _usage_edit(members: Members) -> tuple[int, int, bytes]:
    """Where to write what, so that the engine reports usage at the end of the stream."""
    span: Span | None = members.spans.get("stream_options")
    if span is None:
        at = members.opening + 1
        return at, at, b'"stream_options":{"include_usage":true},'
    options = _object(members, "stream_options")
    if options is None:
        return span.value_start, span.end, b'{"include_usage":true}'
    inner = options.spans.get("include_usage")
    if inner is not None:
        return inner.value_start, inner.end, b"true"
    at = options.opening + 1
    return at, at, b'"include_usage":true,' if options.spans else b'"include_usage":true'


def _wants_prompt_logprobs(endpoint: Endpoint, members: Members) -> bool:
    if members.is_present("prompt_logprobs"):
        return True
    if not _flag(members, "echo"):
        return False
    # vLLM turns echo with logprobs into prompt logprobs; for chat `top_logprobs` is 0 where it is left out or null.
    return endpoint is CHAT or members.is_present("logprobs")


def _count_prompts(endpoint: Endpoint, members: Members) -> int:
    """How many prompts the body holds. Their elements are checked only as far as counting needs."""
    if endpoint is CHAT:
        _messages(members)
        return 1
    name = "prompt" if endpoint is COMPLETIONS else "input"
    if endpoint is EMBEDDINGS and name not in members.spans and "messages" in members.spans:
        _messages(members)
        return 1
    if endpoint is COMPLETIONS and members.is_present("prompt_embeds") and not members.is_present(name):
        return 1
    kind = members.first_byte(name)
    if kind == _QUOTE:
        return 1
    if kind != _ARRAY:
        wanted = "a string, a list of strings, a list of token ids or a list of such lists"
        raise BadRequest(f"You must provide '{name}': {wanted}.", param=name)
    span = members.spans[name]
    first = members.body[span.value_start + 1 : span.value_start + 64].lstrip(b" \t\n\r")[:1]
    if first and first in b"-0123456789":
        return 1  # one list of token ids, counted as one prompt
    elements = _decode(members, name, _RAWS, "a list") or []
    return max(1, len(elements))


def _messages(members: Members) -> None:
    if members.first_byte("messages") != _ARRAY:
        raise BadRequest("You must provide 'messages': a list of messages.", param="messages")
