"""The manifests as kubectl builds them."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any  # parsed manifests have no narrower type

import pytest
import yaml

K8S = Path(__file__).resolve().parents[2] / "k8s"
BUILDS = ("base", "overlays/sim", "overlays/vllm", "overlays/sidecar", "overlays/shared")


@cache
def text(build: str) -> str:
    """Skips the test where kubectl is not installed."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    command = [kubectl, "kustomize", str(K8S / build)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def built(build: str) -> list[dict[str, Any]]:
    return [manifest for manifest in yaml.safe_load_all(text(build)) if manifest is not None]


def one(build: str, kind: str, name: str = "homing") -> dict[str, Any]:
    """The manifest of that kind and name; a generated one's has a suffix."""
    (found,) = [manifest for manifest in built(build) if manifest["kind"] == kind and _name(manifest) == name]
    return found


def _name(manifest: dict[str, Any]) -> str:
    name = str(manifest["metadata"]["name"])
    return name.rpartition("-")[0] if manifest["kind"] == "ConfigMap" else name
