"""Replicas from the configuration: they are there from the start, and stay."""

from __future__ import annotations

from collections.abc import Sequence

from router.config import Engine, ReplicaSettings
from router.fleet.replica import EventAddress, Replica, ReplicaId


def replicas(settings: Sequence[ReplicaSettings]) -> tuple[Replica, ...]:
    """One Replica per entry, in order."""
    return tuple(
        Replica(
            id=ReplicaId(one.name),
            url=one.url,
            events=EventAddress(one.events, one.replay, one.topic) if one.events else None,
            engine=None if one.engine is Engine.AUTO else one.engine.value,
        )
        for one in settings
    )
