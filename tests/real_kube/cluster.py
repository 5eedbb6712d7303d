"""A namespace of a real API server, with our own RBAC in it and pods that stand on a node nobody runs.

What kubelets would write, the tests write. Homing asks with a token of the service account in k8s/rbac/rbac.yaml.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config, utils
from kubernetes.client.exceptions import ApiException

from tests.real_kube.server import Server

RBAC = Path(__file__).resolve().parents[2] / "k8s" / "rbac" / "rbac.yaml"
NODE = "homing-test"


class RealCluster:
    """Deleted with its namespace."""

    watch_seconds = 4  # servers send a bookmark 2 s before the end of a watch, if it is at least so long

    def __init__(self, server: Server, namespace: str, folder: Path) -> None:
        self._server = server
        self.namespace = namespace
        self._folder = folder
        admin = config.new_client_from_config(str(server.kubeconfig))
        self.core, self._discovery = client.CoreV1Api(admin), client.DiscoveryV1Api(admin)
        self._admin = admin

    def prepare(self) -> None:
        """Namespace, node, service account and rights."""
        self.core.create_namespace({"metadata": {"name": self.namespace}})
        try:
            self.core.create_node({"metadata": {"name": NODE}})
        except ApiException as fault:
            if fault.status != 409:
                raise
        for one in yaml.safe_load_all(RBAC.read_text()):
            utils.create_from_dict(self._admin, one, namespace=self.namespace)

    def clear(self) -> None:
        self.core.delete_namespace(self.namespace, grace_period_seconds=0)

    @property
    def kubeconfig(self) -> Path:
        """Of the service account, and nothing else."""
        request = {"spec": {"audiences": None, "expirationSeconds": 3600}}
        token = self.core.create_namespaced_service_account_token("homing", self.namespace, request).status.token
        read = yaml.safe_load(Path(self._server.kubeconfig).read_text())
        current = next(one for one in read["contexts"] if one["name"] == read["current-context"])
        read["users"] = [{"name": current["context"]["user"], "user": {"token": token}}]
        path = self._folder / f"{self.namespace}.kubeconfig"
        path.write_text(yaml.safe_dump(read))
        return path

    async def pod(
        self,
        name: str,
        address: str = "127.0.0.1",
        *,
        ready: bool = True,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        metadata = {"name": name, "labels": {"app": "vllm", **(labels or {})}, "annotations": dict(annotations or {})}
        condition = "True" if ready else "False"
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": kind, "status": condition} for kind in ("Ready", "ContainersReady")],
        }
        ports = [{"containerPort": 8000, "name": "http"}]
        spec = {
            "nodeName": NODE,
            "serviceAccountName": "homing",  # the default one may not be there yet
            "automountServiceAccountToken": False,
            "containers": [{"name": "engine", "image": "none", "ports": ports}],
        }

        def write() -> None:
            try:
                self.core.create_namespaced_pod(self.namespace, {"metadata": metadata, "spec": spec})
            except ApiException as fault:
                if fault.status != 409:
                    raise
                self.core.patch_namespaced_pod(name, self.namespace, {"metadata": metadata})
            self.core.patch_namespaced_pod_status(name, self.namespace, {"status": status})

        await asyncio.to_thread(write)

    async def terminate(self, name: str) -> None:
        await asyncio.to_thread(self.core.delete_namespaced_pod, name, self.namespace, grace_period_seconds=60)

    async def delete(self, name: str) -> None:
        await asyncio.to_thread(self.core.delete_namespaced_pod, name, self.namespace, grace_period_seconds=0)

    async def slices(self, service: str, *slices: Mapping[str, Any]) -> None:
        await asyncio.to_thread(self._write_slices, service, slices)

    def _write_slices(self, service: str, slices: tuple[Mapping[str, Any], ...]) -> None:
        label = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "a-test"}
        selector = f"kubernetes.io/service-name={service}"
        there = self._discovery.list_namespaced_endpoint_slice(self.namespace, label_selector=selector).items
        for one in there:
            if one.metadata.name not in {wanted["name"] for wanted in slices}:
                self._discovery.delete_namespaced_endpoint_slice(one.metadata.name, self.namespace)
        for one in slices:
            endpoints = [_endpoint(pod, address, {"ready": True}) for pod, address in one["addresses"].items()]
            leaving = {"ready": False, "serving": True, "terminating": True}
            endpoints += [_endpoint(pod, address, leaving) for pod, address in one.get("terminating", {}).items()]
            body = {
                "metadata": {"name": one["name"], "labels": label},
                "addressType": "IPv4",
                "endpoints": endpoints,
                "ports": [{"name": "http", "port": 8000}] if endpoints else [],
            }
            if one["name"] in {known.metadata.name for known in there}:
                self._discovery.patch_namespaced_endpoint_slice(one["name"], self.namespace, body)
            else:
                self._discovery.create_namespaced_endpoint_slice(self.namespace, body)

    async def watches_end(self) -> None:
        await asyncio.sleep(self.watch_seconds)  # the server's own clock ends them

    async def kill(self) -> None:
        if not self._server.own:
            pytest.skip("the API server is not ours to kill")
        await asyncio.to_thread(self._server.kill)

    async def start(self) -> None:
        await asyncio.to_thread(self._server.start)

    async def forget_history(self) -> None:
        await asyncio.to_thread(self._server.compact)


def _endpoint(pod: str, address: str, conditions: Mapping[str, bool]) -> dict[str, Any]:
    reference = {"kind": "Pod", "name": pod}
    return {"addresses": [address], "conditions": dict(conditions), "targetRef": reference}
