"""Routers give a newcomer what they know of replicas' caches, over Redis (an edge).

Whoever hears a replica and has missed its beginning asks on a channel. Of those who know the whole, one tells: who is
first to set a key that stands for CLAIM_SECONDS. It leaves the parts in a list that Redis drops by itself, and says on
the channel and under that key where; every newcomer that waits for it, or comes a moment later, reads it there. A
snapshot that is of no use is asked for again, ever more seldom.

The load that routers share does not depend on any of this: a fault here is counted, and tried again later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Protocol

import msgspec
from msgspec import Meta

from router.clock import Clock
from router.metrics import Tally
from router.sharing.apart import apart

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis.asyncio

LOOK_SECONDS = 0.1  # how often we look whether a replica's beginning is missing
FIRST_AGAIN_SECONDS = 1.0
LONGEST_AGAIN_SECONDS = 60.0
CLAIM_SECONDS = 2.0
KEPT_SECONDS = 30.0
ANSWER_SECONDS = 2.0  # of Redis, to one command
ERRAND_SECONDS = 30.0  # of the replica's stream
PARTS_AT_ONCE = 16  # some 100 KB
MOST_BYTES = 256 << 20
MOST_WORDS = 1024  # asks or answers not yet seen to


class Outcome(Protocol):
    @property
    def value(self) -> str: ...


class Stories(Protocol):
    """What a router knows of caches: `events/stories`."""

    def wanted(self) -> list[str]: ...

    def knows(self, replica: str) -> bool: ...

    async def tell(self, replica: str) -> list[bytes] | None: ...

    async def take(self, replica: str, told: Sequence[bytes]) -> Outcome: ...


class Word(msgspec.Struct, frozen=True, array_like=True):
    """On the channel: an ask (no key), or where the answer is."""

    boot: Annotated[str, Meta(max_length=64)]
    replica: Annotated[str, Meta(min_length=1, max_length=512)]
    key: Annotated[str, Meta(max_length=512)] = ""


class Failed(Enum):
    """Ends of an ask or an answer that are not the taker's. The values are metric labels."""

    UNANSWERED = "unanswered"
    GONE = "gone"  # from Redis, or too large
    LOST = "lost"  # Redis did not answer, or refused
    STALLED = "stalled"  # the replica's stream did not come to it


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Word)
TOLD = "told"  # metric label: of whoever answered


class Warm:
    """One router's asks and answers. `run` is its one task."""

    def __init__(
        self,
        prefix: str,
        boot: str,
        stories: Stories,
        *,
        faults: tuple[type[Exception], ...],
        clock: Clock,
        counts: Tally,
        say: Callable[[str], None],
    ) -> None:
        """`prefix` begins every key and channel; `faults` are what a Redis client may raise."""
        self._prefix = prefix
        self._channel = f"{prefix}:warm"
        self._stories_at = f"{prefix}:story:"
        self._boot = boot
        self._stories = stories
        self._faults = faults
        self._clock = clock
        self._counts = counts
        self._say = say
        self._number = 0
        self._asked: dict[str, float] = {}  # by replica that is wanted: how long to wait, or waited last
        self._again_at_seconds: dict[str, float] = {}
        self._answered: set[str] = set()
        self._tried: dict[str, str] = {}  # by replica: the last key that was read

    async def run(self, client: redis.asyncio.Redis) -> None:
        """Never ends. Raises nothing that Redis does."""
        while True:
            try:
                await apart(self._connected(client))
            except* self._faults:
                self._counts.add(Failed.LOST.value)
            await asyncio.sleep(FIRST_AGAIN_SECONDS)

    async def _connected(self, client: redis.asyncio.Redis) -> None:
        ear = client.pubsub(ignore_subscribe_messages=True)
        asks: asyncio.Queue[str] = asyncio.Queue(MOST_WORDS)
        answers: asyncio.Queue[Word] = asyncio.Queue(MOST_WORDS)
        try:
            async with _command():
                await ear.subscribe(self._channel)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hear(ear, asks, answers))
                tasks.create_task(self._want(client, answers))
                tasks.create_task(self._answer(client, asks))
                tasks.create_task(self._take(client, answers))
        finally:
            with contextlib.suppress(*self._faults):
                async with _command():
                    await ear.aclose()  # type: ignore[no-untyped-call] # redis-py

    async def _hear(
        self, ear: redis.asyncio.client.PubSub, asks: asyncio.Queue[str], answers: asyncio.Queue[Word]
    ) -> None:
        while True:
            message = await ear.get_message(timeout=None)
            if message is None:
                continue
            try:
                word = _DECODER.decode(message["data"])
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if word.boot == self._boot:
                continue
            with contextlib.suppress(asyncio.QueueFull):  # it is asked again
                if word.key:
                    answers.put_nowait(word)
                elif self._stories.knows(word.replica):
                    asks.put_nowait(word.replica)

    async def _want(self, client: redis.asyncio.Redis, answers: asyncio.Queue[Word]) -> None:
        while True:
            now = self._clock.now()
            wanted = self._stories.wanted()
            for replica in self._asked.keys() - set(wanted):
                del self._asked[replica], self._again_at_seconds[replica]
                self._tried.pop(replica, None)
            for replica in wanted:
                if now < self._again_at_seconds.get(replica, now):
                    continue
                waited = self._asked.get(replica)
                if waited is not None and replica not in self._answered:
                    self._counts.add(Failed.UNANSWERED.value)
                self._answered.discard(replica)
                wait = FIRST_AGAIN_SECONDS if waited is None else min(2 * waited, LONGEST_AGAIN_SECONDS)
                self._asked[replica], self._again_at_seconds[replica] = wait, now + wait
                async with _command():
                    told = await client.get(self._claim(replica))
                key = told.decode() if isinstance(told, bytes) else ""
                if key.startswith(self._stories_at) and key != self._tried.get(replica):
                    with contextlib.suppress(asyncio.QueueFull):
                        answers.put_nowait(Word(self._boot, replica, key))  # another has just been told
                else:
                    await self._publish(client, Word(self._boot, replica))
            await asyncio.sleep(LOOK_SECONDS)

    async def _answer(self, client: redis.asyncio.Redis, asks: asyncio.Queue[str]) -> None:
        """One at a time: to tell is work."""
        while True:
            replica = await asks.get()
            async with _command():
                if not await client.set(self._claim(replica), self._boot, nx=True, px=round(1000 * CLAIM_SECONDS)):
                    continue
            try:
                async with asyncio.timeout(ERRAND_SECONDS):
                    told = await self._stories.tell(replica)
            except TimeoutError:
                self._counts.add(Failed.STALLED.value)
                continue
            if told is None or sum(map(len, told)) > MOST_BYTES:
                continue
            key = f"{self._stories_at}{self._boot}:{self._number}"
            self._number += 1
            for at in range(0, len(told), PARTS_AT_ONCE):
                async with _command():
                    await client.rpush(key, *told[at : at + PARTS_AT_ONCE])
                    await client.expire(key, round(KEPT_SECONDS))
            async with _command():
                await client.set(self._claim(replica), key, px=round(1000 * CLAIM_SECONDS))
            await self._publish(client, Word(self._boot, replica, key))
            self._counts.add(TOLD)
            self._say(f"{replica}: told another router what is in its cache")

    async def _take(self, client: redis.asyncio.Redis, answers: asyncio.Queue[Word]) -> None:
        while True:
            word = await answers.get()
            if word.replica not in self._asked or word.replica not in self._stories.wanted():
                continue
            self._answered.add(word.replica)
            self._tried[word.replica] = word.key
            told = await self._read(client, word.key)
            if told is None:
                self._counts.add(Failed.GONE.value)
                continue
            try:
                async with asyncio.timeout(ERRAND_SECONDS):
                    taken = await self._stories.take(word.replica, told)
            except TimeoutError:
                self._counts.add(Failed.STALLED.value)
                continue
            self._counts.add(taken.value)
            self._say(f"{word.replica}: what another router knows of its cache: {taken.value.replace('_', ' ')}")

    async def _read(self, client: redis.asyncio.Redis, key: str) -> list[bytes] | None:
        """All parts; None where there are none any more, or too many."""
        told: list[bytes] = []
        room = MOST_BYTES
        while True:
            async with _command():
                some = await client.lrange(key, len(told), len(told) + PARTS_AT_ONCE - 1)
            told += (part for part in some if isinstance(part, bytes))
            room -= sum(map(len, some))
            if room < 0:
                return None
            if len(some) < PARTS_AT_ONCE:
                return told or None

    def _claim(self, replica: str) -> str:
        return f"{self._prefix}:claim:{replica}"

    async def _publish(self, client: redis.asyncio.Redis, word: Word) -> None:
        async with _command():
            await client.publish(self._channel, _ENCODER.encode(word))


@contextlib.asynccontextmanager
async def _command() -> AsyncIterator[None]:
    """One command's time. uvloop answers a write to a connection that has just been closed with a RuntimeError."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield
    except RuntimeError as fault:
        raise ConnectionError("the connection was closed") from fault
