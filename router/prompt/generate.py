"""SGLang's native POST /generate: body bytes to InferenceRequest.

`{text | input_ids, sampling_params: {max_new_tokens, n, ...}, stream, ...}`. The body names no model, for an SGLang
server has one; before several, Homing reads a `model` beside SGLang's own fields (which passes there unread). An
adapter is named by `lora_path`. The bytes go on as they came: there is nothing to splice, since every answer and every
event of a stream tells its token counts in `meta_info`.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from router.errors import BadRequest
from router.prompt.members import Members, read_members
from router.prompt.request import Endpoint, InferenceRequest

T = TypeVar("T")

# What SGLang generates at most for a request that does not say.
DEFAULT_NEW_TOKENS = 128

# Duplicates of these are refused (R 1.1): the engine takes the last, we might read the first.
READ_FIELDS = frozenset(
    (
        "audio_data", "cache_salt", "extra_key", "image_data", "input_embeds", "input_ids", "logprob_start_len",
        "lora_path", "model", "positional_embed_overrides", "return_logprob", "sampling_params", "session_params",
        "stream", "text", "video_data",
    )
)  # fmt: skip


class _Sampling(msgspec.Struct):
    max_new_tokens: int | None = None
    n: int | None = None


_FLAG: msgspec.json.Decoder[bool | None] = msgspec.json.Decoder(bool | None)
_FLAGS: msgspec.json.Decoder[bool | list[bool] | None] = msgspec.json.Decoder(bool | list[bool] | None)
_STARTS: msgspec.json.Decoder[int | list[int] | None] = msgspec.json.Decoder(int | list[int] | None)
_TEXT: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)
_TEXTS: msgspec.json.Decoder[str | list[str | None] | None] = msgspec.json.Decoder(str | list[str | None] | None)
_SAMPLING: msgspec.json.Decoder[_Sampling | list[_Sampling] | None] = msgspec.json.Decoder(
    _Sampling | list[_Sampling] | None
)
_RAWS: msgspec.json.Decoder[list[msgspec.Raw] | None] = msgspec.json.Decoder(list[msgspec.Raw] | None)

_QUOTE, _ARRAY = ord('"'), ord("[")


def parse_generate(body: bytes) -> InferenceRequest:
    """Read what routing needs; `model` is empty where the body has none.

    Raises BadRequest, naming the field in `param` where one is at fault.
    """
    members = read_members(body)
    for name in sorted(members.repeated & READ_FIELDS):
        raise BadRequest(f"The field '{name}' occurs more than once.", param=name)
    model = _read(members, "model", _TEXT, "a string")
    adapters = _read(members, "lora_path", _TEXTS, "a string, or a list of strings for a batch")
    salts = _read(members, "cache_salt", _TEXTS, "a string, or a list of strings for a batch")
    sampling = (
        _read(members, "sampling_params", _SAMPLING, "an object, or a list of objects for a batch") or _Sampling()
    )
    params = sampling if isinstance(sampling, list) else [sampling]
    return InferenceRequest(
        endpoint=Endpoint.GENERATE,
        body=body,
        members=members,
        model=model or "",
        stream=_read(members, "stream", _FLAG, "true or false") is True,
        choices=max([1, *(one.n or 1 for one in params)]),
        prompts=_count_prompts(members),
        max_output_tokens=max([one.max_new_tokens or DEFAULT_NEW_TOKENS for one in params], default=DEFAULT_NEW_TOKENS),
        prompt_logprobs=_whole_prompt_logprobs(members),
        cache_salt=salts or None if not isinstance(salts, list) else None,
        adapter=adapters or None if not isinstance(adapters, list) else None,
    )


def _whole_prompt_logprobs(members: Members) -> bool:
    """Whether log probabilities are asked for from some place of the prompt on: what follows is computed again."""
    asked = _read(members, "return_logprob", _FLAGS, "true or false, or a list of these for a batch")
    starts = _read(members, "logprob_start_len", _STARTS, "an integer, or a list of integers for a batch")
    first = max(starts, default=-1) if isinstance(starts, list) else -1 if starts is None else starts
    return bool(any(asked) if isinstance(asked, list) else asked) and first >= 0


def _count_prompts(members: Members) -> int:
    """How many prompts the body holds. Their elements are checked only as far as counting needs."""
    name = next((name for name in ("text", "input_ids", "input_embeds") if members.is_present(name)), None)
    if name is None:
        raise BadRequest("You must provide 'text' or 'input_ids'.", param="text")
    kind = members.first_byte(name)
    if name == "text" and kind == _QUOTE:
        return 1
    if kind != _ARRAY:
        wanted = "a string or a list of strings" if name == "text" else "a list, or a list of lists for a batch"
        raise BadRequest(f"The field '{name}' must be {wanted}.", param=name)
    span = members.spans[name]
    first = members.body[span.value_start + 1 : span.value_start + 64].lstrip(b" \t\n\r")[:1]
    if name == "input_ids" and first in b"-0123456789":
        return 1  # one list of token ids, or an empty one
    if name == "input_embeds":
        return 1  # never predicted: how many there are matters little
    prompts = _read(members, name, _RAWS, "a list")
    return max(1, len(prompts or []))


def _read(members: Members, name: str, decoder: msgspec.json.Decoder[T], wanted: str) -> T | None:
    raw = members.raw(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise BadRequest(f"The field '{name}' must be {wanted}.", param=name) from error
