"""Every manifest: built by kubectl, held against Kubernetes' own schemas, and against what Homing reads and shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any  # parsed manifests have no narrower type
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from router import config
from router.discovery import notes
from tests.k8s.manifests import BUILDS, K8S, built, one

KUBERNETES = "1.37.0"
OWN_SCHEMAS = frozenset({"ServiceMonitor", "PrometheusRule"})  # of the Prometheus operator


def pods(build: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each pod template of a build, by the name of what makes it."""
    for manifest in built(build):
        if "template" in manifest.get("spec", {}):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


def containers(spec: dict[str, Any], image: str = "homing:0.1.0") -> list[dict[str, Any]]:
    return [one for one in (*spec.get("initContainers", []), *spec["containers"]) if one["image"] == image]


@pytest.mark.parametrize("build", BUILDS)
def test_every_manifest_keeps_to_its_schema(build: str) -> None:
    for manifest in built(build):
        if manifest["kind"] not in OWN_SCHEMAS:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_a_wrong_manifest_would_be_found() -> None:
    wrong = {**one("base", "Deployment"), "spec": {**one("base", "Deployment")["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@pytest.mark.parametrize("build", BUILDS)
def test_what_is_mounted_and_named_is_there(build: str) -> None:
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in built(build)}
    for _, template in pods(build):
        spec = template["spec"]
        for volume in spec.get("volumes", []):
            assert "configMap" not in volume or ("ConfigMap", volume["configMap"]["name"]) in names
        if "serviceAccountName" in spec:
            assert ("ServiceAccount", spec["serviceAccountName"]) in names
        mounted = {volume["name"] for volume in spec.get("volumes", [])}
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= mounted


@pytest.mark.parametrize("build", BUILDS)
def test_selectors_meet_their_pods(build: str) -> None:
    labels = {name: template["metadata"]["labels"] for name, template in pods(build)}
    for manifest in built(build):
        spec, name = manifest.get("spec", {}), manifest["metadata"]["name"]
        selector = spec.get("selector") or spec.get("podSelector")
        if manifest["kind"] in OWN_SCHEMAS or not selector:
            continue
        wanted = selector.get("matchLabels", selector)
        assert any(wanted.items() <= found.items() for found in labels.values()), f"{manifest['kind']} {name}"


@pytest.mark.parametrize("build", BUILDS)
def test_no_pod_of_ours_has_rights_it_does_not_need(build: str) -> None:
    found = [(template["spec"], container) for _, template in pods(build) for container in containers(template["spec"])]
    assert found
    for spec, container in found:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        context = container["securityContext"]
        assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("build", BUILDS)
def test_the_role_may_list_and_watch_pods_and_endpoint_slices_and_no_more(build: str) -> None:
    rules = {resource: rule["verbs"] for rule in one(build, "Role", "homing-discovery")["rules"]
             for resource in rule["resources"]}  # fmt: skip
    assert rules == {"pods": ["list", "watch"], "endpointslices": ["list", "watch"]}


@pytest.mark.parametrize("build", BUILDS)
def test_the_mounted_configuration_is_one_that_homing_reads(build: str, tmp_path: Path) -> None:
    maps = [manifest for manifest in built(build) if manifest["kind"] == "ConfigMap"]
    (told,) = [manifest["data"]["homing.yaml"] for manifest in maps if "homing.yaml" in manifest["data"]]
    path = tmp_path / "homing.yaml"
    path.write_text(told)
    settings = config.read(path, {})
    (spec, container) = next(
        (template["spec"], container)
        for _, template in pods(build)
        for container in containers(template["spec"])
        if container["args"][0] == "serve"
    )
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["admin"] == settings.listen.admin_port
    assert ports.get("http", settings.listen.port) == settings.listen.port
    assert container["args"] == ["serve", "/etc/homing/homing.yaml"]
    limits = settings.limits
    assert limits.notice_seconds + limits.drain_seconds < spec["terminationGracePeriodSeconds"]
    for probe, asked in (("livenessProbe", "/health"), ("startupProbe", "/health"), ("readinessProbe", "/ready")):
        assert container[probe]["httpGet"] == {"path": asked, "port": "admin"}
    assert spec["automountServiceAccountToken"] is (settings.discovery.kubernetes is not None)
    if settings.policy.startswith("/"):
        folder = [mount for mount in container["volumeMounts"] if settings.policy.startswith(mount["mountPath"])]
        policy = K8S / "base" / "policies" / Path(settings.policy).name
        assert folder
        assert policy.read_text() == (K8S.parent / "policies" / policy.name).read_text()


@pytest.mark.parametrize("build", ["overlays/sim", "overlays/vllm"])
def test_homing_finds_the_engines_beside_it(build: str) -> None:
    settings = yaml.safe_load(one(build, "ConfigMap")["data"]["homing.yaml"])["discovery"]["kubernetes"]
    engines = dict(pods(build))["vllm"]
    key, _, value = settings["selector"].partition("=")
    assert engines["metadata"]["labels"][key] == value
    ports = {port["name"]: port["containerPort"] for port in engines["spec"]["containers"][0]["ports"]}
    assert settings["port"] in ports
    told = notes.read(engines["metadata"].get("annotations"))
    assert told.event_port in (None, ports["events"])
    assert told.replay_port in (None, ports["replay"])
    let_out = one(build, "NetworkPolicy")["spec"]["egress"][0]["to"][0]["podSelector"]["matchLabels"]
    assert let_out.items() <= engines["metadata"]["labels"].items()


def test_routers_that_share_reach_the_server_they_are_told_of_and_the_image_has_its_client(tmp_path: Path) -> None:
    path = tmp_path / "homing.yaml"
    path.write_text(one("overlays/shared", "ConfigMap")["data"]["homing.yaml"])
    told = config.read(path, {}).shared.redis_url
    assert told is not None
    server = urlsplit(str(told))
    plain, egress = (one(build, "NetworkPolicy")["spec"]["egress"] for build in ("base", "overlays/shared"))
    (added,) = [rule for rule in egress if rule not in plain]
    assert added["ports"] == [{"port": server.port}]
    assert added["to"] == [{"podSelector": {"matchLabels": {"app": server.hostname}}}]
    assert ",redis]" in (K8S.parent / "Dockerfile").read_text()


def test_only_the_public_port_is_a_service_of_the_base() -> None:
    ports = [port["targetPort"] for manifest in built("base") if manifest["kind"] == "Service"
             for port in manifest["spec"]["ports"]]  # fmt: skip
    assert ports == ["http"]


def test_the_application_beside_a_sidecar_reaches_it_on_loopback_alone() -> None:
    settings = yaml.safe_load(one("overlays/sidecar", "ConfigMap", "homing-sidecar")["data"]["homing.yaml"])
    spec = dict(pods("overlays/sidecar"))["client"]["spec"]
    (url,) = [env["value"] for env in spec["containers"][0]["env"] if env["name"] == "OPENAI_BASE_URL"]
    assert url == f"http://{settings['listen']['host']}:{settings['listen']['port']}/v1"
    assert spec["initContainers"][0]["restartPolicy"] == "Always"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The alert rules as Prometheus reads them, and their unit tests beside them."""
    spec = yaml.safe_load((K8S / "monitoring" / "alerts.yaml").read_text())["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    shutil.copy(K8S / "monitoring" / "alerts_test.yaml", tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", [("check", "rules", "rules.yaml"), ("test", "rules", "alerts_test.yaml")])
def test_promtool_accepts_the_alerts_and_their_unit_tests_pass(command: tuple[str, ...], rules: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    told = subprocess.run([promtool, *command], cwd=rules, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_every_alert_is_tested_or_named_and_asks_for_metrics_that_homing_shows() -> None:
    alerts = yaml.safe_load((K8S / "monitoring" / "alerts.yaml").read_text())["spec"]["groups"][0]["rules"]
    tested = (K8S / "monitoring" / "alerts_test.yaml").read_text()
    assert {alert["alert"] for alert in alerts if alert["alert"] not in tested} == set()
    shown = "".join(path.read_text() for path in (K8S.parent / "router").rglob("*.py"))
    for alert in alerts:
        for name in re.findall(r"homing_\w+", alert["expr"]):
            assert f'"{name.removesuffix("_total")}"' in shown, f"{alert['alert']} asks for {name}"


def test_the_policies_that_are_mounted_are_those_of_the_shelf() -> None:
    mounted = sorted((K8S / "base" / "policies").glob("*.yaml"))
    assert mounted
    for copy in mounted:
        assert copy.read_text() == (K8S.parent / "policies" / copy.name).read_text(), copy.name
