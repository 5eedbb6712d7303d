"""What the annotations of a pod, or the labels of a Service, tell of a replica that it does not tell itself. Pure.

| key | value |
| --- | --- |
| homing/port | the port of the OpenAI endpoint |
| homing/role | prefill, decode or both (default) |
| homing/engine | vllm or sglang, instead of being recognised |
| homing/event-port | where KV events are published; rank r publishes r ports higher. Default: ask the replica |
| homing/replay-port | where they are replayed |
| homing/event-topic | default: none |
| homing/ranks | data-parallel engines behind the address, where the server does not tell |
| homing/handshake | nixl, mooncake or sglang: how it moves KV. Default: its engine's own, where it has a role |
| homing/bootstrap-port | of its side of that handshake. Default: the handshake's own |
| homing/label-NAME | the label NAME, by which a policy can price distance (`near_label`) |

Where a pod or an endpoint tells its zone in Kubernetes' own way (the labels topology.kubernetes.io/zone and /region of
a pod, which the cluster or the manifest puts there; the zone of an endpoint), that is the label `zone` (`region`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from router.config import Engine, KvHandshake
from router.fleet.replica import EventAddress, Replica, ReplicaId, Role

PREFIX = "homing/"
LABEL = "label-"
TOPOLOGY = "topology.kubernetes.io/"
NEAR = ("zone", "region")
KNOWN = frozenset(
    {
        *("port", "role", "engine", "event-port", "replay-port", "event-topic", "ranks"),
        *("handshake", "bootstrap-port", LABEL + "NAME"),
    }
)
LARGEST_PORT = 65_535
MOST_RANKS = 256

Value = TypeVar("Value")


class NoteFault(ValueError):
    """A note that cannot be used: which, what it says, and what it may say."""


@dataclass(frozen=True, slots=True)
class Notes:
    port: int | None
    role: Role
    engine: str | None
    event_port: int | None
    replay_port: int | None
    event_topic: str
    ranks: int | None
    handshake: str | None
    bootstrap_port: int | None
    labels: Mapping[str, str]


def zones(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Where Kubernetes says a pod is, by our names for it."""
    told = labels or {}
    return {name: told[TOPOLOGY + name] for name in NEAR if told.get(TOPOLOGY + name)}


def read(told: Mapping[str, str] | None) -> Notes:
    """The notes among these annotations or labels. Raises NoteFault: a replica in the wrong role answers wrongly."""
    notes = {key.removeprefix(PREFIX): text for key, text in (told or {}).items() if key.startswith(PREFIX)}
    labels = {key.removeprefix(LABEL): notes.pop(key) for key in list(notes) if key.startswith(LABEL) and key != LABEL}
    for key in notes:
        if key not in KNOWN:
            raise NoteFault(f"{PREFIX}{key} is not known here; known are {', '.join(sorted(KNOWN))}")

    def note(key: str, parse: Callable[[str], Value], allowed: str) -> Value | None:
        if key not in notes:
            return None
        try:
            return parse(notes[key])
        except ValueError:
            raise NoteFault(f"{PREFIX}{key} is {notes[key]!r}, but must be {allowed}") from None

    def port(key: str) -> int | None:
        return note(key, lambda text: _number(text, LARGEST_PORT), "a port")

    handshakes = [handshake.value for handshake in KvHandshake if handshake is not KvHandshake.AUTO]
    engines = [engine.value for engine in Engine if engine is not Engine.AUTO]
    found = Notes(
        port=port("port"),
        role=note("role", Role, "prefill, decode or both") or Role.BOTH,
        engine=note("engine", lambda text: engines[engines.index(text)], " or ".join(engines)),
        event_port=port("event-port"),
        replay_port=port("replay-port"),
        event_topic=notes.get("event-topic", ""),
        ranks=note("ranks", lambda text: _number(text, MOST_RANKS), f"a number from 1 to {MOST_RANKS}"),
        handshake=note("handshake", lambda text: handshakes[handshakes.index(text)], ", ".join(handshakes)),
        bootstrap_port=port("bootstrap-port"),
        labels=labels,
    )
    if found.replay_port is not None and found.event_port is None:
        raise NoteFault(f"{PREFIX}replay-port is there but {PREFIX}event-port is not; give both or neither")
    return found


def replica(
    name: str, host: str, port: int, scheme: str, notes: Notes, near: Mapping[str, str] | None = None
) -> Replica:
    """The replica at `host`, an IP address or a name. `near`: labels that notes of the same name overrule."""
    host = f"[{host}]" if ":" in host else host
    events = None
    if notes.event_port is not None:
        replay = None if notes.replay_port is None else f"tcp://{host}:{notes.replay_port}"
        events = EventAddress(f"tcp://{host}:{notes.event_port}", replay, notes.event_topic)
    return Replica(
        id=ReplicaId(name),
        url=f"{scheme}://{host}:{port}",
        role=notes.role,
        labels={**(near or {}), **notes.labels},
        events=events,
        engine=notes.engine,
        ranks=notes.ranks,
        handshake=notes.handshake,
        bootstrap_port=notes.bootstrap_port,
    )


def _number(text: str, most: int) -> int:
    number = int(text)
    if not 1 <= number <= most:
        raise ValueError(text)
    return number
