"""What a request costs the gateway, beside a bare relay: CPU per request and per chunk, and who delays whom.

Rounds alternate between the subjects, so that a noisy minute hits both; the median round counts. CPU is the subject
process's own, all threads.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass

import msgspec

from loadtest.micro.mock import MODEL
from loadtest.micro.subjects import Subject
from router.sim.caller import Caller
from router.sim.coding import Source
from router.sim.report import percentile

_Round = Callable[[Caller], Awaitable[float]]  # does one round, and says how many units it was
_Work = Coroutine[object, object, None]

PATH = "/v1/chat/completions"
SMALL_CHARACTERS = 850
MESSAGE_CHARACTERS = 3_500
LONG_MESSAGES = 100  # of MESSAGE_CHARACTERS: about 100K tokens
TURN_CHARACTERS = 1_500
STREAMS = 64
SMALL_PER_SECOND = 50.0
PROBE_EVERY_SECONDS = 0.05
LONG_PER_SECOND = 5.0


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU microseconds by subject, median of rounds."""

    what: str
    by_subject: dict[str, float]


@dataclass(frozen=True, slots=True)
class Delay:
    """Milliseconds that 1 KB requests took, alone and beside 100K-token chats."""

    subject: str
    alone_p99: float
    beside_p99: float
    long_p50: float
    loop_lag: float | None  # the worst the subject tells of
    probe: float | None  # the slowest answer of /health on the admin port, asked beside

    @property
    def added_p99(self) -> float:
        return self.beside_p99 - self.alone_p99


def small_body() -> bytes:
    return _chat([{"role": "user", "content": "x y z " * (SMALL_CHARACTERS // 6)}])


def long_chat(sources: Sequence[Source], number: int) -> list[dict[str, str]]:
    """A conversation of about 100K tokens; another number is another conversation from its first words on."""
    text = "".join(source.text for source in sources)
    start = (number * 131_071) % (len(text) // 2)
    messages = [{"role": "system", "content": f"Conversation {number}."}]
    for turn in range(LONG_MESSAGES):
        at = start + turn * MESSAGE_CHARACTERS
        messages.append({"role": ("user", "assistant")[turn % 2], "content": text[at : at + MESSAGE_CHARACTERS]})
    return [*messages, {"role": "user", "content": "Go on."}]


def next_turn(messages: Sequence[dict[str, str]], sources: Sequence[Source], turn: int) -> list[dict[str, str]]:
    text = sources[turn % len(sources)].text
    said = text[:TURN_CHARACTERS]
    return [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": f"{turn}: {said}"}]


async def cost_of_small(both: Sequence[Subject], rounds: int, requests: int = 1_500, connections: int = 8) -> Cost:
    body = small_body()

    async def one_round(caller: Caller) -> float:
        async def keep_asking() -> None:
            for _ in range(requests // connections):
                _expect((await caller.post(PATH, body)).status)

        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(keep_asking())
        return requests // connections * connections

    return Cost(f"1 KB request ({len(body)} bytes)", await _alternate(both, rounds, one_round))


async def cost_of_long(both: Sequence[Subject], sources: Sequence[Source], rounds: int, turns: int = 15) -> Cost:
    """Turns of one conversation, each with a little more at its end; its first sight is not counted."""
    messages = long_chat(sources, 0)
    size_bytes = len(_chat(messages))
    rounds_done = 0

    async def one_round(caller: Caller) -> float:
        nonlocal rounds_done
        rounds_done += 1
        grown = messages  # each round begins again from the same length, so that rounds compare
        for turn in range(turns):
            grown = next_turn(grown, sources, 1000 * rounds_done + turn)
            _expect((await caller.post(PATH, _chat(grown))).status)
        return turns

    return Cost(f"seen 100K-token turn ({size_bytes // 1000} KB)", await _alternate(both, rounds, one_round))


async def cost_of_chunk(both: Sequence[Subject], rounds: int, chunks: int = 200) -> Cost:
    body = _chat([{"role": "user", "content": "Stream."}], stream=True, max_tokens=chunks)

    async def one_round(caller: Caller) -> float:
        async def one_stream() -> None:
            _expect((await caller.post(PATH, body, on_body=lambda _: None)).status)

        async with asyncio.TaskGroup() as group:
            for number in range(STREAMS):
                group.create_task(_later(number * 0.010 / STREAMS, one_stream()))
        return STREAMS * chunks

    return Cost(f"paced chunk ({STREAMS} streams, 10 ms apart)", await _alternate(both, rounds, one_round))


async def delay_of(subject: Subject, sources: Sequence[Source], seconds: float) -> Delay:
    """1 KB requests at a steady rate, alone; then the same beside 100K-token chats of eight conversations."""
    caller = Caller(subject.url)
    try:
        small = [small_body()] * int(seconds * SMALL_PER_SECOND)
        chats = [long_chat(sources, 1 + number) for number in range(8)]
        long: list[bytes] = []
        for number in range(int(seconds * LONG_PER_SECOND)):
            chat = chats[number % 8] = next_turn(chats[number % 8], sources, number)
            long.append(_chat(chat))
        alone = await _open_loop(caller, small, SMALL_PER_SECOND)
        beside, long_times, probe = await asyncio.gather(
            _open_loop(caller, small, SMALL_PER_SECOND),
            _open_loop(caller, long, LONG_PER_SECOND),
            _slowest_probe(subject, seconds),
        )
    finally:
        caller.close()
    return Delay(
        subject.name,
        1000 * (percentile(alone, 0.99) or 0.0),
        1000 * (percentile(beside, 0.99) or 0.0),
        1000 * (percentile(long_times, 0.50) or 0.0),
        await _loop_lag(subject),
        probe,
    )


async def _slowest_probe(subject: Subject, seconds: float) -> float | None:
    """Milliseconds: the slowest answer to somebody who asks the admin port whether the subject lives."""
    if subject.admin_url is None:
        return None
    caller, loop = Caller(subject.admin_url), asyncio.get_running_loop()
    slowest, until_seconds = 0.0, loop.time() + seconds
    try:
        while loop.time() < until_seconds:
            asked_seconds = loop.time()
            _expect((await caller.get("/health")).status)
            slowest = max(slowest, loop.time() - asked_seconds)
            await asyncio.sleep(PROBE_EVERY_SECONDS)
    finally:
        caller.close()
    return 1000 * slowest


async def _loop_lag(subject: Subject) -> float | None:
    """Milliseconds: the longest delay of the subject's event loop in the last 15 s."""
    if subject.admin_url is None:
        return None
    caller = Caller(subject.admin_url)
    try:
        page = (await caller.get("/metrics")).body.decode()
    finally:
        caller.close()
    values = [line.rsplit(" ", 1)[1] for line in page.splitlines() if line.startswith("homing_loop_lag_seconds")]
    return 1000 * float(values[0]) if values else None


async def _open_loop(caller: Caller, bodies: Sequence[bytes], per_second: float) -> list[float]:
    """Times of requests sent at a fixed rate, whatever the replies do."""
    loop = asyncio.get_running_loop()
    begin_seconds = loop.time()

    async def send(due_seconds: float, body: bytes) -> float:
        await asyncio.sleep(max(0.0, due_seconds - loop.time()))
        sent_seconds = loop.time()
        _expect((await caller.post(PATH, body)).status)
        return loop.time() - sent_seconds

    return await asyncio.gather(*(send(begin_seconds + n / per_second, body) for n, body in enumerate(bodies)))


async def _alternate(both: Sequence[Subject], rounds: int, one_round: _Round) -> dict[str, float]:
    """CPU microseconds of one unit by subject: the median of the rounds after a first that is not counted."""
    spent: dict[str, list[float]] = {subject.name: [] for subject in both}
    callers = {subject.name: Caller(subject.url) for subject in both}
    try:
        for number in range(rounds + 1):
            for subject in both:
                before = subject.cpu_seconds()
                units = await one_round(callers[subject.name])
                if number:
                    spent[subject.name].append(1e6 * (subject.cpu_seconds() - before) / units)
    finally:
        for caller in callers.values():
            caller.close()
    return {name: statistics.median(values) for name, values in spent.items()}


async def _later(seconds: float, work: _Work) -> None:
    await asyncio.sleep(seconds)
    await work


def _chat(messages: Sequence[dict[str, str]], *, stream: bool = False, max_tokens: int = 16) -> bytes:
    body = {"model": MODEL, "messages": messages, "max_tokens": max_tokens}
    return msgspec.json.encode({**body, "stream": True} if stream else body)


def _expect(status: int) -> None:
    if status != 200:
        raise RuntimeError(f"a subject answered {status}: the figures would mean nothing")
