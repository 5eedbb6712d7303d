"""Discovery against a real API server, with the rights that k8s/rbac/rbac.yaml gives and no others."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any  # the official client's types change with each release

import pytest
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.discovery.kube_contract import KubernetesContract, watching
from tests.k8s.manifests import text
from tests.real_kube.cluster import RealCluster
from tests.real_kube.server import Server, Unavailable

pytestmark = [
    pytest.mark.real_kube,
    pytest.mark.timeout(300),
    # The official client leaves pooled connections to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    run = tmp_path_factory.mktemp("kube")
    try:
        one = Server(run)
    except Unavailable as why:
        pytest.skip(str(why))
    yield one
    one.stop()


@pytest.fixture
async def cluster(server: Server, tmp_path: Path) -> AsyncIterator[RealCluster]:
    namespace = tmp_path.name.replace("_", "-").lower()[:40].strip("-")
    one = RealCluster(server, f"homing-{namespace}", tmp_path)
    await asyncio.to_thread(one.prepare)
    yield one
    await asyncio.to_thread(one.clear)


class TestTheContractOnARealServer(KubernetesContract):
    pass


async def test_the_token_of_our_service_account_may_list_and_watch_and_no_more(cluster: RealCluster) -> None:
    await cluster.pod("a")
    asked: Any = client.CoreV1Api(config.new_client_from_config(str(cluster.kubeconfig)))
    assert len(asked.list_namespaced_pod(cluster.namespace).items) == 1
    asks: tuple[Callable[[], Any], ...] = (
        lambda: asked.list_namespaced_secret(cluster.namespace),
        lambda: asked.list_namespaced_pod("default"),
        lambda: asked.read_namespaced_pod("a", cluster.namespace),
        lambda: asked.delete_namespaced_pod("a", cluster.namespace),
        asked.list_node,
    )
    for refused in asks:
        with pytest.raises(ApiException) as fault:
            refused()
        assert fault.value.status == 403
    async with watching(cluster, namespace="default") as one:
        await one.until(lambda: any("403" in line and "k8s/rbac/rbac.yaml" in line for line in one.said))


async def test_a_service_finds_its_pods_through_the_slices_that_the_controller_makes(cluster: RealCluster) -> None:
    ports = [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]
    service = {
        "metadata": {"name": "vllm", "labels": {"homing/role": "decode"}},
        "spec": {"selector": {"app": "vllm"}, "ports": ports},
    }
    await asyncio.to_thread(cluster.core.create_namespaced_service, cluster.namespace, service)
    for number in (1, 2):
        await cluster.pod(f"p{number}", f"10.9.0.{number}")
    async with watching(cluster, service="vllm") as one:
        await one.until_names("p1", "p2")
        assert one.now is not None
        told = [(member.replica.url, member.replica.role.value) for member in one.now.values()]
        assert told == [("http://10.9.0.1:8000", "decode"), ("http://10.9.0.2:8000", "decode")]
        await cluster.terminate("p1")
        await one.until_names("p1 drains", "p2")
        await cluster.delete("p1")
        await one.until_names("p2")


@pytest.mark.parametrize("build", ["base", "overlays/sim"])
async def test_the_server_accepts_what_kubectl_builds(build: str, server: Server, cluster: RealCluster) -> None:
    manifests = yaml.safe_load_all(text(build))
    placed = [{**one, "metadata": {**one["metadata"], "namespace": cluster.namespace}} for one in manifests]
    command = ["kubectl", "--kubeconfig", str(server.kubeconfig), "apply", "--dry-run=server", "-f", "-"]
    told = await asyncio.to_thread(
        subprocess.run, command, input=yaml.safe_dump_all(placed), capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("(server dry run)") == len(placed)
