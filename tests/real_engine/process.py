"""A program of the suite: started, killed, stopped, started again.

It runs in a process group of its own with its output in a file, so that a kill takes its children along and a failure
can be read about afterwards.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx

POLL_SECONDS = 0.1
TOLD_BYTES = 4000  # of a dead process's output
# Below those that Linux hands out for outgoing connections, or a killed engine might not get its port again.
FIRST_PORT, LAST_PORT = 20_000, 32_000


@dataclass
class Process:
    """One program that can be started again. Mutable: it runs, or it does not."""

    name: str
    command: Sequence[str | Path]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    _running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._running is None, f"{self.name} runs already"
        with self.log.open("ab") as out:
            self._running = subprocess.Popen(
                list(self.command),
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL to the whole group: no farewell, as when a machine dies."""
        self._end(signal.SIGKILL, 10.0)

    def stop(self) -> None:
        self._end(signal.SIGTERM, 20.0)

    def check(self) -> None:
        """Raises when the program has ended by itself."""
        if self._running is None or self._running.poll() is not None:
            raise AssertionError(f"{self.name} died. The end of {self.log}:\n{self.tail()}")

    def tail(self) -> str:
        return self.log.read_bytes()[-TOLD_BYTES:].decode(errors="replace") if self.log.exists() else ""

    def _end(self, how: signal.Signals, patience_seconds: float) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(patience_seconds)
        with contextlib.suppress(ProcessLookupError):  # children that outlived it, or one that would not end
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def until(holds: Callable[[], bool], patience_seconds: float, what: str) -> None:
    """Raises when it does not hold in time."""
    assert held_within(holds, patience_seconds), f"Waited {patience_seconds:g} s for {what}, in vain."


def held_within(holds: Callable[[], bool], patience_seconds: float) -> bool:
    """Ask again and again: other processes tell no event that could be waited for."""
    give_up_at = time.monotonic() + patience_seconds
    while not holds():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(POLL_SECONDS)
    return True


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now; all are held until the last is found, so that they differ."""
    chance = Random()
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            one, port = held.enter_context(socket.socket()), chance.randrange(FIRST_PORT, LAST_PORT)
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
    return found
