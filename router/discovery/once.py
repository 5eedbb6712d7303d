"""All replicas that a configuration leads to at this moment, for whoever looks once and does not follow."""

from __future__ import annotations

import msgspec

from router.config import Config, KubernetesSettings
from router.discovery import file, pods, slices, static
from router.discovery.kube_client import KubeClient, Refused, Unreachable
from router.discovery.kube_objects import EndpointSlice, Pod
from router.discovery.members import Member, Sighting
from router.discovery.pods import Seen
from router.discovery.reflect import Kind, Reflection
from router.errors import ConfigError
from router.fleet.replica import Replica


def replicas(config: Config) -> list[Replica]:
    """Those named, then those found, draining ones too. Blocks while an API server is asked. Raises ConfigError for a
    source that cannot be read, and for objects that cannot be used."""
    found: dict[str, Replica] = {}
    sightings: list[Sighting] = [{one.id: Member(one) for one in static.replicas(config.replicas)}]
    if config.discovery.file is not None:
        sightings.append(file.read(config.discovery.file))
    if config.discovery.kubernetes is not None:
        seen = _listed(config.discovery.kubernetes)
        if seen.faults:
            raise ConfigError([f"discovery.kubernetes: {fault}" for fault in seen.faults])
        sightings.append(seen.members)
    for sighting in sightings:
        for name, member in sighting.items():
            found.setdefault(name, member.replica)
    return list(found.values())


def _listed(settings: KubernetesSettings) -> Seen:
    client = KubeClient(settings)
    try:
        if settings.service is None:
            return pods.members(_all(client, Reflection(Pod)), settings)
        return slices.members(_all(client, Reflection(EndpointSlice)), settings)
    except (Refused, Unreachable, msgspec.MsgspecError) as fault:
        raise ConfigError([f"discovery.kubernetes: {client.what} cannot be listed: {fault}"]) from fault


def _all(client: KubeClient, reflection: Reflection[Kind]) -> list[Kind]:
    reflection.begin()
    token = reflection.page(client.page(""))
    while token:
        token = reflection.page(client.page(token))
    return list(reflection.objects.values())
