"""Discovery in Kubernetes against an API server of our own: the contract, and what only a fake can be made to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.config import KubernetesSettings
from router.discovery.kube_client import KubeClient
from router.errors import ConfigError
from tests.discovery.fake_kube import TOKEN, FakeApiServer
from tests.discovery.kube_contract import KubernetesContract, watching


def kubeconfig(path: Path, server: str, token: str = TOKEN) -> Path:
    settings = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "test", "namespace": "models"}}],
        "clusters": [{"name": "fake", "cluster": {"server": server}}],
        "users": [{"name": "test", "user": {"token": token}}],
    }
    path.write_text(yaml.safe_dump(settings))
    return path


class FakeCluster:
    """The fake API server, and what kubelets and controllers would write there."""

    namespace = "models"
    watch_seconds = 60

    def __init__(self, folder: Path) -> None:
        self.server = FakeApiServer()
        self.folder = folder

    @property
    def kubeconfig(self) -> Path:
        return kubeconfig(self.folder / "kubeconfig", f"http://127.0.0.1:{self.server.port}")

    async def pod(
        self,
        name: str,
        address: str = "127.0.0.1",
        *,
        ready: bool = True,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        self.server.put(
            {
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "labels": dict(labels or {"app": "vllm"}),
                    "annotations": dict(annotations or {}) or None,
                },
                "spec": {"containers": [{"name": "engine", "ports": [{"containerPort": 8000, "name": "http"}]}]},
                "status": {
                    "phase": "Running",
                    "podIP": address,
                    "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
                },
            }
        )

    async def terminate(self, name: str) -> None:
        one = self.server.objects["Pod", name]
        self.server.put({**one, "metadata": {**one["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}})

    async def delete(self, name: str) -> None:
        self.server.delete("Pod", name)

    async def slices(self, service: str, *slices: Mapping[str, Any]) -> None:
        label = {"kubernetes.io/service-name": service}
        for kind, name in [key for key in self.server.objects if key[0] == "EndpointSlice"]:
            is_wanted = name in {one["name"] for one in slices}
            if self.server.objects[kind, name]["metadata"]["labels"] == label and not is_wanted:
                self.server.delete(kind, name)
        for one in slices:
            endpoints = [_endpoint(pod, address, {"ready": True}) for pod, address in one["addresses"].items()]
            leaving = {"ready": False, "serving": True, "terminating": True}
            endpoints += [_endpoint(pod, address, leaving) for pod, address in one.get("terminating", {}).items()]
            self.server.put(
                {
                    "kind": "EndpointSlice",
                    "metadata": {"name": one["name"], "labels": label},
                    "addressType": "IPv4",
                    "endpoints": endpoints or None,
                    "ports": [{"name": "http", "port": 8000}] if endpoints else None,
                }
            )

    async def watches_end(self) -> None:
        self.server.end_watches()

    async def kill(self) -> None:
        await self.server.kill()

    async def start(self) -> None:
        await self.server.start()

    async def forget_history(self) -> None:
        self.server.compact()


def _endpoint(pod: str, address: str, conditions: Mapping[str, bool]) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": pod}}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[FakeCluster]:
    one = FakeCluster(tmp_path)
    await one.start()
    yield one
    await one.kill()


class TestTheContractOnTheFakeServer(KubernetesContract):
    pass


async def test_an_error_event_inside_a_stream_that_began_well_lists_again(cluster: FakeCluster) -> None:
    await cluster.pod("a")
    async with watching(cluster) as one:
        await one.until_names("a")
        cluster.server.compact()  # noticed when the watch ends and the next asks for a version that is gone
        cluster.server.end_watches()
        await cluster.pod("b")
        await one.until_names("a", "b")
        assert cluster.server.asked.count("list") == 2


async def test_a_bookmark_alone_keeps_a_quiet_list_young_enough_to_go_on_from(cluster: FakeCluster) -> None:
    await cluster.pod("a")
    async with watching(cluster) as one:
        await one.until_names("a")
        await cluster.server.watched.wait()
        cluster.server.version += 50  # others' objects changed
        cluster.server.bookmark()
        await asyncio.sleep(0)
        cluster.server.oldest = cluster.server.version
        cluster.server.changes.clear()
        cluster.server.end_watches()
        await cluster.pod("b")
        await one.until_names("a", "b")
        assert cluster.server.asked.count("list") == 1


async def test_a_list_comes_in_pages(cluster: FakeCluster) -> None:
    for name in "abcde":
        await cluster.pod(name)
    async with watching(cluster) as one:
        await one.until_names(*"abcde")
        assert cluster.server.asked[:3] == ["list", "page", "page"]
        assert one.history == [list("abcde")]


async def test_who_may_not_list_is_told_what_to_grant_and_sees_once_it_may(cluster: FakeCluster) -> None:
    await cluster.pod("a")
    cluster.server.forbidden = True
    async with watching(cluster) as one:
        await one.until(lambda: any("403 Forbidden" in line and "k8s/rbac/rbac.yaml" in line for line in one.said))
        cluster.server.forbidden = False
        await one.until_names("a")
        assert len([line for line in one.said if "not seen" in line]) == 1


async def test_a_wrong_token_is_told(cluster: FakeCluster) -> None:
    wrong = kubeconfig(cluster.folder / "wrong", f"http://127.0.0.1:{cluster.server.port}", "another")
    async with watching(cluster, wrong) as one:
        await one.until(lambda: any("401 Unauthorized" in line and "not accepted" in line for line in one.said))


async def test_a_start_before_the_server_is_up_sees_once_it_is(cluster: FakeCluster) -> None:
    await cluster.pod("a")
    path = cluster.kubeconfig
    await cluster.kill()
    async with watching(cluster, path) as one:
        await one.until(lambda: any("not seen" in line for line in one.said))
        await cluster.start()
        await one.until_names("a")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"kubeconfig": "nowhere"}, "no way to an API server"),
        ({"context": "another"}, "another"),
    ],
)
def test_a_way_that_leads_nowhere_is_a_fault_of_the_configuration(
    settings: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    path = kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    told = {"selector": "app=vllm", "kubeconfig": str(path), **settings}
    with pytest.raises(ConfigError, match=fault):
        KubeClient(KubernetesSettings.model_validate(told))


def test_the_namespace_is_the_contexts_own_if_nothing_else_is_said(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    client = KubeClient(KubernetesSettings(selector="app=vllm", kubeconfig=path))
    assert (client.namespace, client.what) == ("models", "pods")
