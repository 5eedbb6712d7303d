"""From live requests over sockets to a file, and from the file to a comparison of policies on them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
from click.testing import CliRunner, Result

from router.cli import main
from router.sim.traces import load_conversations, recorded_fleet
from tests.stories.houses import Stage, stage

SECRET_WORDS = "the merger is on friday"
SYSTEM = "You are a patient assistant who answers in complete sentences and never makes anything up. " * 12


async def chat(one: Stage, user: str, turns: int = 3) -> None:
    text = SYSTEM
    for turn in range(turns):
        text += f" {user} asks number {turn}: {SECRET_WORDS}? " * 8
        answer = await one.ask(text, user=user, stream=turn % 2 == 0)
        assert answer.status_code == 200


async def homing(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, list(arguments))


async def test_what_was_recorded_can_be_compared_and_simulated(tmp_path: Path) -> None:
    out = tmp_path / "traffic.jsonl.zst"
    async with stage(2, policy="round_robin") as one:
        await chat(one, "before")
        recorder = one.house.recorder
        asked = asyncio.ensure_future(
            homing("record", "--homing", one.house.admin_url, "--out", str(out), "--seconds", "3600")
        )
        await one.until(lambda: recorder.recording is not None)
        assert await one.metric("homing_recording") == 1
        for user in ("alice", "bob", "carol", "dave"):
            await chat(one, user)
        assert recorder.recording is not None
        recorder.recording.ends_seconds = asyncio.get_running_loop().time()
        told = await asked
        assert told.exit_code == 0, told.output
        assert "12 requests" in told.output
        assert await one.metric("homing_recording") == 0
        await one.nothing_left()

    fleet = recorded_fleet(out)
    assert fleet is not None
    assert (fleet.policy, fleet.replicas, fleet.block_size_tokens) == ("round_robin", 2, 16)
    sessions = load_conversations(out)
    assert sorted(len(session.asks) for session in sessions) == [3, 3, 3, 3]

    settings = ("--workload", str(out), "--replicas", "2", "--cache-tokens", "20000", "--jobs", "1")
    compared = await homing("compare", "round_robin", "cache_aware", *settings, "--json")
    blind, aware = json.loads(compared.stdout)
    assert blind["answered"] == aware["answered"] == 12
    assert aware["hit_ratio"] > blind["hit_ratio"]
    simulated = await homing("simulate", "cache_aware", "--workload", str(out), "--jobs", "1", "--seeds", "1")
    assert simulated.exit_code == 0, simulated.output
    assert "too few requests" in simulated.output


async def test_no_word_token_or_name_of_a_request_is_written_and_no_two_recordings_can_be_joined() -> None:
    async with stage(1) as one:
        ids = []
        for _ in range(2):
            written = await recorded(one, "alice")
            for word in (b"alice", b"merger", b"tiny", b"user"):
                assert word not in written
            lines = [msgspec.json.decode(line) for line in written.splitlines() if b"hash_ids" in line]
            assert len(lines) == 3
            assert lines[0]["hash_ids"] == lines[1]["hash_ids"][: len(lines[0]["hash_ids"])]
            ids.append({block for line in lines for block in line["hash_ids"]})
        assert ids[0]
        assert not ids[0] & ids[1]
        assert any("recording" in line for line in one.said)


async def recorded(one: Stage, user: str) -> bytes:
    """What a listener hears of one chat, and then goes away."""
    written = b""
    async with one.http.stream("GET", f"{one.house.admin_url}/homing/record", params={"seconds": 60}) as heard:
        chatting: asyncio.Future[None] | None = None
        async for line in heard.aiter_lines():
            if chatting is None:
                chatting = asyncio.ensure_future(chat(one, user))
            written += line.encode() + b"\n"
            if written.count(b"hash_ids") == 3:
                break
        assert chatting is not None
        await chatting
    await one.until(lambda: one.house.recorder.recording is None)
    return written


async def test_a_second_listener_and_an_unknown_model_are_refused() -> None:
    async with stage(1) as one:
        url = f"{one.house.admin_url}/homing/record"
        async with one.http.stream("GET", url, params={"seconds": 60}) as heard:
            await anext(heard.aiter_lines())
            assert (await one.http.get(url)).status_code == 409
        await one.until(lambda: one.house.recorder.recording is None)
        assert (await one.http.get(url, params={"model": "no-such-model"})).status_code == 404
        assert (await one.http.get(url, params={"seconds": 0})).status_code == 400


async def test_the_command_says_what_kept_it_from_recording(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    async with stage(1) as one:
        admin = one.house.admin_url
        told = await homing("record", "--homing", admin, "--out", str(out), "--model", "no-such-model")
        assert told.exit_code == 1
        assert "no-such-model" in told.output
        assert not out.exists()
        told = await homing("record", "--homing", admin, "--out", str(out), "--seconds", "0.01")
        assert told.exit_code == 1
        assert "No request came" in told.output
        out.touch()
        told = await homing("record", "--homing", admin, "--out", str(out))
        assert told.exit_code == 1
        assert "exists already" in told.output
    told = await homing("record", "--homing", "http://127.0.0.1:9", "--out", str(tmp_path / "other.jsonl"))
    assert told.exit_code == 1
    assert "No Homing answers at http://127.0.0.1:9" in told.output
