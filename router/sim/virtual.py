"""A fleet in virtual time: passive engines, clients and routers on one heap, a month of traffic in minutes.

Everything that happens is an entry of the heap: a request arrives, an engine's step ends, a batch of events reaches a
router, something breaks. Ties go by order of entry, so a seed decides everything. The fleet knows its routers only
through `Router`: what decides in virtual time is whatever stands behind it.

Events reach each router by itself, after a delay of its own, and may be lost on the way. A router that misses some asks
for them again, as live ones do: a round trip later it is given all that was published since. Requests go to the routers
in turn, as a load balancer would send them. What routers tell each other is none of the fleet's: it gives them a pulse.
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import count, takewhile
from random import Random
from typing import Protocol

from router.sim.cache import Namespace
from router.sim.engine import Engine, EngineLimits, Job, Output
from router.sim.timing import Timing
from router.sim.troubles import News, Trouble
from router.sim.wire import Event
from router.sim.wires import Legs, Wires, WireTiming

KEPT_BATCHES = 10_000  # for replay: vLLM's default


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a workload."""

    request_id: str
    at_seconds: float
    prompt: array[int]  # typecode "I"
    answer: Sequence[int]
    session: str | None = None


@dataclass(slots=True)
class Story:
    """What became of one request. Changed by the fleet alone."""

    arrival_seconds: float
    prompt_tokens: int
    replica: int = -1
    donor: int | None = None  # which computed the prompt, where that was another one
    sent_seconds: float = 0.0
    first_token_seconds: float | None = None
    last_token_seconds: float = 0.0
    answer_tokens: int = 0
    cached_tokens: int = 0
    finished: bool = False
    attempts: int = 0


class Unsent(Enum):
    """Why a router sent a request nowhere."""

    REFUSED = "refused"
    HELD = "held"  # it comes with a later `let_go`


class Router(Protocol):
    """What decides. Times are virtual seconds."""

    def route(self, arrival: Arrival, now: float) -> int | Legs | Unsent:
        """The number of a replica, or of two, or why none. Called again for a request whose replica died before its
        answer."""

    def let_go(self, now: float) -> Sequence[tuple[str, int | Legs]]:
        """Requests that were held and go now, each with where. Asked whenever something ended."""

    def computed(self, request_id: str, now: float, cached_tokens: int) -> None:
        """The donor of a split request has computed the prompt, of which so much was cached."""

    def first_token(self, request_id: str, now: float) -> None: ...

    def finished(self, request_id: str, now: float, cached_tokens: int) -> None: ...

    def failed(self, request_id: str, now: float) -> None:
        """Its replica died before the first token: `route` follows. Later: the request is over."""

    def heard(self, replica: int, number: int, events: Sequence[Event], now: float) -> int | None:
        """A batch of a replica's events; numbers of one process ascend from 0, and one that is missing was lost.

        What is returned is asked for again: the first number that is missing."""

    def replayed(self, replica: int, batches: Sequence[tuple[int, Sequence[Event]]], now: float) -> None:
        """All that the replica still has from the number that was asked for on, in order."""

    def down(self, replica: int, now: float) -> None: ...

    def up(self, replica: int, now: float) -> None:
        """A replica's process has begun, with an empty cache; the first time too."""


class Workload(Protocol):
    """Where requests come from. Open loop: all from `begin`. Closed: `after` tells what follows an answer."""

    def begin(self) -> Iterator[Arrival]:
        """Arrivals in ascending order of time."""

    def after(self, arrival: Arrival, now: float) -> Sequence[Arrival]:
        """What is asked because this was answered, at or after `now`: nothing where `begin` tells all."""


@dataclass(slots=True)
class _Machine:
    engine: Engine
    alive: bool = True
    wake: int = 0  # of the entry that counts; older ones are passed over
    batches: int = 0  # numbered so far
    kept: deque[tuple[int, Sequence[Event]]] = field(default_factory=lambda: deque(maxlen=KEPT_BATCHES))


@dataclass(frozen=True, slots=True)
class _Leg:
    arrival: Arrival
    legs: Legs
    attempt: int


class VirtualFleet:
    """`run` plays a workload to its end."""

    def __init__(
        self,
        *,
        replicas: int,
        limits: EngineLimits,
        timing: Timing | Callable[[int], Timing],
        routers: Sequence[Router],
        workload: Workload,
        seed: int,
        news: News | None = None,
        troubles: Sequence[Trouble] = (),
        joins: Sequence[tuple[float, int]] = (),
        longest_stride: int = 4096,
        wires: WireTiming | None = None,
        pulse: Callable[[float], float] | None = None,
    ) -> None:
        """`joins` are (seconds, replica) of those that are not there from the start. `pulse` is called with the time,
        at first at 0, and again when it says, as long as anything is to come."""
        self.stories: dict[str, Story] = {}
        self.now = 0.0
        self.refused = 0
        self._limits = limits
        self._timings = [timing(number) if callable(timing) else timing for number in range(replicas)]
        self._routers = routers
        self._workload = workload
        self._news = news or News()
        self._wires = Wires(wires or WireTiming())
        self._chance = Random(seed)
        self._stride = longest_stride
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._open: dict[str, tuple[Arrival, Router]] = {}
        self._legs: dict[str, _Leg] = {}  # prefill legs under way, by the name of their job
        self._held: dict[str, Arrival] = {}
        self._turn = 0
        self._pulse = pulse
        self._arriving = True  # more is to come from the workload
        late = {replica for _, replica in joins}
        self._machines = [self._machine(number, alive=number not in late) for number in range(replicas)]
        for number, machine in enumerate(self._machines):
            if machine.alive:
                self._tell_up(number)
        for at, replica in joins:
            self._at(at, lambda replica=replica: self._rise(replica))  # type: ignore[misc]  # a default binds the loop's
        if pulse is not None:
            self._at(0.0, self._beat)
        for trouble in troubles:
            self._at(trouble.at_seconds, lambda trouble=trouble: self._befall(trouble))  # type: ignore[misc]

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Play on until nothing is left to happen, or `until` says so (asked after each arrival)."""
        arrivals = self._workload.begin()
        following = next(arrivals, None)
        heap = self._heap
        while heap or following is not None:
            if following is not None and (not heap or following.at_seconds <= heap[0][0]):
                self.now = max(self.now, following.at_seconds)
                self._arrive(following)
                following = next(arrivals, None)
                self._arriving = following is not None
                if until is not None and until():
                    return
                continue
            self.now, _, happen = heapq.heappop(heap)
            happen()

    def _beat(self) -> None:
        assert self._pulse is not None
        following = self._pulse(self.now)
        self._let_go()
        if self._arriving or self._open or self._held or self._heap:
            self._at(following, self._beat)

    # Requests

    def _arrive(self, arrival: Arrival) -> None:
        router = self._routers[self._turn % len(self._routers)]
        self._turn += 1
        self.stories[arrival.request_id] = Story(self.now, len(arrival.prompt))
        self._send(arrival, router)

    def _send(self, arrival: Arrival, router: Router) -> None:
        replica = router.route(arrival, self.now)
        if replica is Unsent.REFUSED:
            self.refused += 1
        elif replica is Unsent.HELD:
            self._held[arrival.request_id] = arrival
        else:
            self._sent(arrival, router, replica)

    def _let_go(self) -> None:
        if self._held:
            for router in self._routers:
                for request_id, replica in router.let_go(self.now):
                    self._sent(self._held.pop(request_id), router, replica)

    def _sent(self, arrival: Arrival, router: Router, replica: int | Legs) -> None:
        story = self.stories[arrival.request_id]
        story.donor, story.sent_seconds = None, self.now
        story.attempts += 1
        self._open[arrival.request_id] = (arrival, router)
        if isinstance(replica, Legs):
            story.donor, story.replica = replica
            self._prefill(arrival, replica, story.attempts)
            return
        story.replica = replica
        machine = self._machines[replica]
        if not machine.alive:
            self._lost(arrival.request_id)
            return
        machine.engine.submit(Job(arrival.request_id, arrival.prompt, arrival.answer), self.now)
        self._wake(replica)

    def _prefill(self, arrival: Arrival, legs: Legs, attempt: int) -> None:
        """The first leg of a split request."""
        machines = [self._machines[number] for number in legs]
        if not all(machine.alive for machine in machines):
            self._lost(arrival.request_id)
            return
        leg = _Leg(arrival, legs, attempt)
        name = f"{arrival.request_id}/prefill/{attempt}"
        self._legs[name] = leg
        machines[0].engine.submit(Job(name, arrival.prompt, arrival.answer[:1], keeps_blocks=True), self.now)
        self._wake(legs.donor)

    def _computed(self, name: str, cached_tokens: int) -> None:
        """The prompt's KV sets out for the second leg."""
        leg = self._legs.pop(name)
        donor, taker = (self._machines[number] for number in leg.legs)

        def let_go() -> None:
            if donor.engine.release(name) and donor is self._machines[leg.legs.donor]:
                self._wake(leg.legs.donor)  # somebody may have waited for these blocks

        if not self._stands(leg):
            let_go()
            return
        self._open[leg.arrival.request_id][1].computed(leg.arrival.request_id, self.now, cached_tokens)
        lacking = taker.engine.lacking(leg.arrival.prompt, Namespace())
        done = self._wires.begin(*leg.legs, lacking, self.now)

        def arrive() -> None:
            let_go()
            if self._stands(leg):
                job = Job(leg.arrival.request_id, leg.arrival.prompt, leg.arrival.answer)
                come = replace(job, imported_tokens=len(job.prompt), reported_cached_tokens=cached_tokens)
                taker.engine.submit(come, self.now)
                self._wake(leg.legs.taker)

        self._at(done, arrive)

    def _stands(self, leg: _Leg) -> bool:
        """Whether the request still waits for this attempt."""
        request_id = leg.arrival.request_id
        return request_id in self._open and self.stories[request_id].attempts == leg.attempt

    def _lost(self, request_id: str) -> None:
        arrival, router = self._open.pop(request_id)
        story = self.stories[request_id]
        router.failed(request_id, self.now)
        if story.first_token_seconds is None and story.attempts < 3:
            self._send(arrival, router)

    # Engines

    def _wake(self, replica: int) -> None:
        machine = self._machines[replica]
        due = machine.engine.next_step_at()
        if due is not None:
            machine.wake += 1
            wake = machine.wake
            self._at(max(due, self.now), lambda: self._step(replica, wake))

    def _step(self, replica: int, wake: int) -> None:
        machine = self._machines[replica]
        if wake != machine.wake or not machine.alive:
            return
        result = machine.engine.step(self.now)
        if result.events:
            self._publish(replica, machine, result.events)
        for output in result.outputs:
            self._told(output)
        self._wake(replica)
        self._let_go()

    def _told(self, output: Output) -> None:
        if output.request_id in self._legs:
            self._computed(output.request_id, output.cached_tokens)
            return
        story = self.stories[output.request_id]
        arrival, router = self._open[output.request_id]
        if story.first_token_seconds is None:
            story.first_token_seconds = self.now
            story.cached_tokens = output.cached_tokens
            router.first_token(output.request_id, self.now)
        story.answer_tokens += output.count
        story.last_token_seconds = self.now
        if output.finished:
            story.finished = True
            del self._open[output.request_id]
            router.finished(output.request_id, self.now, output.cached_tokens)
            for following in self._workload.after(arrival, self.now):
                self._at(following.at_seconds, lambda following=following: self._arrive(following))  # type: ignore[misc]

    # News

    def _publish(self, replica: int, machine: _Machine, events: Sequence[Event]) -> None:
        news, number = self._news, machine.batches
        machine.batches += 1
        machine.kept.append((number, events))
        for router in self._routers:
            if news.lost_ratio and self._chance.random() < news.lost_ratio:
                continue
            delay = news.delay_seconds + (news.jitter_seconds * self._chance.random() if news.jitter_seconds else 0.0)
            self._at(self.now + delay, lambda to=router: self._deliver(to, machine, replica, number, events))  # type: ignore[misc]

    def _deliver(self, to: Router, machine: _Machine, replica: int, number: int, events: Sequence[Event]) -> None:
        if machine is not self._machines[replica]:
            return  # its process has ended, and the connection with it
        missing = to.heard(replica, number, events, self.now)
        if missing is not None:
            self._at(self.now + self._news.delay_seconds, lambda: self._replay(to, machine, replica, missing))

    def _replay(self, to: Router, machine: _Machine, replica: int, first: int) -> None:
        """The question has come to the engine; the answer takes as long to come back."""
        if machine is not self._machines[replica]:
            return
        batches = list(takewhile(lambda kept: kept[0] >= first, reversed(machine.kept)))[::-1]
        self._at(self.now + self._news.delay_seconds, lambda: to.replayed(replica, batches, self.now))

    # Trouble

    def _befall(self, trouble: Trouble) -> None:
        machine = self._machines[trouble.replica]
        if trouble.slow is not None:
            machine.engine.timing = self._timings[trouble.replica].faster(1.0 / trouble.slow)
        if trouble.down_seconds is not None and machine.alive:
            machine.alive = False
            for router in self._routers:
                router.down(trouble.replica, self.now)
            for request_id in [r for r in self._open if trouble.replica in self._where(r)]:
                self._lost(request_id)
            self._at(self.now + trouble.down_seconds, lambda: self._rise(trouble.replica))

    def _where(self, request_id: str) -> tuple[int | None, int]:
        """The replicas an open request needs."""
        story = self.stories[request_id]
        return (story.donor if story.first_token_seconds is None else None), story.replica

    def _rise(self, replica: int) -> None:
        self._machines[replica] = self._machine(replica, alive=True)
        self._tell_up(replica)
        self._let_go()

    def _tell_up(self, replica: int) -> None:
        for router in self._routers:
            router.up(replica, self.now)

    def _machine(self, replica: int, *, alive: bool) -> _Machine:
        root = self._chance.getrandbits(256).to_bytes(32, "big")
        return _Machine(Engine(self._limits, self._timings[replica], root, longest_stride=self._stride), alive)

    def _at(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (seconds, next(self._order), happen))
