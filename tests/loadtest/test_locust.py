from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def free_sim_port() -> int:
    """A replica takes p, p + 1000 and p + 2000."""
    for port in range(20_500, 29_000, 7):
        with ExitStack() as held:
            try:
                for offset in (0, 1000, 2000):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


@contextmanager
def child(*words: str, says: str) -> Iterator[None]:
    """A Python child, once it has said so on either stream."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        heard = next((line for line in process.stdout if says in line), None)
        assert heard, f"{words[0]} ended before it said {says!r}"
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


def wait_until_ready(url: str) -> None:
    """/ready is 503 until the replicas are known, and urllib raises on it. The test's own timeout bounds this."""
    while True:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5):
                return
        except OSError:
            continue


def test_a_headless_run_holds_conversations_without_failures() -> None:
    if importlib.util.find_spec("locust") is None:
        pytest.skip("locust is not installed")
    sim_port = free_sim_port()
    port, admin_port = free_ports(2)
    serve = ["router.cli", "serve", "--replica", f"http://127.0.0.1:{sim_port}", "--quiet", "--host", "127.0.0.1"]
    serve += ["--port", str(port), "--admin-port", str(admin_port)]
    sim = ["router.sim.server", "--replicas", "1", "--port", str(sim_port), "--speedup", "10"]
    url = f"http://127.0.0.1:{port}"
    with child(*sim, says="simulated replicas"), child(*serve, says="listens"):
        wait_until_ready(url)
        locust = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary"]
        locust += ["-u", "3", "-r", "3", "-t", "4s", "-H", url, "--json", "--turns", "3", "--max-tokens", "4"]
        ran = subprocess.run(locust, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    figures = {(entry["method"], entry["name"]): entry for entry in json.loads(ran.stdout)}
    assert figures["POST", "chat"]["num_requests"] >= 3
    assert figures["POST", "chat"]["num_failures"] == 0
    assert figures["TTFT", "chat"]["num_requests"] == figures["POST", "chat"]["num_requests"]
