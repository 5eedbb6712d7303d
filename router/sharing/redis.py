"""The line between routers: one channel of a Redis or Valkey, written and heard by tasks of their own.

No request waits for it. What we have to say is read from the ledger every TELL_SECONDS, if the last message is through;
what others say goes into the ledger as it comes. Published messages are not kept by Redis: whoever was away is told
everything anew.

The line is up when our own message comes back, which proves both directions. It is taken for lost, and made anew, when
anything fails or takes longer than ANSWER_SECONDS, a Redis that hangs included. Meanwhile this router works alone: the
others' load is forgotten as theirs who fell silent is, and said so, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import traceback
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING

from router.clock import Clock
from router.config import SharedSettings
from router.errors import ConfigError
from router.fleet.ledger import Ledger
from router.fleet.rates import Rates
from router.fleet.roster import Roster
from router.index.memory import MemoryIndex
from router.index.open_blocks import OpenBlocks
from router.metrics import Tally
from router.sharing.apart import apart
from router.sharing.message import Malformed, unpack
from router.sharing.peers import Heard
from router.sharing.side import SWEEP_SECONDS, TELL_SECONDS, Side
from router.sharing.teller import WHOLE_SECONDS
from router.sharing.warm import Stories, Warm

if TYPE_CHECKING:
    import redis.asyncio

ANSWER_SECONDS = 1.0
ECHO_SECONDS = 2 * WHOLE_SECONDS + ANSWER_SECONDS  # our own message came back no later than this, or nobody hears us
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 2.0
FAREWELL_SECONDS = 0.5
PROTOCOL = 1  # in the channel's name: routers of another protocol are not understood, and not disturbed

Say = Callable[[str], None]


class Unreachable(Exception):
    """Redis does not answer as it should."""


class _Lost(Exception):
    """The line is of no use any more."""


class Line:
    """Keeps the line, speaks and listens. `up` and what follows are for people and metrics."""

    def __init__(
        self,
        settings: SharedSettings,
        router: str,
        *,
        roster: Roster,
        ledger: Ledger,
        rates: Rates,
        index: MemoryIndex,
        open_blocks: OpenBlocks | None,
        freed: Sequence[Callable[[], None]],
        clock: Clock,
        counts: Tally,
        say: Say,
        rng: Random,
        stories: Stories | None = None,
        warm_counts: Tally | None = None,
    ) -> None:
        """`router` is our name where none is configured; `freed` are called when a replica has room that others took
        before; `stories` is what we know of caches, told to newcomers and asked for as one (`warm`). No connection is
        made. Raises ConfigError."""
        self._open, self._faults = _client(settings)
        self._faults = (*self._faults, _Lost)
        self.where = settings.redis_url
        self.channel = channel(settings)
        self.router, self.boot = settings.router or router, f"{rng.getrandbits(64):016x}"
        self._side = Side(
            self.router,
            self.boot,
            roster=roster,
            ledger=ledger,
            rates=rates,
            index=index,
            open_blocks=open_blocks,
            freed=freed,
        )
        self.peers = self._side.peers
        self._warm: Warm | None = None
        if stories is not None:
            prefix = f"{settings.name}:{PROTOCOL}"
            counts_warm = counts if warm_counts is None else warm_counts
            self._warm = Warm(prefix, self.boot, stories, faults=self._faults, clock=clock, counts=counts_warm, say=say)
        self._clock = clock
        self._counts = counts
        self._say = say
        self._rng = rng
        self.up = False
        self.changed_at_seconds = clock.now()  # when `up` became what it is
        self.why: str | None = "not reached yet"  # it is not up
        self._told_away = False
        self._told_namesake = False
        self._wait_seconds = FIRST_WAIT_SECONDS
        self._echoed_at_seconds = 0.0

    async def run(self) -> None:
        """Never ends. A fault of ours is told, and the line made anew: it must not end the house."""
        while True:
            try:
                await apart(self._work())
            except* Exception as bugs:
                traceback.print_exception(bugs)
                self._lost(_first(bugs))
            await asyncio.sleep(LONGEST_WAIT_SECONDS)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep())
            tasks.create_task(self._keep_connected())

    async def _sweep(self) -> None:
        while True:
            for peer in self._side.sweep(self._clock.now()):
                self._counts.add("silent")
                if self.up:
                    self._say(f"router {peer.router} has fallen silent: its load is forgotten")
            await asyncio.sleep(SWEEP_SECONDS)

    async def _keep_connected(self) -> None:
        while True:
            try:
                await apart(self._connected())
            except* self._faults as faults:
                self._lost(_first(faults))
            await asyncio.sleep(self._wait_seconds * self._rng.uniform(0.5, 1.0))
            self._wait_seconds = min(2 * self._wait_seconds, LONGEST_WAIT_SECONDS)

    async def _connected(self) -> None:
        """Speak and listen until something fails."""
        client = self._open()
        ear = client.pubsub(ignore_subscribe_messages=True)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                with _closed_is_lost():
                    await ear.subscribe(self.channel)
            self._echoed_at_seconds = self._clock.now()
            self._side.anew()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hear(ear))
                tasks.create_task(self._speak(client))
                if self._warm is not None:
                    tasks.create_task(self._warm.run(client))
        finally:
            with contextlib.suppress(*self._faults):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await ear.aclose()  # type: ignore[no-untyped-call] # redis-py
                    await client.aclose()

    async def _speak(self, client: redis.asyncio.Redis) -> None:
        try:
            while True:
                now = self._clock.now()
                if now - self._echoed_at_seconds > ECHO_SECONDS:
                    raise _Lost(f"nothing we say comes back for {ECHO_SECONDS:.0f} s")
                message = self._side.tell(now)
                if message is not None:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        with _closed_is_lost():
                            await client.publish(self.channel, message)
                    self._counts.add("sent")
                await asyncio.sleep(TELL_SECONDS)
        except asyncio.CancelledError:
            if self.up:  # the house closes: the others need not wait for our silence
                with contextlib.suppress(*self._faults):
                    async with asyncio.timeout(FAREWELL_SECONDS):
                        with _closed_is_lost():
                            await client.publish(self.channel, self._side.farewell())
            raise

    async def _hear(self, ear: redis.asyncio.client.PubSub) -> None:
        while True:
            message = await ear.get_message(timeout=None)
            if message is not None:
                self._take(message["data"])
            await asyncio.sleep(0)  # what has come already is read without waiting: requests come between

    def _take(self, packed: bytes) -> None:
        now = self._clock.now()
        try:
            told = unpack(packed)
        except Malformed:
            self._counts.add("malformed")
            return
        heard = self._side.take(told, now)
        self._counts.add(heard.value)
        if heard is Heard.OWN:
            self._echoed(now)
            return
        if heard is Heard.NEW:
            self._say(f"router {told.router} shares its load with us")
        elif heard is Heard.LEFT:
            self._say(f"router {told.router} has left")
        if self.peers.has_namesake() and not self._told_namesake:
            self._told_namesake = True
            self._say(f"another router calls itself {told.router}, too: give each its own shared.router")

    def _echoed(self, now: float) -> None:
        self._echoed_at_seconds = now
        self._wait_seconds = FIRST_WAIT_SECONDS
        if self.up:
            return
        away = f" again after {now - self.changed_at_seconds:.1f} s" if self._told_away else ""
        self._say(f"shared: {self.where} answers{away}; routers share their load on {self.channel}")
        self.up, self.why, self.changed_at_seconds, self._told_away = True, None, now, False

    def _lost(self, fault: BaseException) -> None:
        self.why = " ".join(str(fault).split()) or type(fault).__name__
        self._counts.add("lost")
        if self.up:
            self.up, self.changed_at_seconds = False, self._clock.now()
        if not self._told_away:
            self._told_away = True
            self._say(
                f"shared: {self.where} is away ({self.why}); this router counts only its own load and what the "
                "replicas tell, until it is back"
            )


@contextlib.contextmanager
def _closed_is_lost() -> Iterator[None]:
    """uvloop answers a write to a connection that has just been closed with a RuntimeError; asyncio only logs."""
    try:
        yield
    except RuntimeError as fault:
        raise _Lost("the connection was closed") from fault


def channel(settings: SharedSettings) -> str:
    return f"{settings.name}:{PROTOCOL}:load"


async def listeners(settings: SharedSettings, timeout_seconds: float) -> int:
    """How many routers listen now. Raises ConfigError without the client package, Unreachable with the reason."""
    connect, faults = _client(settings)
    client = connect()
    try:
        async with asyncio.timeout(timeout_seconds):
            ((_, count),) = await client.pubsub_numsub(channel(settings))
    except faults as fault:
        raise Unreachable(" ".join(str(fault).split()) or type(fault).__name__) from fault
    finally:
        with contextlib.suppress(*faults):
            async with asyncio.timeout(timeout_seconds):
                await client.aclose()
    return int(count)


def _client(settings: SharedSettings) -> tuple[Callable[[], redis.asyncio.Redis], tuple[type[Exception], ...]]:
    """What makes a client, and what it may raise. Raises ConfigError where the optional package is missing."""
    missing = missing_client()
    if missing:
        raise ConfigError(missing)
    import redis.asyncio  # noqa: PLC0415 # optional
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    url = settings.redis_url
    assert url is not None

    def connect() -> redis.asyncio.Redis:
        return redis.asyncio.Redis.from_url(
            url,
            password=settings.password(),
            client_name="homing",
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),  # we know ourselves when to try again
        )

    return connect, (redis.exceptions.RedisError, OSError, TimeoutError)


def missing_client(package: str = "redis") -> list[str]:
    """The fault of an installation without the optional client; none where it is there."""
    if importlib.util.find_spec(package) is not None:
        return []
    return ["shared.redis_url: the Redis client is missing. pip install 'homing[redis]'"]


def _first(faults: BaseException) -> BaseException:
    while isinstance(faults, BaseExceptionGroup):
        faults = faults.exceptions[0]
    return faults
