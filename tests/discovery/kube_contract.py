"""What discovery in Kubernetes promises, against any API server: our fake one, and a real one (tests/real_kube)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from router.clock import SystemClock
from router.config import KubernetesSettings
from router.discovery.kube_client import KubeClient
from router.discovery.kubernetes import KubernetesSource
from router.discovery.members import Sighting
from router.discovery.source import follow
from router.fleet.replica import EventAddress, ReplicaId, Role

PATIENCE_SECONDS = 60.0  # for a real server on a busy machine


class Cluster(Protocol):
    """A namespace of an API server. Pods are what a kubelet would make of them."""

    namespace: str
    watch_seconds: int  # what to ask for

    @property
    def kubeconfig(self) -> Path: ...

    async def pod(
        self,
        name: str,
        address: str = "127.0.0.1",
        *,
        ready: bool = True,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """Create or change a running pod labelled app=vllm, which declares port 8000."""
        ...

    async def terminate(self, name: str) -> None:
        """Ask for the pod's deletion; it goes on running, and being ready, for a while."""
        ...

    async def delete(self, name: str) -> None:
        """The pod is gone."""
        ...

    async def slices(self, service: str, *slices: Mapping[str, Any]) -> None:
        """The Service has exactly these: each of `name`, `addresses` and perhaps `terminating` ones."""
        ...

    async def watches_end(self) -> None:
        """As servers do after a while, every open watch ends in order."""
        ...

    async def kill(self) -> None: ...
    async def start(self) -> None: ...

    async def forget_history(self) -> None:
        """While the server is down: no version told before can be watched from when it is up again."""
        ...


class CountingClient(KubeClient):
    """Counts how often everything was listed."""

    lists = 0

    def page(self, token: str) -> bytes:
        self.lists += not token
        return super().page(token)


class Watched:
    """What a source told, and a way to wait for it."""

    def __init__(self, client: CountingClient) -> None:
        self.client = client
        self.now: Sighting | None = None
        self.history: list[list[str]] = []
        self.said: list[str] = []
        self._changed = asyncio.Condition()
        self._wakers: set[asyncio.Task[None]] = set()

    def seen(self, _source: str, sighting: Sighting) -> None:
        self.now = sighting
        self.history.append(self.names)
        self._wake()

    def say(self, line: str) -> None:
        self.said.append(line)
        self._wake()

    @property
    def names(self) -> list[str]:
        return [f"{name}{' drains' if member.draining else ''}" for name, member in (self.now or {}).items()]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
            await self._changed.wait_for(holds)

    async def until_names(self, *names: str) -> None:
        try:
            await self.until(lambda: self.now is not None and self.names == list(names))
        except TimeoutError:
            raise AssertionError(f"wanted {list(names)}; saw {self.history}; said {self.said}") from None

    def _wake(self) -> None:
        async def wake() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.get_running_loop().create_task(wake())
        self._wakers.add(task)
        task.add_done_callback(self._wakers.discard)


@asynccontextmanager
async def watching(cluster: Cluster, kubeconfig: Path | None = None, **settings: Any) -> AsyncIterator[Watched]:
    """A source on the cluster while the block runs; by selector app=vllm if nothing else is said."""
    told = {"namespace": cluster.namespace, "kubeconfig": str(kubeconfig or cluster.kubeconfig), **settings}
    if "service" not in told:
        told.setdefault("selector", "app=vllm")
    read = KubernetesSettings.model_validate(told)
    client = CountingClient(read, watch_seconds=cluster.watch_seconds)
    one = Watched(client)
    source = KubernetesSource(read, client, clock=SystemClock(), say=one.say, first_pause_seconds=0.02)
    task = asyncio.create_task(follow(source, one.seen, one.say))
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class KubernetesContract:
    """Wants a fixture `cluster`."""

    async def test_ready_pods_are_there_and_others_are_not(self, cluster: Cluster) -> None:
        await cluster.pod("a", "127.0.0.2")
        await cluster.pod("b", ready=False)
        await cluster.pod("c", labels={"app": "another"})
        async with watching(cluster) as one:
            await one.until_names("a")
            assert one.now is not None
            assert one.now[ReplicaId("a")].replica.url == "http://127.0.0.2:8000"
            await cluster.pod("b")
            await one.until_names("a", "b")
            await cluster.pod("a", "127.0.0.2", ready=False)
            await one.until_names("b")

    async def test_a_terminating_pod_drains_until_it_is_gone(self, cluster: Cluster) -> None:
        for name in "ab":
            await cluster.pod(name)
        async with watching(cluster) as one:
            await one.until_names("a", "b")
            await cluster.terminate("a")
            await one.until_names("a drains", "b")
            await cluster.delete("a")
            await one.until_names("b")

    async def test_a_pod_that_is_labelled_otherwise_leaves_and_comes_back(self, cluster: Cluster) -> None:
        await cluster.pod("a")
        async with watching(cluster) as one:
            await one.until_names("a")
            await cluster.pod("a", labels={"app": "quarantine"})
            await one.until_names()
            await cluster.pod("a")
            await one.until_names("a")

    async def test_annotations_tell_what_the_engine_does_not(self, cluster: Cluster) -> None:
        notes = {"homing/role": "prefill", "homing/event-port": "5557", "homing/ranks": "2", "homing/port": "9000"}
        await cluster.pod("a", "127.0.0.3", annotations=notes)
        await cluster.pod("b", annotations={"homing/role": "prefil"})
        async with watching(cluster) as one:
            await one.until_names("a")
            assert one.now is not None
            replica = one.now[ReplicaId("a")].replica
            assert (replica.role, replica.ranks, replica.url) == (Role.PREFILL, 2, "http://127.0.0.3:9000")
            assert replica.events == EventAddress("tcp://127.0.0.3:5557")
            fault = "pod b is left out: homing/role is 'prefil', but must be prefill, decode or both"
            await one.until(lambda: any(fault in line for line in one.said))

    async def test_a_killed_server_changes_nothing_and_what_happens_after_it_is_back_is_seen(
        self, cluster: Cluster
    ) -> None:
        for name in "ab":
            await cluster.pod(name)
        async with watching(cluster) as one:
            await one.until_names("a", "b")
            await cluster.kill()
            await one.until(lambda: any("the API server is not seen" in line for line in one.said))
            await cluster.start()
            await cluster.pod("c")
            await one.until_names("a", "b", "c")
            await one.until(lambda: any("seen again" in line for line in one.said))
            assert one.history == [["a", "b"], ["a", "b", "c"]]

    async def test_after_history_is_forgotten_all_is_listed_again_and_nobody_leaves_for_it(
        self, cluster: Cluster
    ) -> None:
        for name in "abc":
            await cluster.pod(name)
        async with watching(cluster) as one:
            await one.until_names("a", "b", "c")
            await cluster.kill()
            await cluster.forget_history()
            await cluster.start()
            await cluster.pod("d")
            await cluster.delete("b")
            await one.until_names("a", "c", "d")
            assert all({"a", "c"} <= set(names) for names in one.history)
            assert one.client.lists > 1

    async def test_watches_that_end_are_taken_up_where_they_ended(self, cluster: Cluster) -> None:
        async with watching(cluster) as one:
            await one.until_names()
            for number in range(3):
                await cluster.pod(f"p{number}")
                await one.until_names(*(f"p{earlier}" for earlier in range(number + 1)))
                await cluster.watches_end()
            assert one.history == [[f"p{earlier}" for earlier in range(number)] for number in range(4)]

    async def test_the_slices_of_a_service_are_one_fleet(self, cluster: Cluster) -> None:
        await cluster.slices(
            "vllm",
            {"name": "vllm-1", "addresses": {"a": "10.1.0.1", "b": "10.1.0.2"}},
            {"name": "vllm-2", "addresses": {}},
            {"name": "vllm-3", "addresses": {"c": "10.1.0.3"}},
        )
        await cluster.slices("another", {"name": "another-1", "addresses": {"x": "10.1.0.9"}})
        async with watching(cluster, service="vllm") as one:
            await one.until_names("a", "b", "c")
            assert one.now is not None
            assert one.now[ReplicaId("c")].replica.url == "http://10.1.0.3:8000"
            # The last endpoint of a slice goes, another moves, one is being deleted and still serves.
            await cluster.slices(
                "vllm",
                {"name": "vllm-1", "addresses": {"c": "10.1.0.3"}, "terminating": {"b": "10.1.0.2"}},
                {"name": "vllm-3", "addresses": {}},
            )
            await one.until_names("b drains", "c")
