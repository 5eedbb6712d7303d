"""How answers of any engine are read: JSON of a given shape, Prometheus' text, and addresses told from the inside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from router.events.kinds import WireFault

T = TypeVar("T")

LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# Hosts under which a publisher is found only from its own machine, or not at all.
_LOCAL_HOSTS = frozenset({"*", "0.0.0.0", "::", "127.0.0.1", "localhost", "::1", ""})


@dataclass(frozen=True, slots=True)
class NoEvents:
    """Why a replica's events cannot be heard, in words for the operator."""

    reason: str


def read_json(body: bytes, shape: type[T], what: str) -> T:
    """Raises WireFault, which begins with `what`."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
        raise WireFault(f"{what} cannot be read: {fault}") from fault


def samples(text: str, names: frozenset[str]) -> Iterator[tuple[str, str, float]]:
    """Name, labels (as written) and value of the wanted samples. Lines that cannot be read are passed over."""
    wanted = tuple(names)
    for line in text.splitlines():
        if not line.startswith(wanted):
            continue
        name, _, labels = line.split(" ", 1)[0].partition("{")
        if name in names:
            try:
                yield name, labels, float(line.rsplit(" ", 1)[1])
            except (IndexError, ValueError):
                continue


def process_start_time(metrics: bytes) -> float | None:
    """Unix seconds, of an answer of GET /metrics."""
    name = "process_start_time_seconds"
    return next((value for *_, value in samples(metrics.decode(errors="replace"), frozenset({name}))), None)


def endpoint_at(host: str, port: int | str, replica_url: str) -> str:
    """A ZMQ endpoint, under the replica's host where its own means the machine it runs on (R 6.4)."""
    if host.strip("[]") in _LOCAL_HOSTS:
        host = urlsplit(replica_url).hostname or host
        if ":" in host:
            host = f"[{host}]"
    return f"tcp://{host}:{port}"
