"""Replicas from the configuration: they are there from the start, and stay."""

from __future__ import annotations

from collections.abc import Sequence

from router.config import Engine, KvHandshake, ReplicaSettings
from router.fleet.replica import EventAddress, Replica, ReplicaId, Role


def replicas(settings: Sequence[ReplicaSettings]) -> tuple[Replica, ...]:
    """One Replica per entry, in order."""
    return tuple(
        Replica(
            id=ReplicaId(one.name),
            url=one.url,
            events=EventAddress(one.events, one.replay, one.topic) if one.events else None,
            engine=None if one.engine is Engine.AUTO else one.engine.value,
            role=Role(one.role.value),
            labels=one.labels,
            handshake=None if one.handshake is KvHandshake.AUTO else one.handshake.value,
            bootstrap_port=one.bootstrap_port,
        )
        for one in settings
    )
