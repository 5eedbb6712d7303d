"""Locust's own report after a run before a real Homing: requests, TTFT and hits of both kinds of users."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys

import pytest

from loadtest.machine import ROOT
from loadtest.processes import SimulatedFleet, served

FLEET = SimulatedFleet(replicas=1, blocks=4096, block_size_tokens=16, timing="llama3_70b_h100", speedup=20.0)


@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed")
async def test_a_headless_run_reports_first_tokens_and_hits_of_chats_and_agents() -> None:
    async with served(FLEET, "cache_aware") as homing:
        words = ["-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary", "--json", "-H"]
        words += [homing.url, "-u", "4", "-r", "4", "-t", "6s", "--max-tokens", "4", "--turn-characters", "500"]
        ran = await asyncio.create_subprocess_exec(
            sys.executable, *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, told = await ran.communicate()
    assert ran.returncode == 0, told.decode()
    rows = {(row["name"], row["method"]): row for row in json.loads(out)}
    for kind in ("chat", "agent"):
        answers, ttft, hits = rows[kind, "POST"], rows[kind, "TTFT"], rows[kind, "HIT %"]
        assert answers["num_requests"] == ttft["num_requests"] == hits["num_requests"] >= 2
        assert answers["num_failures"] == 0
        assert 0 < ttft["total_response_time"] <= answers["total_response_time"]
        assert 0 < hits["total_content_length"] < ttft["total_content_length"], "some of the prompts' tokens"
        assert 0 < hits["max_response_time"] < 100
    assert "Hit ratio by tokens" in told.decode()
