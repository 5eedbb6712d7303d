"""One child process under one name that can be killed, ended, paused, made to stutter, and begun again. Edge."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from loadtest.machine import ROOT

START_SECONDS = 300.0  # a start takes two seconds of CPU, and the machine may have other work
END_SECONDS = 30.0
ASK_AGAIN_SECONDS = 0.1
STUTTER_SECONDS = (0.15, 0.1)  # paused, then running


class Child:
    """`lives` is its number of lives so far; what it says goes to one file, life after life."""

    def __init__(self, name: str, words: Sequence[str], says: Path, is_up: Callable[[], Awaitable[bool]]) -> None:
        self.name = name
        self.lives = 0
        self.said = says
        self._words = words
        self._is_up = is_up
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process.pid

    async def start(self) -> None:
        """Returns when it answers. Raises RuntimeError when it ends instead, TimeoutError when it does neither."""
        self.lives += 1
        with self.said.open("ab") as says:
            self._process = await asyncio.create_subprocess_exec(*self._words, cwd=ROOT, stdout=says, stderr=says)
        async with asyncio.timeout(START_SECONDS):
            while not await self._is_up():
                if self._process.returncode is not None:
                    raise RuntimeError(f"{self.name} ended at its start: {self.said.read_text()[-2000:]}")
                await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def kill(self) -> None:
        await self._finish(signal.SIGKILL)

    async def end(self) -> None:
        """As an orchestrator ends it; killed when it does not."""
        await self._finish(signal.SIGTERM)

    def pause(self) -> None:
        self._tell(signal.SIGSTOP)

    def go_on(self) -> None:
        self._tell(signal.SIGCONT)

    async def stutter(self, seconds: float) -> None:
        paused, running = STUTTER_SECONDS
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            self.pause()
            try:
                await asyncio.sleep(paused)
            finally:
                self.go_on()
            await asyncio.sleep(running)

    async def _finish(self, by: signal.Signals) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._tell(by)
        if by is not signal.SIGKILL:
            self.go_on()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._tell(signal.SIGKILL)
            await self._process.wait()

    def _tell(self, which: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(which)
