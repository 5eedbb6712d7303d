from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any  # parsed manifests have no narrower type

import pytest
import yaml

from router import config

BASE = Path(__file__).resolve().parents[2] / "k8s" / "base"


def manifests() -> dict[str, Any]:
    """The base by kind: as kubectl builds it where kubectl is, else the files as they are."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        texts = [(BASE / name).read_text() for name in ("deployment.yaml", "service.yaml")]
        return {manifest["kind"]: manifest for text in texts for manifest in yaml.safe_load_all(text)}
    built = subprocess.run([kubectl, "kustomize", str(BASE)], capture_output=True, text=True, check=True, timeout=60)
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(built.stdout)}


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifests()["Deployment"]["spec"]["template"]["spec"]
    return spec


def test_kubectl_builds_the_base_and_selectors_meet_the_pods() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    built = manifests()
    assert set(built) == {"Deployment", "Service", "ConfigMap"}
    labels = built["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels == built["Deployment"]["spec"]["selector"]["matchLabels"] == built["Service"]["spec"]["selector"]
    (volume,) = [volume for volume in pod()["volumes"] if volume["name"] == "config"]
    assert volume["configMap"]["name"] == built["ConfigMap"]["metadata"]["name"]


def test_the_mounted_configuration_is_one_that_homing_reads() -> None:
    settings = config.read(BASE / "homing.yaml", {})
    container = pod()["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.listen.port, "admin": settings.listen.admin_port}
    assert container["args"] == ["serve", "/etc/homing/homing.yaml"]
    assert settings.limits.drain_seconds < pod()["terminationGracePeriodSeconds"]


def test_probes_ask_the_admin_port_and_the_pod_has_no_rights() -> None:
    container = pod()["containers"][0]
    assert container["livenessProbe"]["httpGet"] == {"path": "/health", "port": "admin"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "admin"}
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_only_the_public_port_is_a_service() -> None:
    assert [port["targetPort"] for port in manifests()["Service"]["spec"]["ports"]] == ["http"]
