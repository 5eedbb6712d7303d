"""From the EndpointSlices of one Service to members. Pure.

A Service has several slices: one per hundred endpoints, one per address family, one more while endpoints move between
two, and some that are empty. All are read together. An endpoint that stands in two of them is one member: the address
of the first counts, IPv4 before IPv6, and it is ready if one of them says so.

What a replica does not tell of itself stands in labels of the Service, which Kubernetes copies onto its slices; for
what differs from pod to pod, find pods by selector instead.
"""

from __future__ import annotations

from collections.abc import Iterable

from router.config import KubernetesSettings
from router.discovery import notes
from router.discovery.kube_objects import Endpoint, EndpointSlice
from router.discovery.members import Member
from router.discovery.pods import Seen

FAMILIES = ("IPv4", "IPv6", "FQDN")


def members(slices: Iterable[EndpointSlice], settings: KubernetesSettings) -> Seen:
    """The members behind the Service, by the name of their pod, or by their address where no pod stands behind it."""
    found: dict[str, Member] = {}
    faults: list[str] = []
    for one in sorted(slices, key=_order):
        serving = [endpoint for endpoint in one.endpoints or () if endpoint.addresses and _serves(endpoint)]
        if not serving:
            continue
        try:
            told = notes.read({**(one.metadata.labels or {}), **(one.metadata.annotations or {})})
            port = told.port or _port(one, settings.port)
        except notes.NoteFault as fault:
            faults.append(f"EndpointSlice {one.metadata.name} is left out: {fault}")
            continue
        for endpoint in serving:
            address, target = endpoint.addresses[0], endpoint.target_ref
            name = target.name if target is not None and target.kind == "Pod" else f"{address}:{port}"
            near = {"zone": endpoint.zone} if endpoint.zone else {}
            one_there = notes.replica(name, address, port, settings.scheme, told, near)
            member = Member(one_there, draining=not _is_ready(endpoint))
            known = found.setdefault(name, member)
            if known.draining and not member.draining:
                found[name] = Member(known.replica)
    return Seen({found[name].replica.id: found[name] for name in sorted(found)}, tuple(faults))


def _order(one: EndpointSlice) -> tuple[int, str]:
    kind = one.address_type
    return (FAMILIES.index(kind) if kind in FAMILIES else len(FAMILIES), one.metadata.name)


def _is_ready(endpoint: Endpoint) -> bool:
    return endpoint.conditions.ready is not False


def _serves(endpoint: Endpoint) -> bool:
    """Ready, or being deleted and still answering: then it drains."""
    conditions = endpoint.conditions
    return _is_ready(endpoint) or (conditions.terminating is True and conditions.serving is True)


def _port(one: EndpointSlice, wanted: int | str | None) -> int:
    if isinstance(wanted, int):
        return wanted
    for port in one.ports or ():
        if port.port is not None and (wanted is None or port.name == wanted):
            return port.port
    what = "tells no port" if wanted is None else f"tells no port named {wanted}"
    raise notes.NoteFault(f"it {what}; set discovery.kubernetes.port to a number")
