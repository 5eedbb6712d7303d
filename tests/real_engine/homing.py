"""Homing as its operators start it: a process with a configuration file, asked over its admin port."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # its answers are JSON

import httpx
import yaml

from tests.real_engine.process import Process, answers, free_ports, until
from tests.real_engine.vllm import Replica

READY_SECONDS = 30.0


@dataclass
class Homing:
    """`homing serve` with a configuration file, as an operator would start it."""

    process: Process
    url: str
    admin_url: str

    def start(self) -> None:
        self.process.start()
        until(self._ready, READY_SECONDS, "Homing to be ready")

    def _ready(self) -> bool:
        self.process.check()
        return answers(f"{self.admin_url}/ready")

    def replicas(self) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.admin_url}/homing/replicas", timeout=10.0).json()
        return list(answer["replicas"])

    def trusts(self) -> dict[str, str]:
        return {entry["replica"]: entry["trust"] for entry in self.replicas()}

    def all_heard(self) -> bool:
        return set(self.trusts().values()) <= {"EXACT", "CATCHING_UP"}

    def all_exact(self) -> bool:
        return set(self.trusts().values()) == {"EXACT"}

    def reads_locally(self) -> bool:
        sources = [source for entry in self.replicas() for source in entry["token_source"].values()]
        return bool(sources) and set(sources) == {"local"}

    def metric(self, line_start: str) -> float:
        """The sum of the samples whose line begins so."""
        lines = httpx.get(f"{self.admin_url}/metrics", timeout=10.0).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(line_start))

    def receipts(self) -> dict[str, dict[str, Any]]:
        """The latest receipts by the client's own request id."""
        answer = httpx.get(f"{self.admin_url}/homing/requests?limit=1000", timeout=30.0).json()
        return {str(receipt["client_request_id"]): receipt for receipt in answer["requests"]}


def homing(
    replicas: Sequence[Replica], folder: Path, *, roles: Sequence[str] = (), policy: str | None = None
) -> Homing:
    port, admin_port = free_ports(2)
    settings: dict[str, Any] = {
        "listen": {"host": "127.0.0.1", "port": port, "admin_port": admin_port},
        "replicas": [{"url": replica.url} for replica in replicas],
        "limits": {"notice_seconds": 0.0, "drain_seconds": 5.0},
    }
    for entry, role in zip(settings["replicas"], roles, strict=False):
        entry["role"] = role
    if policy is not None:
        settings["policy"] = policy
    file = folder / "homing.yaml"
    file.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "router.cli", "serve", str(file), "--quiet"]
    process = Process("Homing", command, folder / "homing.log")
    return Homing(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}")
