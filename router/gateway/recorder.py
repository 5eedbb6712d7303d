"""A live gateway tells what its requests looked like, while somebody listens (`homing record`).

Off until a listener comes to the admin port, and off again when it goes: nothing is kept here, on disk or in memory,
beyond a bounded queue of finished requests. While it is off a request costs two attribute tests.

A recording holds the requests that arrived while it ran and were sent to a replica. They are told when they are
answered, so the stream lingers after its time for those still being written.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import msgspec

from router.clock import Clock
from router.errors import HomingError
from router.gateway.exchange import Exchange
from router.gateway.sighting import Keys, Sighting, finest

FORMAT_VERSION = 1
MOST_WAITING = 20_000  # requests to be told; beyond that they are dropped and counted
MOST_WAITING_IDS = 8_000_000  # 64 MB of block hashes
FLUSH_SECONDS = 0.2
QUIET_FLUSHES = 5  # an empty line after so many with nothing to tell: the listener knows that we live, and we of it
LINGER_SECONDS = 30.0


class AlreadyRecording(HomingError):
    status = 409
    kind = "invalid_request_error"


class Recording:
    """One recording. `note` and `take` are called on the event loop, `lines` from one thread at a time."""

    def __init__(self, began_seconds: float, lasts_seconds: float, model: str | None) -> None:
        self.told = self.dropped = self.left_out = 0
        self.began_seconds = began_seconds
        self.ends_seconds = began_seconds + lasts_seconds
        self.stopped = False
        self._model = model
        self._keys = Keys(secrets.token_bytes(32))
        self._waiting: deque[Sighting] = deque()
        self._waiting_ids = 0

    def note(self, exchange: Exchange, answer_tokens: int, now_seconds: float) -> None:
        """A request is over. Cheap: two lookups and a small object."""
        prompt = exchange.prompt
        if not self.began_seconds <= exchange.arrived_seconds < self.ends_seconds:
            return
        if self._model is not None and exchange.model != self._model:
            return
        if prompt is None or exchange.decision is None:
            self.left_out += 1
            return
        hashes, size = finest(prompt.hashes)
        ids = len(hashes or ())
        if len(self._waiting) >= MOST_WAITING or self._waiting_ids + ids > MOST_WAITING_IDS:
            self.dropped += 1
            return
        self._waiting_ids += ids
        first_token = exchange.first_token_seconds
        # Of a split request the prefill leg tells what was cached: what the taker reports came over the wire.
        usage = exchange.usage if exchange.donor is None else exchange.donor.usage
        self._waiting.append(
            Sighting(
                at_seconds=exchange.arrived_seconds - self.began_seconds,
                prompt_tokens=prompt.total_tokens,
                answer_tokens=answer_tokens,
                took_seconds=now_seconds - exchange.arrived_seconds,
                hashes=hashes,
                block_size_tokens=size,
                session=exchange.session_key,
                cached_tokens=None if usage is None else usage.cached_tokens,
                ttft_seconds=None if first_token is None else first_token - exchange.arrived_seconds,
                queued_seconds=exchange.held_seconds + exchange.queue_seconds,
            )
        )

    def take(self) -> list[Sighting]:
        """Everything that waits."""
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        self._waiting_ids -= sum(len(seen.hashes or ()) for seen in taken)
        return taken

    def lines(self, taken: list[Sighting]) -> bytes:
        """JSON lines. About 0.2 ms of CPU for a prompt of 100K tokens seen before, 4 ms for a new one."""
        return b"".join(self._keys.line(seen) + b"\n" for seen in taken)


def _silent(_line: str) -> None:
    pass


@dataclass(slots=True)
class Recorder:
    """The one recording that may run. None: nobody listens. `say` gets a sentence when one begins and when it ends."""

    say: Callable[[str], None] = _silent
    recording: Recording | None = None

    def stop(self) -> None:
        """End the recording that runs, if any, in good order: Homing stops."""
        if self.recording is not None:
            self.recording.stopped = True

    def stream(
        self,
        *,
        seconds: float,
        model: str | None,
        fleet: Mapping[str, object],
        clock: Clock,
        idle: Callable[[], bool],
    ) -> AsyncIterator[bytes]:
        """Lines of JSON: the fleet first, then requests, then how it went. Raises AlreadyRecording.

        It begins when the first line is asked for. `idle`: no request is being served.
        """
        if self.recording is not None:
            raise AlreadyRecording("A recording runs already. Wait for it to end, or end it where it was started.")
        return self._lines(Recording(clock.now(), seconds, model), fleet, clock, idle)

    async def _lines(
        self, recording: Recording, fleet: Mapping[str, object], clock: Clock, idle: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        if self.recording is not None:  # of two that asked in one moment, the first has it; the other hears no line
            return
        self.recording = recording
        self.say("recording: the admin port was asked what requests look like (keyed hashes, no text)")
        try:
            yield _line({"recording": {"version": FORMAT_VERSION, **fleet}})
            over, quiet = False, 0
            while not over:
                over = self._is_over(recording, clock.now(), idle)  # and what ended just now is told once more
                await asyncio.sleep(FLUSH_SECONDS)
                taken = recording.take()
                quiet = 0 if taken else quiet + 1
                if taken:
                    yield await asyncio.to_thread(recording.lines, taken)
                    recording.told += len(taken)
                elif quiet % QUIET_FLUSHES == 0:
                    yield b"\n"
            yield _line({"recording_end": _sums(recording, clock.now())})
        finally:
            self.recording = None
            self.say(f"recording: ended after {recording.told} requests")

    def _is_over(self, recording: Recording, now_seconds: float, idle: Callable[[], bool]) -> bool:
        past_seconds = now_seconds - recording.ends_seconds
        return recording.stopped or past_seconds >= LINGER_SECONDS or (past_seconds >= 0 and idle())


def _sums(recording: Recording, now_seconds: float) -> dict[str, object]:
    return {
        "requests": recording.told,
        "dropped": recording.dropped,  # for want of room in the queue
        "left_out": recording.left_out,  # sent to no replica
        "seconds": min(now_seconds, recording.ends_seconds) - recording.began_seconds,
    }


def _line(told: Mapping[str, object]) -> bytes:
    return msgspec.json.encode(told) + b"\n"
