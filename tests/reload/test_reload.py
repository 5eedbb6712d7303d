from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from router.clock import ManualClock
from router.gateway.in_force import Configuration, InForce, ReloadOutcome
from router.metrics import Metrics
from router.reload.reload import Reload
from router.reload.source import ConfigSource, Look

GOOD = "replicas: [{url: 'http://a:8000'}]\n"


class Rooms:
    """What a swap changes, one that may fail half way."""

    def __init__(self, in_force: InForce) -> None:
        self._in_force = in_force
        self.policy, self.queue_length = "", 0
        self.broken = False
        self(in_force.configuration)

    def __call__(self, configuration: Configuration) -> None:
        self.policy = configuration.policy.name
        if self.broken:
            self.broken = False
            raise RuntimeError("half way")
        self.queue_length = configuration.config.limits.queue_length
        self._in_force.put(configuration)


class Stage:
    def __init__(self, path: Path, text: str = GOOD) -> None:
        self.file = path / "homing.yaml"
        self.file.write_text(text)
        self.source = ConfigSource(self.file, {})
        self.said: list[str] = []
        clock = ManualClock()
        self.in_force = InForce(self.source.read(), clock)
        self.rooms = Rooms(self.in_force)
        self.reload = Reload(
            self.source, self.in_force, self.rooms, metrics=Metrics(), clock=clock, say=self.said.append
        )


async def test_a_swap_that_fails_half_way_is_taken_back_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(tmp_path)
    before = stage.in_force.hash
    stage.file.write_text(GOOD + "policy: round_robin\nlimits: {queue_length: 7}")
    stage.rooms.broken = True
    ended = await stage.reload.now("a test")
    assert (ended.outcome, ended.hash) == (ReloadOutcome.REFUSED, before)
    assert "half way" in ended.faults[0]
    assert "RuntimeError" in capsys.readouterr().err  # a bug is told whole
    assert (stage.rooms.policy, stage.rooms.queue_length) == ("cache_aware", 1000)
    assert (await stage.reload.now("a test")).outcome is ReloadOutcome.APPLIED
    assert (stage.rooms.policy, stage.rooms.queue_length) == ("round_robin", 7)


class BeingWritten(ConfigSource):
    """A file that says something else at each look, until it says the same for two."""

    def __init__(self, file: Path, changes: int) -> None:
        super().__init__(file, {})
        self.looks, self._changes = 0, changes
        self.read_after: list[int] = []  # so many looks

    def look(self) -> Look:
        self.looks += 1
        return {Path("homing.yaml"): b"%d" % min(self.looks, self._changes)}

    def read(self) -> Configuration:
        looks = self.looks
        configuration = super().read()
        self.read_at = {Path("homing.yaml"): b"%d" % min(looks, self._changes)}
        self.looks = looks
        self.read_after.append(looks)
        return configuration


async def test_a_file_is_read_once_it_has_stood_for_two_looks_and_not_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path, GOOD + "reload: {watch_seconds: 0.0001}")
    source = BeingWritten(stage.file, changes=5)
    source.read()
    reload = Reload(source, stage.in_force, stage.rooms, metrics=Metrics(), clock=ManualClock(), say=stage.said.append)
    running = asyncio.ensure_future(reload.run())
    async with asyncio.timeout(20.0):
        while source.looks < 12:  # noqa: ASYNC110 - looks happen in a thread
            await asyncio.sleep(0)
    running.cancel()
    assert source.read_after == [0, 6]


async def test_who_asks_is_answered_though_nobody_watches(tmp_path: Path) -> None:
    stage = Stage(tmp_path, GOOD + "reload: {watch_seconds: 0}")
    running = asyncio.ensure_future(stage.reload.run())
    stage.file.write_text(GOOD + "reload: {watch_seconds: 0}\nusage_probe: never")
    stage.in_force.asked.set()
    async with asyncio.timeout(20.0):
        while not stage.said:  # noqa: ASYNC110 - read in a thread
            await asyncio.sleep(0)
    running.cancel()
    assert stage.said[0].startswith("configuration reloaded (SIGHUP)")
    assert "usage_probe" in stage.said[0]


async def test_a_reading_that_fails_in_an_unheard_of_way_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(tmp_path)
    stage.file.write_text("[" * 400)  # deeper than a parser goes
    ended = await stage.reload.now("a test")
    capsys.readouterr()
    assert ended.outcome is ReloadOutcome.REFUSED
    assert ended.faults
