"""The event streams of all replicas: one subscription and one task for each, begun anew when it fails. An edge.

Who is to be heard, and what follows from what is heard, others decide; `zmq` hears.
"""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass
from typing import Protocol

import zmq

from router.events.ingest import Ingest
from router.events.kinds import Wire
from router.events.pace import Pace
from router.events.zmq import Observer, Subscription
from router.fleet.replica import EventAddress, Seat

HEAR_AGAIN_SECONDS = 5.0


class Watcher(Observer, Protocol):
    def deaf(self, seat: Seat, why: str, *, for_good: bool) -> None:
        """The replica cannot be heard: at this address not at all, or for a few seconds."""


@dataclass(slots=True)
class _Heard:
    subscription: Subscription
    wire: Wire
    model: str
    task: asyncio.Task[None] | None = None


class Streams:
    """Changed by whoever learns where replicas publish."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        ingest: Ingest,
        watcher: Watcher,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._context = context
        self._ingest = ingest
        self._watcher = watcher
        self._tasks = tasks
        self._pace = Pace()
        self._heard: dict[Seat, _Heard] = {}

    def hear(self, seat: Seat, address: EventAddress, wire: Wire, model: str) -> bool:
        """Hear the replica there, which serves `model` (a base). Whether that is new: an address or an encoding."""
        heard = self._heard.get(seat)
        if heard is not None and heard.subscription.address == address and heard.wire is wire:
            return False
        self.leave(seat)
        self._begin(seat, address, wire, model)
        return True

    def again(self, seat: Seat) -> None:
        """Hear the replica's whole story again, from the replay on."""
        heard = self._heard.get(seat)
        if heard is not None:
            self.leave(seat)
            self._begin(seat, heard.subscription.address, heard.wire, heard.model)

    def address(self, seat: Seat) -> EventAddress | None:
        """Where the replica is heard; None: nowhere."""
        heard = self._heard.get(seat)
        return None if heard is None else heard.subscription.address

    def subscription(self, seat: Seat) -> Subscription | None:
        """What hears the replica now; None: nothing."""
        heard = self._heard.get(seat)
        return None if heard is None else heard.subscription

    def process_started(self, seat: Seat, at_seconds: float) -> None:
        """The start time the replica tells of itself, each time it tells it."""
        heard = self._heard.get(seat)
        if heard is not None:
            heard.subscription.process_started(at_seconds)

    def replaced(self, seat: Seat) -> None:
        """Another process answers for the replica, and tells no start time."""
        heard = self._heard.get(seat)
        if heard is not None:
            heard.subscription.replaced()

    def leave(self, seat: Seat) -> None:
        """Hear it no longer. What was heard of it stays."""
        heard = self._heard.pop(seat, None)
        if heard is not None and heard.task is not None:
            heard.task.cancel()

    def close(self) -> None:
        for seat in tuple(self._heard):
            self.leave(seat)

    def _begin(self, seat: Seat, address: EventAddress, wire: Wire, model: str) -> None:
        self._ingest.join(seat, model)
        heard = self._heard[seat] = _Heard(self._subscription(seat, address, wire), wire, model)
        heard.task = self._tasks.create_task(self._run(seat, heard))

    async def _run(self, seat: Seat, heard: _Heard) -> None:
        endpoint = heard.subscription.address.endpoint
        while True:
            try:
                await heard.subscription.run()
            except zmq.ZMQError as fault:
                self._watcher.deaf(seat, f"KV events at {endpoint} cannot be heard: {fault}", for_good=True)
                return
            except Exception:  # a fault of ours: told, and the story begun anew from the replay
                traceback.print_exc()
                why = f"hearing {endpoint} failed; again in {HEAR_AGAIN_SECONDS:.0f} s"
                self._watcher.deaf(seat, why, for_good=False)
                self._ingest.begin(seat, whole=False)
                await asyncio.sleep(HEAR_AGAIN_SECONDS)
                heard.subscription = self._subscription(seat, heard.subscription.address, heard.wire)

    def _subscription(self, seat: Seat, address: EventAddress, wire: Wire) -> Subscription:
        return Subscription(self._context, seat, address, wire, self._ingest, self._watcher, self._pace)
