"""An ear on one replica's event stream, for as long as a check takes. Sockets only; what was heard is judged elsewhere.

Unlike the router's own subscription it takes every topic, keeps what cannot be read, and never asks for a replay by
itself: a doctor wants to see what is there, not to mend it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from router.clock import Clock
from router.doctor.ask import Ending, Silence, connect
from router.events.kinds import Batch, Wire, WireFault

MAX_HEARD = 4000  # of a busy engine's messages; a probe takes a few seconds
MAX_REPLAYED = 20_000  # twice the default buffer
SUBSCRIBED_SECONDS = 0.15  # a handshake tells that the publisher is there, not that it has read our subscription
NOWHERE = 2**63 - 1  # a number no publisher has reached: a replay from there is empty and costs it nothing


class Greeting(Enum):
    """What came of connecting to a publisher."""

    MET = "met"
    STRANGER = "stranger"  # something listens there, but no ZMQ publisher
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Heard:
    """One message. `batch` is None where it could not be read; `fault` then tells why."""

    topic: str | None  # None: the message has no topic frame
    sequence: int
    payload: bytes
    batch: Batch | None
    wall_seconds: float
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Replayed:
    """Answers to one replay request. `ended`: the end marker came, in a framing that can be read."""

    heard: tuple[Heard, ...]
    ended: bool
    answers: int  # messages of any kind


class Ear:
    """What is heard, as it comes. Only the reading task and `until` change it."""

    def __init__(self, greeting: Greeting, wire: Wire, clock: Clock) -> None:
        self.greeting = greeting
        self.unreadable = 0
        self._wire = wire
        self._clock = clock
        self._messages: deque[Heard] = deque(maxlen=MAX_HEARD)
        self._news = asyncio.Event()

    @property
    def heard(self) -> tuple[Heard, ...]:
        return tuple(self._messages)

    def take(self, message: Sequence[bytes]) -> None:
        heard = read(message, self._wire, self._clock.wall())
        if heard is None:
            self.unreadable += 1
        else:
            self._messages.append(heard)
        self._news.set()

    async def until(self, enough: Callable[[tuple[Heard, ...]], bool], timeout_seconds: float) -> bool:
        """Wait until `enough` of what was heard; False when the time ran out."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while not enough(self.heard):
                    self._news.clear()
                    await self._news.wait()
                return True
        return False


def read(message: Sequence[bytes], wire: Wire, wall_seconds: float) -> Heard | None:
    """One message of either kind; None for an end marker and for what has no number."""
    try:
        framed = wire.frames(message)
    except WireFault:
        return None
    if framed is None:
        return None
    sequence, payload = framed
    topic = message[-3].decode(errors="replace") if len(message) >= 3 else None
    try:
        return Heard(topic, sequence, payload, wire.decode(payload), wall_seconds)
    except WireFault as fault:
        return Heard(topic, sequence, payload, None, wall_seconds, fault.message)


@contextlib.asynccontextmanager
async def listening(
    context: zmq.asyncio.Context, endpoint: str, wire: Wire, clock: Clock, timeout_seconds: float
) -> AsyncIterator[Ear]:
    """Subscribe to everything at `endpoint` while the block runs. Raises zmq.ZMQError for an address that is none."""
    live = context.socket(zmq.SUB)
    try:
        live.linger = 0
        live.subscribe(b"")
        news = live.get_monitor_socket()
        try:
            live.connect(endpoint)
            greeting = await _greeted(news, timeout_seconds)
        finally:
            live.disable_monitor()
            news.close(0)
        ear = Ear(greeting, wire, clock)
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(_read(live, ear))
            try:
                if greeting is Greeting.MET:
                    await asyncio.sleep(SUBSCRIBED_SECONDS)
                yield ear
            finally:
                reading.cancel()
    finally:
        live.close(0)


async def _read(live: zmq.asyncio.Socket, ear: Ear) -> None:
    while True:
        ear.take(await live.recv_multipart())


async def _greeted(news: Any, timeout_seconds: float) -> Greeting:  # Any: pyzmq types its monitor as a plain socket
    refused = {
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
        zmq.EVENT_HANDSHAKE_FAILED_AUTH,
        zmq.EVENT_DISCONNECTED,
    }
    connected = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            while True:
                event = parse_monitor_message(await news.recv_multipart())["event"]
                connected = connected or event == zmq.EVENT_CONNECTED
                if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    return Greeting.MET
                if event in refused:
                    return Greeting.STRANGER
    return Greeting.STRANGER if connected else Greeting.NOBODY


async def replay(
    context: zmq.asyncio.Context, endpoint: str, wire: Wire, clock: Clock, first: int, timeout_seconds: float
) -> Replayed:
    """Ask for every kept batch from `first` on. Raises zmq.ZMQError for an address that is none."""
    heard: list[Heard] = []
    answers, ended = 0, False
    with context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(endpoint)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await dealer.send_multipart(wire.replay_request(first))
                while answers < MAX_REPLAYED:
                    message = await dealer.recv_multipart()
                    answers += 1
                    if _ends(message, wire):
                        ended = True
                        break
                    one = read(message, wire, clock.wall())
                    if one is not None:
                        heard.append(one)
    return Replayed(tuple(heard), ended, answers)


def _ends(message: Sequence[bytes], wire: Wire) -> bool:
    try:
        return wire.frames(message) is None
    except WireFault:
        return False


async def port(endpoint: str, timeout_seconds: float) -> Silence | None:
    """None where the TCP port of a ZMQ endpoint takes a connection."""
    try:
        parts = urlsplit(endpoint)
        host, number = parts.hostname, parts.port
    except ValueError:
        host = number = None
    if parts.scheme != "tcp" or not host or not number:
        return Silence(Ending.NO_ROUTE, f"{endpoint} is not tcp://HOST:PORT")
    connected = await connect(host, number, timeout_seconds)
    return connected if isinstance(connected, Silence) else None
