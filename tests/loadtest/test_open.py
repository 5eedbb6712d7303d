"""A trace of block ids over HTTP, as `python -m loadtest.open` replays it."""

from __future__ import annotations

import json
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from loadtest.machine import ROOT
from loadtest.open import parse, workload
from loadtest.processes import SimulatedFleet, served

FLEET = SimulatedFleet(replicas=1, blocks=4096, block_size_tokens=16, timing="llama3_70b_h100", speedup=20.0)
# Each again has all the blocks of the one before it, and 100 tokens of a third.
ROWS = [
    {"timestamp": 1000 * number, "input_length": 1124, "output_length": 3, "hash_ids": [2 * pair, 2 * pair + 1, 99]}
    for number, pair in enumerate((1, 1, 2, 2, 3, 3))
]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return path


async def test_a_trace_hits_exactly_what_its_block_ids_share(trace: Path, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    async with served(FLEET, "cache_aware") as homing:
        words = ["-m", "loadtest.open", "--url", homing.url, "--trace", str(trace), "--rate", "4"]
        words += ["--records", str(records)]
        ran = await create_subprocess_exec(sys.executable, *words, cwd=ROOT, stdout=PIPE, stderr=PIPE)
        out, said = await ran.communicate()
    assert ran.returncode == 0, said.decode()
    told = json.loads(out)
    assert (told["requests"], told["errors"], told["faults"]) == (6, 0, [])
    assert told["prompt_tokens"] == 6 * 1124
    assert told["cached_tokens"] == 3 * 1120, "all full blocks of 16 before the last token"
    assert told["first_token_p50_seconds"] > 0
    assert {"machine", "commit", "command"} <= told["about"].keys()
    assert len(records.read_text().splitlines()) == 6


async def test_an_endpoint_that_is_not_there_is_named(trace: Path) -> None:
    ran = await create_subprocess_exec(
        sys.executable, "-m", "loadtest.open", "--url", "http://127.0.0.1:9", "--trace", str(trace),
        cwd=ROOT, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    out, said = await ran.communicate()
    assert (ran.returncode, out) == (1, b"")
    assert b"http://127.0.0.1:9/v1/models names no model" in said


def test_a_trace_keeps_its_times_unless_a_rate_is_asked_for(trace: Path) -> None:
    own = workload(parse(["--trace", str(trace)]))
    assert [turn.at_seconds for turn in own.turns] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    faster = workload(parse(["--trace", str(trace), "--rate", "4", "--requests", "5"]))
    assert [turn.at_seconds for turn in faster.turns] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_without_a_file_agents_ask_at_the_rate() -> None:
    asked = workload(parse(["--requests", "700", "--rate", "50", "--think-seconds", "0.1"]))
    assert len(asked.turns) == 700
    assert 30 < asked.requests_per_second < 70
