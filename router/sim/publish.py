"""KV events over ZMQ, as vLLM's publisher sends them. Edge.

Live batches go out on a PUB socket as `[topic, sequence, payload]`, numbered from 0 for each process. A ROUTER socket
answers `["", first sequence]` with every batch it still has from there on, then an end marker numbered -1. From 0.26.0
on an answer carries the topic, before that it does not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any  # sockets of both kinds

import zmq
import zmq.asyncio

from router.errors import ConfigError
from router.sim.failures import Failures
from router.sim.wire import Encoding, Event, encode_batch, without_salt

END_OF_REPLAY = b"\xff" * 8
BIND_TRIES = 50
BIND_PAUSE_SECONDS = 0.02  # a closed ZMQ socket gives its port back from another thread, a little later


@dataclass(frozen=True, slots=True)
class EventSettings:
    """How events leave a replica. Port 0 switches a socket off."""

    topic: str = "kv-events"
    buffer_steps: int = 10_000  # batches kept for replay
    encoding: Encoding = Encoding.MAPS
    topic_in_replay: bool = True  # 0.26.0 and later
    names_as_bytes: bool = False


class Publisher:
    """The event sockets of one replica process; `restart` makes it those of the next process."""

    def __init__(
        self, host: str, events_port: int, replay_port: int, settings: EventSettings, failures: Failures
    ) -> None:
        self._host = host
        self._events_port = events_port
        self._replay_port = replay_port
        self._settings = settings
        self._failures = failures
        self._topic = settings.topic.encode()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._async_context = zmq.asyncio.Context.shadow(self._context.underlying)
        self._live: zmq.Socket[bytes] | None = None
        self._replay: zmq.asyncio.Socket | None = None
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=max(settings.buffer_steps, 0))
        self._sequence = 0

    async def open(self) -> None:
        """Bind both sockets; waits for a port that is just being given back."""
        self._live = self._context.socket(zmq.PUB)
        self._live.set_hwm(100_000)
        await self._bind(self._live, self._events_port)
        if self._replay_port:
            self._replay = self._async_context.socket(zmq.ROUTER)
            await self._bind(self._replay, self._replay_port)

    def forget(self) -> None:
        """Become the publisher of a new process: numbering from 0, nothing to replay."""
        self._sequence = 0
        self._kept.clear()

    def close(self) -> None:
        for socket in (self._live, self._replay):
            if socket is not None:
                socket.close(linger=0)
        self._live = self._replay = None

    def destroy(self) -> None:
        self.close()
        self._context.term()

    def publish(self, wall_seconds: float, events: Sequence[Event]) -> None:
        """Send one batch; an engine step without news sends nothing."""
        if not events or self._failures.loses_batch():
            return
        if self._failures.hide_salts:
            events = [without_salt(event) for event in events]
        payload = encode_batch(wall_seconds, events, encoding=self._settings.encoding)
        self._kept.append((self._sequence, payload))
        for sequence, shown in self._failures.published(self._sequence, payload):
            if self._live is not None:
                self._live.send_multipart((self._topic, sequence.to_bytes(8, "big"), shown), flags=zmq.NOBLOCK)
        self._sequence += 1

    async def serve_replays(self) -> None:
        """Answer replay requests for as long as the socket is open."""
        socket = self._replay
        while socket is not None and not socket.closed:
            try:
                frames = await socket.recv_multipart()
            except (zmq.ZMQError, asyncio.CancelledError):
                if socket.closed:
                    return
                raise
            # Exactly [peer, "", sequence]; anything else is ignored in silence, as the engine does.
            if len(frames) == 3 and len(frames[2]) == 8 and not self._failures.no_replay:
                await self._answer(socket, frames[0], int.from_bytes(frames[2], "big"))

    async def _answer(self, socket: zmq.asyncio.Socket, peer: bytes, first: int) -> None:
        topic = (self._topic,) if self._settings.topic_in_replay else ()
        for sequence, payload in list(self._kept):
            if sequence >= first:
                await socket.send_multipart((peer, b"", *topic, sequence.to_bytes(8, "big"), payload))
        await socket.send_multipart((peer, b"", *(b"" for _ in topic), END_OF_REPLAY, b""))

    async def _bind(self, socket: zmq.Socket[Any], port: int) -> None:
        for tries_left in reversed(range(BIND_TRIES)):
            try:
                socket.bind(f"tcp://{self._host}:{port}")
            except zmq.ZMQError as error:
                if not tries_left:
                    fault = f"Cannot bind tcp://{self._host}:{port} for events ({error}). Choose another first port."
                    raise ConfigError([fault]) from error
                await asyncio.sleep(BIND_PAUSE_SECONDS)
            else:
                return
