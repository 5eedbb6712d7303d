"""One replica's event stream over ZMQ: a SUB for what comes, a DEALER for what we missed. The edge of this room.

What a number means, and when to ask again, is `sequence`'s to say; what an event means, `ingest`'s. This file does as
they say, and minds the order in which things become visible:

* subscribe first, then ask for the replay, then drop the overlap: a batch published between is in one or the other;
* a message is read first, then the connection's own news: a message of a new connection is thus never accepted
  before that connection has been put to the proof;
* while a replay is under way live messages wait in ZMQ's queue, bounded by its high-water mark. What is dropped there
  shows as a gap, and is asked for again.

Sockets are read without blocking when their file descriptor stirs: a fraction of the cost of pyzmq's futures.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import zmq
from xxhash import xxh3_64_intdigest

from router.events.ingest import Ingest
from router.events.kinds import Batch, Cleared, Wire, WireFault
from router.events.pace import Pace
from router.events.sequence import Begin, Cause, Deliver, Mark, Replay, Sequencer
from router.fleet.replica import EventAddress, Seat

PURGE_BLOCKS = 1000  # visited in one go after a replica's blocks were forgotten
MAX_ROUNDS = 8  # replays that may follow from one message; a publisher that contradicts itself longer is left be
WAITING_MESSAGES = 10_000  # ZMQ's receive queue, live; a busy engine publishes some tens a second
_EVENT = struct.Struct(
    "=H"
)  # how a monitor message begins: the kind of event; its value and address do not matter here
REPLAY_MESSAGES = 20_000  # twice vLLM's default buffer, so that a whole replay fits while we are busy

T = TypeVar("T")


class Observer(Protocol):
    """Who is told: metrics, log, and the keepers of what we guess of a replica."""

    def counted(self, seat: Seat, what: str, count: int) -> None:
        """`what` is of a small fixed set: batches applied, malformed frames, skipped events by cause, replays."""

    def forgotten(self, seat: Seat, cause: str) -> None:
        """All that was known of the replica's cache is void; `cause` is a `sequence.Cause` value or "cleared"."""

    def stream(self, seat: Seat, *, up: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, in seconds."""

    replay_silence: float = (
        2.0  # between two answers; the publisher serves replays between batches, 0.1 s apart when idle
    )
    retry_after: tuple[float, ...] = (0.2, 1.0)  # before the second and third attempt at a replay
    doubt_after: float = 30.0  # of silence: ask whether the last batches were lost
    reconnect: float = 0.1
    reconnect_most: float = 5.0
    heartbeat: float = 5.0  # a peer that does not answer is disconnected after three of them


class Subscription:
    """Mutable; `run` is its one task, and the only one to touch its sockets and its sequencer."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        seat: Seat,
        address: EventAddress,
        wire: Wire,
        ingest: Ingest,
        observer: Observer,
        pace: Pace,
        patience: Patience | None = None,
    ) -> None:
        self.seat = seat
        self.address = address
        self._context = context
        self._wire = wire
        self._ingest = ingest
        self._observer = observer
        self._pace = pace
        self._patience = patience or Patience()
        self._sequencer = Sequencer()
        self._connected = False
        self._behind = False  # connected, but what came while the replay was applied is still to be heard
        self._process_start_seconds: float | None = None
        self._replaced = False
        self._nudge: asyncio.Future[None] | None = None
        self._begun = False  # a story, since this was set
        self._errands: deque[Callable[[], Coroutine[None, None, None]]] = deque()

    def process_started(self, at_seconds: float) -> None:
        """The start time (Unix seconds) the replica tells of itself; looked at as soon as the stream's task can."""
        self._process_start_seconds = at_seconds
        if self._nudge is not None and not self._nudge.done():
            self._nudge.set_result(None)

    def replaced(self) -> None:
        """Another process answers for the replica, and tells no start time; looked at likewise."""
        self._replaced = True
        if self._nudge is not None and not self._nudge.done():
            self._nudge.set_result(None)

    @property
    def sequencer(self) -> Sequencer:
        """To be asked, and only by an errand."""
        return self._sequencer

    async def breathe(self) -> None:
        """To be awaited before each small piece of an errand's work."""
        await self._pace.breathe()

    def errand(self, work: Callable[[], Coroutine[None, None, T]]) -> asyncio.Future[T]:
        """Have something done in the stream's own task, between two batches, while the replica's story stands still.

        Never done if the stream ends before: wait with a timeout. What it raises ends the stream as well.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            if done.done():
                return  # nobody waits for it any more
            try:
                result = await work()
            except Exception as fault:
                if not done.done():
                    done.set_exception(fault)
                raise
            if not done.done():
                done.set_result(result)

        self._errands.append(run)
        if self._nudge is not None and not self._nudge.done():
            self._nudge.set_result(None)
        return done

    async def purge(self) -> None:
        """Free what was forgotten, bit by bit."""
        await self._purge()

    async def resume(self, mark: Mark) -> bool:
        """Go on from where another router stood: for an errand that has just made `Ingest` hold what that one knew.

        Whether the story does go on from there; else it has begun in another way, and what was held is forgotten.
        """
        self._begun = False
        await self._settle(self._sequencer.resume(mark))
        if not self._sequencer.proven:
            await self._settle(self._sequencer.replay_ended(answered=False))
        if not self._begun:
            self._ingest.proven(self.seat)
        self._behind = self._connected
        return not self._begun

    async def run(self) -> None:
        """Hear the replica until cancelled. Raises zmq.ZMQError when the address is none that ZMQ can connect to."""
        patience = self._patience
        with self._context.socket(zmq.SUB) as live:
            live.linger = 0
            live.rcvhwm = WAITING_MESSAGES
            live.setsockopt(zmq.RECONNECT_IVL, round(1000 * patience.reconnect))
            live.setsockopt(zmq.RECONNECT_IVL_MAX, round(1000 * patience.reconnect_most))
            live.setsockopt(zmq.HEARTBEAT_IVL, round(1000 * patience.heartbeat))
            live.setsockopt(zmq.HEARTBEAT_TIMEOUT, round(3000 * patience.heartbeat))
            live.subscribe(self.address.topic)
            news = live.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED)
            try:
                live.connect(self.address.endpoint)
                while True:
                    await self._hear(live, news)
            finally:
                self._up(False)
                live.disable_monitor()
                news.close(0)

    async def _hear(self, live: zmq.Socket[bytes], news: zmq.Socket[bytes]) -> None:
        """One message, or the next thing that happens to the connection."""
        message = _receive(live)
        if message is None and self._behind:
            self._up(True)
        while (event := _connection_event(news)) is not None:
            await self._connection(event)
        started, self._process_start_seconds = self._process_start_seconds, None
        if started is not None:
            await self._settle(self._sequencer.process_started(started))
        if self._replaced:
            self._replaced = False
            await self._settle(self._sequencer.replaced())
        while self._errands:
            await self._errands.popleft()()
        if message is not None:
            await self._live(message)
        elif self._behind:
            return  # the connection is new: look again
        elif not await self._stirred((live, news), self._patience.doubt_after, to_nudge=True) and self._connected:
            await self._settle(self._sequencer.doubtful())

    async def _connection(self, event: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connected = True
            await self._settle(self._sequencer.connected())
            self._behind = True
        elif event == zmq.EVENT_DISCONNECTED:
            self._up(False)
        elif not self._connected:  # EVENT_CLOSED: an attempt to connect has failed
            begin = self._sequencer.refused()
            if begin is not None:
                await self._begin(begin)

    async def _live(self, message: list[bytes]) -> None:
        read = self._read(message)
        if read is None:
            return
        sequence, fingerprint, batch = read
        for _ in range(MAX_ROUNDS):
            step = self._sequencer.accept(sequence, batch.time_seconds, fingerprint)
            if not isinstance(step, Replay):
                if isinstance(step, Deliver):
                    await self._deliver(step, batch)
                return
            await self._settle(step)

    async def _settle(self, step: Begin | Replay | None) -> None:
        """Do what the sequencer asks for, and what follows from the answers."""
        for _ in range(MAX_ROUNDS):
            if isinstance(step, Begin):
                await self._begin(step)
                return
            if step is None:
                return
            if step.begin is not None:
                await self._begin(step.begin)
            step = await self._replay(step.first)

    async def _replay(self, first: int) -> Begin | Replay | None:
        """Ask for all from `first` on, and again a few times when nobody answers.

        A long replay outruns the publisher's queue, which then drops answers and the end marker too: whatever brought
        us further costs no attempt.
        """
        endpoint = self.address.replay
        if endpoint is not None:
            self._observer.counted(self.seat, "replay", 1)
            pauses = iter(self._patience.retry_after)
            while True:
                reached = self._sequencer.expected
                with self._context.socket(zmq.DEALER) as dealer:
                    ended = await self._answers(dealer, endpoint, first)
                if isinstance(ended, Replay):
                    return ended
                if ended:
                    return self._sequencer.replay_ended(answered=True)
                pause_seconds = next(pauses, None) if self._sequencer.expected == reached else 0.0
                if pause_seconds is None:
                    break
                self._observer.counted(self.seat, "replay_timeout", 1)
                await asyncio.sleep(pause_seconds)
                first = max((self._sequencer.expected or 0) - 1, 0)
            self._observer.counted(self.seat, "replay_failed", 1)
        return self._sequencer.replay_ended(answered=False)

    async def _answers(self, dealer: zmq.Socket[bytes], endpoint: str, first: int) -> bool | Replay:
        """One attempt: whether the end marker came, or the other replay to ask for instead."""
        dealer.linger = 0
        dealer.rcvhwm = REPLAY_MESSAGES
        dealer.connect(endpoint)
        dealer.send_multipart(self._wire.replay_request(first), zmq.NOBLOCK)
        while True:
            message = _receive(dealer)
            if message is None:
                if not await self._stirred((dealer,), self._patience.replay_silence):
                    return False
                continue
            if self._ends(message):
                return True
            read = self._read(message)
            if read is None:
                continue
            sequence, fingerprint, batch = read
            step = self._sequencer.replayed(sequence, batch.time_seconds, fingerprint)
            if isinstance(step, Replay):
                return step
            if isinstance(step, Deliver):
                await self._deliver(step, batch)
            else:
                await self._pace.breathe()

    def _ends(self, message: list[bytes]) -> bool:
        try:
            return self._wire.frames(message) is None
        except WireFault:
            return False

    def _read(self, message: list[bytes]) -> tuple[int, int, Batch] | None:
        """Sequence, fingerprint and batch. An unreadable message is counted; if it was a batch, it shows as a gap."""
        try:
            framed = self._wire.frames(message)
            if framed is None:
                return None
            sequence, payload = framed
            return sequence, xxh3_64_intdigest(payload), self._wire.decode(payload)
        except WireFault:
            self._observer.counted(self.seat, "malformed_frame", 1)
            return None

    async def _deliver(self, step: Deliver, batch: Batch) -> None:
        if step.begin is not None:
            await self._begin(step.begin)
        for skip in batch.skipped:
            self._observer.counted(self.seat, skip.value, 1)
        for event in batch.events:
            await self._pace.breathe()
            self._ingest.apply(self.seat, event)
            if isinstance(event, Cleared):
                self._observer.forgotten(self.seat, "cleared")
                await self._purge()
        self._observer.counted(self.seat, "batch", 1)

    async def _begin(self, begin: Begin) -> None:
        self._begun = True
        lost = "a gap in them that no replay filled" if begin.cause is Cause.GAP else None
        self._ingest.begin(self.seat, whole=begin.whole, lost=lost)
        self._observer.forgotten(self.seat, begin.cause.value)
        await self._purge()

    async def _purge(self) -> None:
        while self._ingest.purge(PURGE_BLOCKS):
            await self._pace.breathe()

    def _up(self, up: bool) -> None:
        self._connected = up
        self._behind = False
        self._ingest.stream(self.seat, up=up)
        self._observer.stream(self.seat, up=up)

    async def _stirred(
        self, sockets: Sequence[zmq.Socket[bytes]], timeout_seconds: float, *, to_nudge: bool = False
    ) -> bool:
        """Wait until one of the sockets may have something, or a nudge comes; False when nothing did for so long."""
        loop = asyncio.get_running_loop()
        stir: asyncio.Future[None] = loop.create_future()
        self._nudge = stir if to_nudge else None

        def stirs() -> None:
            if not stir.done():
                stir.set_result(None)

        # The descriptor tells of changes only, hence readers first, then a look. They do not outlive this wait: a
        # descriptor nobody reads would keep the loop spinning.
        descriptors = [int(socket.getsockopt(zmq.FD)) for socket in sockets]
        try:
            for descriptor in descriptors:
                loop.add_reader(descriptor, stirs)
            nudged = self._process_start_seconds is not None or self._replaced or bool(self._errands)
            if any(map(_readable, sockets)) or (to_nudge and nudged):
                return True
            async with asyncio.timeout(timeout_seconds):
                await stir
        except TimeoutError:
            return False
        finally:
            self._nudge = None
            for descriptor in descriptors:
                loop.remove_reader(descriptor)
        return True


def _receive(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    """The next message, None when there is none now."""
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None


def _connection_event(news: zmq.Socket[bytes]) -> int | None:
    try:
        return int(_EVENT.unpack_from(news.recv_multipart(zmq.NOBLOCK)[0])[0])
    except zmq.Again:
        return None


def _readable(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
