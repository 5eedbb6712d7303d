"""The data-parallel ranks behind one address, each a replica of its own: own cache, own queue, own event stream.

The address alone tells requests apart by a header, so a rank is named `ID#RANK`; a server with one engine keeps its
plain name. Where the events of a server are configured, rank r publishes and replays r ports higher, as engines do.
"""

from __future__ import annotations

from dataclasses import replace

from router.fleet.replica import EventAddress, Replica, ReplicaId


def replicas(server: Replica, ranks: int) -> tuple[Replica, ...]:
    """One Replica for each of the server's ranks, in their order."""
    if ranks <= 1:
        return (server,)
    return tuple(
        replace(
            server,
            id=ReplicaId(f"{server.id}#{rank}"),
            rank=rank,
            events=None if server.events is None else _moved(server.events, rank),
        )
        for rank in range(ranks)
    )


def _moved(address: EventAddress, ports: int) -> EventAddress:
    return replace(
        address,
        endpoint=_higher(address.endpoint, ports),
        replay=None if address.replay is None else _higher(address.replay, ports),
    )


def _higher(endpoint: str, ports: int) -> str:
    host, port = endpoint.rsplit(":", 1)
    return f"{host}:{int(port) + ports}"
