"""The few fields of Kubernetes' objects that are read, as they stand on the wire. Pure.

Only these are decoded: a pod in full is some 10 KB and hundreds of fields, and what is not read cannot change its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec


class _Wire(msgspec.Struct, frozen=True, rename="camel"):
    pass


class Metadata(_Wire, frozen=True):
    name: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: Mapping[str, str] | None = None
    annotations: Mapping[str, str] | None = None


class Object(_Wire, frozen=True):
    """What every object has; a bookmark has no more."""

    metadata: Metadata = Metadata()


class ContainerPort(_Wire, frozen=True):
    container_port: int
    name: str = ""


class Container(_Wire, frozen=True):
    ports: tuple[ContainerPort, ...] | None = None


class PodSpec(_Wire, frozen=True):
    containers: tuple[Container, ...] = ()


class Condition(_Wire, frozen=True):
    type: str
    status: str


class PodStatus(_Wire, frozen=True):
    phase: str = ""
    pod_i_p: str | None = msgspec.field(default=None, name="podIP")
    conditions: tuple[Condition, ...] | None = None


class Pod(Object, frozen=True):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class EndpointConditions(_Wire, frozen=True):
    """None means what the API says it means: ready unless told otherwise, serving as ready, not terminating."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Reference(_Wire, frozen=True):
    kind: str = ""
    name: str = ""


class Endpoint(_Wire, frozen=True):
    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    target_ref: Reference | None = None
    zone: str | None = None


class EndpointPort(_Wire, frozen=True):
    name: str | None = None
    port: int | None = None


class EndpointSlice(Object, frozen=True):
    address_type: str = ""
    endpoints: tuple[Endpoint, ...] | None = None  # null where nobody is behind the Service
    ports: tuple[EndpointPort, ...] | None = None  # null or empty: whatever port is asked for


class ListMetadata(_Wire, frozen=True):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class Status(_Wire, frozen=True):
    """What went wrong, as the API server tells it: the body of a refusal, and the object of an ERROR event."""

    code: int = 0
    reason: str = ""
    message: str = ""


class Event(_Wire, frozen=True):
    """A line of a watch."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: msgspec.Raw
