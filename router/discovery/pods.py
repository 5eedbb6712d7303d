"""From pods to members: a pod that is ready is there, one that is being deleted drains, one that is not ready is not.

A pod that is not ready leaves rather than drains: it is sent nothing new either way, and what is under way there may
end either way. What a replica that left held is forgotten, so a readiness probe that fails under load costs the pod's
warmth: give an engine's probe time.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from router.config import KubernetesSettings
from router.discovery import notes
from router.discovery.kube_objects import Pod
from router.discovery.members import Member, Sighting


@dataclass(frozen=True, slots=True)
class Seen:
    """What objects come to. `faults` name those that cannot be used, and the remedy."""

    members: Sighting
    faults: tuple[str, ...] = ()


def members(pods: Iterable[Pod], settings: KubernetesSettings) -> Seen:
    """The members among the pods, by name."""
    found, faults = {}, []
    for pod in pods:
        address = pod.status.pod_i_p
        if not address or not _is_ready(pod):
            continue
        try:
            told = notes.read(pod.metadata.annotations)
            port = told.port or _port(pod, settings.port)
        except notes.NoteFault as fault:
            faults.append(f"pod {pod.metadata.name} is left out: {fault}")
            continue
        one = notes.replica(pod.metadata.name, address, port, settings.scheme, told, notes.zones(pod.metadata.labels))
        found[one.id] = Member(one, draining=pod.metadata.deletion_timestamp is not None)
    return Seen(dict(sorted(found.items())), tuple(sorted(faults)))


def _is_ready(pod: Pod) -> bool:
    return pod.status.phase == "Running" and any(
        condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions or ()
    )


def _port(pod: Pod, wanted: int | str | None) -> int:
    if isinstance(wanted, int):
        return wanted
    ports = [port for container in pod.spec.containers for port in container.ports or ()]
    for port in ports:
        if wanted is None or port.name == wanted:
            return port.container_port
    what = "declares no port" if wanted is None else f"declares no port named {wanted}"
    raise notes.NoteFault(f"it {what}; set discovery.kubernetes.port, or annotate it with {notes.PREFIX}port")
