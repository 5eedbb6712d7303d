"""Ports of loopback for simulated replicas: a run that nobody holds now."""

from __future__ import annotations

import socket

from router.errors import ConfigError

# Below the ephemeral range, with room for the event and replay ports of each replica above (R 6.4).
FIRST_PORT, LAST_PORT, PORT_STEP = 20_000, 28_000, 16
OFFSETS = (0, 1000, 2000)


def free_run(replicas: int) -> int:
    """The first port of a run for so many replicas: p + i, p + 1000 + i and p + 2000 + i. Raises ConfigError."""
    for first in range(FIRST_PORT, LAST_PORT, PORT_STEP):
        if all(is_free(first + offset + number) for offset in OFFSETS for number in range(replicas)):
            return first
    raise ConfigError([f"No run of free ports for {replicas} simulated replicas from {FIRST_PORT} to {LAST_PORT}."])


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a closed port may linger
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
