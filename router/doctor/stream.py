"""Examines one replica's event stream: where it is, whether its ports answer, and what a replay gives."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import zmq.asyncio

from router.clock import Clock
from router.doctor import events
from router.doctor.finding import Check, Finding, Status, skipped
from router.doctor.hear import NOWHERE, Ear, Greeting, Replayed, port, replay
from router.doctor.layout import Published, moved
from router.doctor.probe import placed_plain
from router.doctor.trial import Trial, most_alike
from router.engines.base import Dialect
from router.fleet.replica import EventAddress, Facts, Replica


@dataclass(frozen=True, slots=True)
class Found:
    """Where rank 0's events are; `address` None where nothing can be heard, and the findings tell why."""

    address: EventAddress | None
    buffer_steps: int | None
    findings: tuple[Finding, ...]


async def find(
    replica: Replica,
    dialect: Dialect,
    answers: Mapping[str, bytes],
    facts: Facts,
    layout: tuple[Published, ...] | None,
    timeout_seconds: float,
) -> Found:
    """Judge what is configured, and connect to every rank's port."""
    configured = replica.events
    address = configured or facts.events
    told = events.judge_events(dialect.name, layout, address, configured=configured is not None)
    publisher = events.judge_publisher(dialect.name, layout)
    endpoints: dict[int, str] = {}
    if address is not None and publisher.status is not Status.FAIL:
        endpoints[0] = address.endpoint
        for rank in range(1, facts.ranks or 1):
            other = dialect.learned(replica.url, answers, rank)[0].events
            if configured is not None:
                endpoints[rank] = moved(configured.endpoint, rank)
            elif other is not None:
                endpoints[rank] = other.endpoint
    silences = await asyncio.gather(*(port(endpoint, timeout_seconds) for endpoint in endpoints.values()))
    ports = {rank: (endpoints[rank], silence) for rank, silence in zip(endpoints, silences, strict=True)}
    reachable = bool(ports) and ports[0][1] is None
    buffer_steps = layout[0].buffer_steps if layout else None
    return Found(address if reachable else None, buffer_steps, (told, publisher, events.judge_ports(ports)))


@dataclass(frozen=True, slots=True)
class Hearing:
    """Judges what an ear heard, and asks for it again."""

    context: zmq.asyncio.Context
    dialect: Dialect
    clock: Clock
    timeout_seconds: float

    async def judge(self, found: Found, ear: Ear | None, trial: Trial | None) -> tuple[Finding, ...]:
        address = found.address
        if address is None or ear is None:
            checks = (Check.TOPIC, Check.FLOW, Check.NUMBERING, Check.REPLAY)
            return tuple(skipped(check, "no event port to connect to") for check in checks)
        heard = ear.heard
        probed = trial is not None and trial.first.fault is None
        ours = _ours(trial, ear)
        silence, empty, kept = None, None, None
        if address.replay is not None:
            silence = await port(address.replay, self.timeout_seconds)
            if silence is None:
                empty = await self._replay(address.replay, NOWHERE)
                if empty.ended and ear.greeting is Greeting.MET and (heard or probed):
                    # Few, unless the probe's event is missing: then all there are, as a router that joins asks for.
                    first = min(message.sequence for message in heard) if heard and ours else 0
                    kept = await self._replay(address.replay, first)
        newest = max((message.sequence for message in heard), default=None)
        tokens = None if trial is None else trial.tokens
        flow = events.judge_flow(
            self.dialect.name,
            ear.greeting,
            heard,
            ear.unreadable,
            ours=ours,
            probed=probed,
            replayed_ours=tokens is not None and kept is not None and most_alike(tokens, kept.heard) is not None,
        )
        replayed = events.judge_replay(self.dialect.name, address, silence, empty, kept, newest, found.buffer_steps)
        numbering = events.judge_numbering(heard, found.buffer_steps)
        return (events.judge_topic(address, heard), flow, numbering, replayed)

    async def _replay(self, endpoint: str, first: int) -> Replayed:
        return await replay(self.context, endpoint, self.dialect.wire, self.clock, first, self.timeout_seconds)


def _ours(trial: Trial | None, ear: Ear) -> bool:
    """Whether the probe's blocks were heard live, or something so like them that only its tokens differ."""
    if trial is None:
        return False
    if trial.tokens is None:
        return bool(ear.heard)
    placed = placed_plain(trial)
    return (placed is not None and placed.complete) or most_alike(trial.tokens, ear.heard) is not None
