"""A real API server for a test run: one started by scripts on loopback, or whatever a kubeconfig leads to.

- HOMING_REAL_KUBECONFIG=PATH: any cluster you may make namespaces, nodes and pods in. Nothing of it is stopped.
- HOMING_REAL_KUBE=DIR: a folder of `setup.sh`, `start.sh RUN` (prints a kubeconfig) and `stop.sh RUN [PROGRAM]`, which
  run etcd, kube-apiserver and kube-controller-manager; setup.sh exits with 3 where they cannot be had.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[3] / "shared" / "real_kube"
CANNOT = 3
SETUP_SECONDS, START_SECONDS = 900, 180


class Unavailable(Exception):
    """Why there is no real API server here."""


class Server:
    """`own`: it was started here, so that it may be killed."""

    def __init__(self, run: Path) -> None:
        self._run = run
        given = os.environ.get("HOMING_REAL_KUBECONFIG")
        self.own = not given
        self._scripts = Path(os.environ.get("HOMING_REAL_KUBE", SCRIPTS))
        if given:
            self.kubeconfig = Path(given)
            return
        if not (self._scripts / "setup.sh").exists():
            raise Unavailable("no API server: name one by HOMING_REAL_KUBECONFIG, or scripts by HOMING_REAL_KUBE")
        made = self._script("setup.sh", seconds=SETUP_SECONDS, check=False)
        if made.returncode == CANNOT:
            raise Unavailable(f"a real API server cannot be had here: {made.stderr.strip()}")
        made.check_returncode()
        self._home = Path(made.stdout.split("ready: ")[1].split(" (")[0].strip())
        self.start()
        self.kubeconfig = run / "kubeconfig"

    def start(self) -> None:
        self._script("start.sh", str(self._run))

    def stop(self) -> None:
        if self.own:
            self._script("stop.sh", str(self._run))

    def kill(self) -> None:
        """The API server alone, at once, as in a crash."""
        self._script("stop.sh", str(self._run), "kube-apiserver", REAL_KUBE_SIGNAL="KILL")

    def compact(self) -> None:
        """Have etcd forget all history, up to a version that no reader of the API has seen."""
        self._etcdctl("put", "/homing-test", "a later version")
        told = json.loads(self._etcdctl("endpoint", "status", "-w", "json"))
        self._etcdctl("compact", "--physical", str(told[0]["Status"]["header"]["revision"]))

    def _etcdctl(self, *arguments: str) -> str:
        endpoint = (self._run / "etcd").read_text().strip()
        command = [str(self._home / "bin" / "etcdctl"), "--endpoints", endpoint, *arguments]
        return subprocess.run(
            command, env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def _script(
        self, name: str, *arguments: str, seconds: float = START_SECONDS, check: bool = True, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._scripts / name), *arguments],
            env={**os.environ, **more},
            capture_output=True,
            text=True,
            check=check,
            timeout=seconds,
        )
