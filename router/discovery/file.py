"""Replicas from a file that may change while Homing runs: a list of what stands under `replicas:` in a homing.yaml,
each entry with `draining: true` if it is to be sent nothing new.

    - url: http://gpu-a:8000
    - {url: http://gpu-b:8000, id: b, draining: true}

The file is looked at once a second, by name: a ConfigMap in a pod changes by a link that is turned, which watchers of a
file miss. A file that cannot be read or has a fault changes nothing: all its faults are told, once, and the fleet stays
as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from router import config
from router.clock import Clock
from router.discovery import static
from router.discovery.members import Member, Sighting, sighting
from router.errors import ConfigError

LOOK_SECONDS = 1.0
Stamp = tuple[int, int, int]  # device and inode follow a turned link, time and size an edit in place


def read(path: Path) -> Sighting:
    """Raises ConfigError with every fault of the file."""
    settings = config.read_replicas(path)
    return sighting(
        *(Member(replica, one.draining) for replica, one in zip(static.replicas(settings), settings, strict=True))
    )


class FileSource:
    """The watcher of one file."""

    def __init__(
        self, path: Path, *, clock: Clock, say: Callable[[str], None], look_seconds: float = LOOK_SECONDS
    ) -> None:
        self.name = "file"
        self._path = path
        self._clock = clock
        self._say = say
        self._look_seconds = look_seconds
        self._lost_since: float | None = None

    def lost_since(self) -> float | None:
        return self._lost_since

    async def sightings(self) -> AsyncGenerator[Sighting, None]:
        stamp: Stamp | str | None = "never looked"
        while True:
            now = _stamp(self._path)
            if now != stamp:
                stamp = now
                try:
                    seen = read(self._path)
                except ConfigError as fault:
                    self._lost_since = self._clock.now() if self._lost_since is None else self._lost_since
                    self._say(f"{fault.message}\n{self._path}: the fleet stays as it was until the file is mended")
                else:
                    self._lost_since = None
                    yield seen
            await asyncio.sleep(self._look_seconds)


def _stamp(path: Path) -> Stamp | None:
    """None: no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
