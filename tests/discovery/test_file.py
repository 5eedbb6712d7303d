"""A watched file of replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from router.clock import ManualClock
from router.discovery.file import FileSource, read
from router.discovery.members import Sighting
from router.errors import ConfigError

pytestmark = pytest.mark.looptime


def source(path: Path, said: list[str]) -> FileSource:
    return FileSource(path, clock=ManualClock(), say=said.append)


async def names(sightings: AsyncGenerator[Sighting, None]) -> list[str]:
    seen = await anext(sightings)
    return [f"{name}{' drains' if member.draining else ''}" for name, member in seen.items()]


async def test_each_change_of_the_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "replicas.yaml"
    path.write_text("- url: http://a:8000\n")
    seen = source(path, []).sightings()
    assert await names(seen) == ["a:8000"]
    path.write_text("- url: http://a:8000\n  draining: true\n- {url: http://b:8000, id: b}\n")
    assert await names(seen) == ["a:8000 drains", "b"]
    path.write_text("[]\n")
    assert await names(seen) == []


async def test_a_link_that_is_turned_is_seen_as_a_config_map_changes(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "replicas.yaml").write_text(f"- url: http://v{version}:8000\n")
    link = tmp_path / "data"
    link.symlink_to(tmp_path / "1")
    seen = source(link / "replicas.yaml", []).sightings()
    assert await names(seen) == ["v1:8000"]
    link.unlink()
    link.symlink_to(tmp_path / "2")
    assert await names(seen) == ["v2:8000"]


async def test_a_broken_file_changes_nothing_and_is_told_once_with_every_fault(tmp_path: Path) -> None:
    path, said = tmp_path / "replicas.yaml", list[str]()
    path.write_text("- url: http://a:8000\n")
    watched = source(path, said)
    seen = watched.sightings()
    await anext(seen)
    path.write_text("- url: a:8000\n- url: http://b:8000\n  eventz: tcp://b:5557\n")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(anext(seen))
        await asyncio.sleep(10)  # of virtual time: many looks
        assert not waiting.done()
        (told,) = said
        assert "0.url: 'a:8000' is not an address" in told
        assert "1.eventz: no such key. Did you mean events?" in told
        assert watched.lost_since() is not None
        path.write_text("- url: http://c:8000\n")
        assert list(await waiting) == ["c:8000"]
    assert watched.lost_since() is None


def test_a_name_that_stands_twice_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "replicas.yaml"
    path.write_text("- url: http://a:8000\n- {url: http://b:8000, id: 'a:8000'}\n")
    with pytest.raises(ConfigError, match="named twice: a:8000"):
        read(path)
    path.write_text("replicas:\n- url: http://a:8000\n")
    with pytest.raises(ConfigError, match="holds dict, not a list"):
        read(path)
