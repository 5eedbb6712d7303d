"""Sends every request at its moment, however many answers are owed, and notes what its client saw. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from loadtest.chaos.fleet import MODEL, Fleet, Patience, Router
from loadtest.chaos.judge import FAILURES, Attempt, End, Seen
from loadtest.chaos.schedule import Ask, Rubbish
from router.sim.caller import Caller, CallFailed, Reply
from router.sim.watch import Watch

PATH = "/v1/chat/completions"
EXPLAIN = [(b"x-homing-explain", b"1")]
EXPLAIN_TRIES, EXPLAIN_PAUSE_SECONDS = 3, 0.1
SLACK_SECONDS = 15.0  # a router that is paused, a machine that is busy


class _Error(msgspec.Struct):
    message: str = ""
    type: str | None = None
    code: str | int | None = None


class _Told(msgspec.Struct):
    error: _Error


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Whole(msgspec.Struct):
    choices: list[_Choice]


def longest_silence(patience: Patience) -> float:
    """In the queue, then two attempts that each use up their time to connect and to their first byte."""
    return patience.queue_seconds + 2 * (patience.connect_seconds + patience.first_byte_seconds) + SLACK_SECONDS


async def send_all(
    asks: Sequence[Ask], fleet: Fleet, patience: Patience, now: Callable[[], float], note: Callable[[Seen], None]
) -> None:
    """Returns with the last answer."""
    callers = [Caller(router.url) for router in fleet.routers]

    async def one(ask: Ask) -> None:
        seen = await _send(callers[ask.router], ask, longest_silence(patience), now)
        note(await _explained(seen, fleet.routers[ask.router]) if seen.end in FAILURES else seen)

    try:
        async with asyncio.TaskGroup() as tasks:
            for ask in asks:
                await asyncio.sleep(max(0.0, ask.at_seconds - now()))
                tasks.create_task(one(ask))
    finally:
        for caller in callers:
            caller.close()


def body_of(ask: Ask) -> bytes:
    if ask.rubbish is Rubbish.CUT_SHORT:
        return b'{"model":"sim","mess'
    return msgspec.json.encode(
        {
            "model": "nobody" if ask.rubbish is Rubbish.UNKNOWN_MODEL else MODEL,
            "messages": [{"role": "user", "content": ask.text}],
            "max_tokens": ask.max_tokens,
            "stream": ask.streamed,
        }
    )


async def _send(caller: Caller, ask: Ask, silence_seconds: float, now: Callable[[], float]) -> Seen:
    loop = asyncio.get_running_loop()
    sent, pieces = now(), list[bytes]()
    seen = Seen(ask, sent, sent, End.STUCK)
    try:
        async with asyncio.timeout(ask.hangs_up_after_seconds), asyncio.timeout(silence_seconds) as patience:

            def take(piece: bytes) -> None:
                pieces.append(piece)
                patience.reschedule(loop.time() + silence_seconds)

            reply = await caller.post(PATH, body_of(ask), EXPLAIN, take)
        seen = read(seen, reply, b"".join(pieces))
    except CallFailed as fault:
        seen = replace(seen, end=End.CUT, message=str(fault))
    except TimeoutError:
        hung_up = ask.hangs_up_after_seconds is not None and now() - sent < silence_seconds
        seen = replace(seen, end=End.HUNG_UP if hung_up else End.STUCK)
    return replace(seen, ended_seconds=now())


def read(seen: Seen, reply: Reply, body: bytes) -> Seen:
    """What a reply that came to its end says."""
    request_id = reply.headers.get(b"x-homing-request-id", b"").decode() or None
    seen = replace(seen, status=reply.status, request_id=request_id, retry_after=b"retry-after" in reply.headers)
    if seen.ask.rubbish is not None and reply.status == seen.ask.rubbish.value:
        return replace(seen, end=End.TOLD_OFF)
    if reply.status != 200:
        return _with_error(replace(seen, end=End.REFUSED), body)
    if not reply.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        try:
            choices = msgspec.json.decode(body, type=_Whole).choices
        except msgspec.DecodeError as fault:
            return replace(seen, end=End.MUTE, message=f"an answer that is no JSON: {fault}")
        if seen.ask.streamed or not choices or choices[0].finish_reason is None:
            return replace(seen, end=End.MUTE, message="an answer that is not what was asked for")
        return replace(seen, end=End.ANSWERED)
    watch = Watch(lambda: 0.0)
    watch.feed(body)
    fault = watch.fault(200)
    if fault is None and body.endswith(b"data: [DONE]\n\n"):
        return replace(seen, end=End.ANSWERED)
    last = body.rstrip().split(b"\n\n")[-1].removeprefix(b"data: ")
    if b"[DONE]" in body or not last.startswith(b'{"error"'):
        return replace(seen, end=End.MUTE, message=fault or "bytes after [DONE]")
    return _with_error(replace(seen, end=End.BROKEN), last)


def _with_error(seen: Seen, told: bytes) -> Seen:
    try:
        error = msgspec.json.decode(told, type=_Told).error
    except msgspec.DecodeError as fault:
        return replace(seen, end=End.MUTE, message=f"status {seen.status}, and no OpenAI error: {fault}")
    return replace(seen, message=error.message, code=str(error.code) if error.code is not None else error.type)


async def _explained(seen: Seen, router: Router) -> Seen:
    """With its receipt, fetched at once: a router that is killed takes its receipts along."""
    if seen.request_id is None:
        return seen
    page = None
    for _ in range(EXPLAIN_TRIES):  # the receipt is written once the answer is out
        page = page or await router.asked(f"/homing/explain/{seen.request_id}")
        await asyncio.sleep(0.0 if page else EXPLAIN_PAUSE_SECONDS)
    metrics = await router.metrics()
    if page is None or metrics is None:
        return seen
    if seen.code == "no_replica":
        states = ", ".join(
            f"{one['replica']} {one['health']} {one['silence'] or ''}" for one in await router.replicas()
        )
        seen = replace(seen, message=f"{seen.message} Just after: {states}")
    told = msgspec.json.decode(page)["attempts"]
    attempts = tuple(Attempt(one["replica"], one["ending"]) for one in told)
    return replace(seen, attempts=attempts, retries_before=int(metrics.get("homing_retries_total", 0)))
