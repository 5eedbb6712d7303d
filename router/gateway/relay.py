"""The replica's answer to the client, byte for byte, as it comes.

A stream goes out chunk by chunk through its `StreamWatch`, which stamps tokens and withholds the usage chunk that only
Homing asked for. Any other answer is kept until it is whole, so that a replica that dies in the middle of it can still
be told as a 502 (R 2.1); one too large to keep is passed on as it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from router.errors import UpstreamError
from router.gateway.client import Client
from router.gateway.correction import Cached, StreamCorrection, corrected
from router.gateway.failures import TimedOut
from router.gateway.headers import RawHeaders, first, to_client
from router.gateway.native import NativeWatch, native_usage
from router.gateway.response import Response
from router.gateway.stream import StreamWatch, Usage, error_event, usage_of

KEPT_BYTES = 32 * 2**20  # an embeddings answer of 4,096 inputs is about 60 MB as text, 20 MB as base64
EVENT_STREAM = b"text/event-stream"


class Relayed(msgspec.Struct, frozen=True, gc=False):
    """What went through. `fault`: how the replica failed after commitment, if it did."""

    usage: Usage | None = None
    fault: UpstreamError | None = None
    blamed: bool = True  # whether the fault says that the replica is unwell


def is_stream(response: Response) -> bool:
    kind = first(response.headers, b"content-type")
    return kind is not None and kind.startswith(EVENT_STREAM)


async def relay(
    client: Client,
    response: Response,
    chunk: bytes,
    extra: RawHeaders,
    *,
    withhold_usage: bool,
    native: bool = False,
    on_tokens: Callable[[], None],
    cached: Cached | None = None,
) -> Relayed:
    """Pass on an answer whose first body bytes are `chunk`. `on_tokens` is called for each chunk that carries some.

    `native`: it has SGLang's own form, not OpenAI's. `cached`: the true cached tokens, where the replica's are not.
    """
    headers = [*to_client(response.headers), *extra]
    if is_stream(response):
        watch = NativeWatch() if native else StreamWatch(withhold_usage=withhold_usage)
        await client.start(response.status, headers)
        correction = None if cached is None else StreamCorrection(cached)
        return await _stream(client, response, chunk, watch, on_tokens, correction)
    return await _whole(client, response, chunk, headers, native_usage if native else usage_of, cached)


async def _stream(
    client: Client,
    response: Response,
    chunk: bytes,
    watch: StreamWatch | NativeWatch,
    on_tokens: Callable[[], None],
    correction: StreamCorrection | None,
) -> Relayed:
    def finish(*, clean: bool = True) -> bytes:
        rest = watch.finish(clean=clean)
        return rest if correction is None else correction.finish(rest)

    seen = 0
    while chunk:
        passed = watch.feed(chunk)
        if watch.content_events != seen:
            seen = watch.content_events
            on_tokens()
        if correction is not None:
            passed = correction.feed(passed)
        if passed:
            await client.write(passed)
        try:
            chunk = await response.chunk()
        except asyncio.CancelledError:
            if not client.gone:  # Homing is stopping, and this stream did not end in time
                stopping = error_event("Homing stopped before the answer ended.", "server_error", "stopping")
                await client.write(finish(clean=False) + stopping, last=True)
            raise
        except UpstreamError as fault:
            kind = "timeout" if isinstance(fault, TimedOut) else "upstream_error"
            message = f"The replica failed in the middle of the answer: {fault}"
            rest = finish(clean=False)
            await client.write(rest + error_event(message, kind, "upstream_died", mid_event=watch.mid_event), last=True)
            return Relayed(watch.usage, fault)
    await client.write(finish(), last=True)
    if watch.error_seen:
        return Relayed(watch.usage, UpstreamError("The replica told of an error in its stream."), blamed=False)
    return Relayed(watch.usage)


async def _whole(
    client: Client,
    response: Response,
    chunk: bytes,
    headers: RawHeaders,
    read: Callable[[bytes], Usage | None],
    cached: Cached | None,
) -> Relayed:
    kept, kept_bytes = [], 0
    while chunk:
        kept.append(chunk)
        kept_bytes += len(chunk)
        if kept_bytes > KEPT_BYTES:
            return await _large(client, response, b"".join(kept), headers)
        chunk = await response.chunk()
    body = kept[0] if len(kept) == 1 else b"".join(kept)
    if cached is not None:
        body = corrected(body, cached)
    await client.answer(response.status, headers, body)
    return Relayed(read(body) if response.status == 200 else None)


async def _large(client: Client, response: Response, chunk: bytes, headers: RawHeaders) -> Relayed:
    """Too late for a clean error: a death in the middle breaks the connection off, which every client notices."""
    await client.start(response.status, headers)
    while chunk:
        await client.write(chunk)
        chunk = await response.chunk()
    await client.write(b"", last=True)
    return Relayed()
