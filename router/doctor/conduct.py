"""Conducts the live probe: a unique prompt of a few blocks, twice, then once with a salt; max_tokens is 1.

This is all that `homing doctor` ever has an engine compute: three prompts and three tokens.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from router.doctor.ask import Answer, Asker
from router.doctor.hear import Ear
from router.doctor.probe import placed_plain, placed_salted
from router.doctor.read import Reading
from router.doctor.trial import Answered, Trial
from router.fleet.replica import ServedModel
from router.prompt.blocks import TokenIds, count_tokens
from router.prompt.request import Endpoint, InferenceRequest, parse

PROBE_BLOCKS = 3
LEAST_TOKENS = 48  # where blocks are tiny
MOST_TOKENS = 4096  # where they are huge
PATIENCE = 10  # a busy engine queues: a completion gets so many times the time of a plain question
MARGIN_TOKENS = 16  # below the model's maximum length


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Completion(msgspec.Struct):
    usage: _Usage | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """The probe as a request, and its tokens as Homing would read them."""

    request: InferenceRequest
    tokens: TokenIds | None
    read_by: str

    def salted(self, salt: str) -> bytes:
        return msgspec.json.encode({**msgspec.json.decode(self.request.body), "cache_salt": salt})


async def conduct(
    asker: Asker,
    question: Question,
    model: ServedModel,
    ear: Ear | None,
    headers: Sequence[tuple[bytes, bytes]],
    hash_seed: int,
) -> Trial:
    """Send the probes and wait for their events, each for at most the asker's time-out."""
    salt = f"homing-doctor-{secrets.token_hex(8)}"
    path = question.request.endpoint.value

    async def send(body: bytes) -> Answered:
        return _answered(await asker.post(path, body, headers, timeout_seconds=PATIENCE * asker.timeout_seconds))

    def trial() -> Trial:
        heard = ear.heard if ear is not None else ()
        return Trial(model.base, hash_seed, question.tokens, question.read_by, salt, first, second, salted, heard)

    second = salted = Answered(fault="not sent")
    first = await send(question.request.body)
    if first.fault is not None:
        return trial()
    if ear is not None and question.tokens is not None:
        await ear.until(lambda _heard: _whole(placed_plain(trial())), asker.timeout_seconds)
    second = await send(question.request.body)
    salted = await send(question.salted(salt))
    if ear is not None and question.tokens is not None and salted.fault is None and ear.heard:
        await ear.until(lambda _heard: _whole(placed_salted(trial())), asker.timeout_seconds)
    return trial()


def _whole(placed: Any) -> bool:
    return placed is not None and placed.complete


async def make_question(reading: Reading, model: ServedModel, block_size_tokens: int | None) -> Question:
    """A unique prompt of a few blocks: a chat as our template or the engine reads it, else a text, else unread."""
    size = block_size_tokens or 16
    most = min(MOST_TOKENS, (model.max_model_len or MOST_TOKENS) - MARGIN_TOKENS)
    wanted = max(min(max(PROBE_BLOCKS * size + 1, LEAST_TOKENS), most), 1)
    for endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS):
        question = await _question(reading, endpoint, model.name, _words(wanted))
        # Words are of two to four tokens: cut by what the first try came to.
        if question.tokens is not None and (count := count_tokens(question.tokens)) > wanted:
            fewer = max(wanted * wanted // count, 1)
            shorter = await _question(reading, endpoint, model.name, _words(fewer))
            if shorter.tokens is not None and count_tokens(shorter.tokens) > size:
                question = shorter
        if question.tokens is not None:
            return question
    return await _question(reading, Endpoint.COMPLETIONS, model.name, _words(wanted // 3 + 1))


def _words(count: int) -> str:
    """Random words: nobody has cached them, and no other event looks like theirs."""
    return " ".join(secrets.token_hex(2) for _ in range(count))


async def _question(reading: Reading, endpoint: Endpoint, model: str, text: str) -> Question:
    fields: dict[str, object] = {"model": model, "max_tokens": 1, "temperature": 0}
    if endpoint is Endpoint.CHAT:
        fields["messages"] = [{"role": "user", "content": text}]
    else:
        fields["prompt"] = text
    request = parse(endpoint, msgspec.json.encode(fields))
    tokens = reading.here(request)
    if tokens is not None:
        return Question(request, tokens, "local")
    there = await reading.there(request, None if endpoint is Endpoint.CHAT else text)
    return Question(request, there, "engine")


def _answered(answer: object) -> Answered:
    if not isinstance(answer, Answer):
        return Answered(fault=f"{getattr(answer, 'ending', answer)}")
    if answer.status != 200:
        text = answer.body[:160].decode(errors="replace")
        return Answered(status=answer.status, fault=f"status {answer.status}: {text}")
    try:
        usage = msgspec.json.decode(answer.body, type=_Completion).usage
    except (msgspec.MsgspecError, RecursionError) as fault:
        return Answered(status=200, fault=f"its answer cannot be read: {fault}")
    if usage is None:
        return Answered(status=200)
    details = usage.prompt_tokens_details
    return Answered(usage.prompt_tokens, None if details is None else details.cached_tokens, 200)
