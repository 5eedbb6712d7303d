"""What pods, endpoint slices and their notes come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from router.config import KubernetesSettings
from router.discovery import notes, pods, slices
from router.discovery.kube_objects import EndpointSlice, Pod
from router.fleet.replica import EventAddress, ReplicaId

BY_SELECTOR = KubernetesSettings(selector="app=vllm")
BY_SERVICE = KubernetesSettings(service="vllm")


def pod(
    name: str = "a",
    ip: str = "10.0.0.1",
    ports: tuple[tuple[str, int], ...] = (("http", 8000),),
    noted: Mapping[str, str] | None = None,
) -> Pod:
    return msgspec.convert(
        {
            "metadata": {"name": name, "annotations": {f"homing/{key}": text for key, text in (noted or {}).items()}},
            "spec": {"containers": [{"ports": [{"name": key, "containerPort": port} for key, port in ports]}]},
            "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
        },
        Pod,
    )


def endpoint(name: str | None, address: str, **conditions: bool) -> dict[str, Any]:
    reference = {"kind": "Pod", "name": name} if name else None
    return {"addresses": [address], "conditions": conditions, "targetRef": reference}


def endpoint_slice(
    name: str, *endpoints: Mapping[str, Any], family: str = "IPv4", ports: Mapping[str, int] | None = None
) -> EndpointSlice:
    named = {"http": 8000} if ports is None else ports
    return msgspec.convert(
        {
            "metadata": {"name": name},
            "addressType": family,
            "endpoints": list(endpoints) or None,
            "ports": [{"name": key, "port": port} for key, port in named.items()] or None,
        },
        EndpointSlice,
    )


def url(seen: pods.Seen, name: str = "a") -> str:
    return seen.members[ReplicaId(name)].replica.url


def test_the_port_is_annotated_or_configured_or_the_first_there_is() -> None:
    one = pod(ports=(("metrics", 9100), ("http", 8000)))
    assert url(pods.members([one], BY_SELECTOR)) == "http://10.0.0.1:9100"
    assert url(pods.members([one], KubernetesSettings(selector="a=b", port="http"))) == "http://10.0.0.1:8000"
    assert url(pods.members([one], KubernetesSettings(selector="a=b", port=7000))) == "http://10.0.0.1:7000"
    assert url(pods.members([pod(noted={"port": "6000"})], KubernetesSettings(selector="a=b", port=7000))).endswith(
        ":6000"
    )


def test_an_ipv6_pod_is_addressed_in_brackets_for_http_and_for_events() -> None:
    noted = {"event-port": "5557", "replay-port": "5558", "event-topic": "kv"}
    seen = pods.members([pod(ip="fd00::1", noted=noted)], KubernetesSettings(selector="a=b", scheme="https"))
    assert url(seen) == "https://[fd00::1]:8000"
    heard = EventAddress("tcp://[fd00::1]:5557", "tcp://[fd00::1]:5558", "kv")
    assert seen.members[ReplicaId("a")].replica.events == heard


@pytest.mark.parametrize(
    ("one", "fault"),
    [
        (pod(ports=()), "it declares no port; set discovery.kubernetes.port, or annotate it with homing/port"),
        (pod(noted={"port": "0"}), "homing/port is '0', but must be a port"),
        (pod(noted={"engine": "tgi"}), "homing/engine is 'tgi', but must be vllm or sglang"),
        (pod(noted={"handshake": "rdma"}), "homing/handshake is 'rdma', but must be nixl, mooncake, sglang"),
        (pod(noted={"label-": "x"}), "homing/label- is not known here"),
        (pod(noted={"ranks": "many"}), "homing/ranks is 'many', but must be a number from 1 to 256"),
        (pod(noted={"rnak": "1"}), "homing/rnak is not known here; known are bootstrap-port, engine, event-port"),
        (pod(noted={"replay-port": "5558"}), "homing/replay-port is there but homing/event-port is not"),
    ],
)
def test_a_pod_whose_notes_cannot_be_used_is_left_out_and_named_and_the_others_are_there(one: Pod, fault: str) -> None:
    seen = pods.members([one, pod("b")], BY_SELECTOR)
    assert list(seen.members) == ["b"]
    (told,) = seen.faults
    assert told.startswith("pod a is left out: ")
    assert fault in told


def test_a_pod_s_zone_and_its_notes_are_the_labels_that_distance_is_priced_by() -> None:
    there = {"topology.kubernetes.io/zone": "eu-1a", "topology.kubernetes.io/region": "eu-1", "app": "vllm"}
    one = pod(noted={"role": "prefill", "handshake": "mooncake", "bootstrap-port": "8998", "label-rack": "r7"})
    one = msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, labels=there))
    replica = pods.members([one], BY_SELECTOR).members[ReplicaId("a")].replica
    assert replica.labels == {"zone": "eu-1a", "region": "eu-1", "rack": "r7"}
    assert (replica.handshake, replica.bootstrap_port) == ("mooncake", 8998)
    moved = pod(noted={"label-zone": "mine"})
    moved = msgspec.structs.replace(moved, metadata=msgspec.structs.replace(moved.metadata, labels=there))
    seen = pods.members([moved], BY_SELECTOR).members[ReplicaId("a")].replica
    assert seen.labels["zone"] == "mine", "what is noted overrules"
    assert seen.handshake is None


def test_an_endpoint_s_zone_is_its_label() -> None:
    zoned = {**endpoint("a", "10.0.0.1", ready=True), "zone": "eu-1b"}
    seen = slices.members([endpoint_slice("s", zoned, endpoint("b", "10.0.0.2", ready=True))], BY_SERVICE)
    assert [dict(one.replica.labels) for one in seen.members.values()] == [{"zone": "eu-1b"}, {}]


def test_every_note_that_is_read_is_in_the_table_and_the_other_way_round() -> None:
    assert notes.__doc__ is not None
    table = {line.split("|")[1].strip() for line in notes.__doc__.splitlines() if line.startswith("| homing/")}
    assert table == {f"homing/{key}" for key in notes.KNOWN}


def test_an_endpoint_that_stands_in_two_slices_is_one_member_at_its_ipv4_address() -> None:
    six = endpoint_slice("a-v6", endpoint("a", "fd00::1", ready=True), family="IPv6")
    four = endpoint_slice("z-v4", endpoint("a", "10.0.0.1", ready=True))
    assert url(slices.members([six, four], BY_SERVICE)) == "http://10.0.0.1:8000"


def test_an_endpoint_is_ready_if_one_of_its_slices_says_so_and_ready_if_none_says_anything() -> None:
    leaving = endpoint("a", "10.0.0.1", ready=False, serving=True, terminating=True)
    first, second = endpoint_slice("1", leaving), endpoint_slice("2", endpoint("a", "10.0.0.1", ready=True))
    assert slices.members([first], BY_SERVICE).members[ReplicaId("a")].draining
    assert not slices.members([first, second], BY_SERVICE).members[ReplicaId("a")].draining
    assert list(slices.members([endpoint_slice("1", endpoint("a", "10.0.0.1"))], BY_SERVICE).members) == ["a"]


def test_endpoints_that_do_not_serve_are_not_there() -> None:
    gone = endpoint("a", "10.0.0.1", ready=False, serving=False, terminating=True)
    starting = endpoint("b", "10.0.0.2", ready=False, serving=False)
    assert not slices.members([endpoint_slice("1", gone, starting)], BY_SERVICE).members


def test_an_endpoint_without_a_pod_goes_by_its_address_and_a_slice_without_a_port_is_a_fault() -> None:
    bare = endpoint(None, "192.0.2.7", ready=True)
    assert url(slices.members([endpoint_slice("1", bare)], BY_SERVICE), "192.0.2.7:8000") == "http://192.0.2.7:8000"
    seen = slices.members([endpoint_slice("1", bare, ports={})], BY_SERVICE)
    assert (dict(seen.members), len(seen.faults)) == ({}, 1)
    assert "set discovery.kubernetes.port to a number" in seen.faults[0]
    numbered = KubernetesSettings(service="vllm", port=9000)
    assert len(slices.members([endpoint_slice("1", bare, ports={})], numbered).members) == 1
