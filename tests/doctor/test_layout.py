from __future__ import annotations

import json
from typing import Any

import pytest

from router.doctor.finding import Status
from router.doctor.layout import is_half, judge_disaggregation, judge_ranks, moved, published

SGLANG = {
    "kv_events": {
        "publisher": "zmq",
        "endpoint_host": "*",
        "endpoint_port_base": 9400,
        "topic": "kv",
        "block_size": 16,
        "dp_size": 2,
        "replay_endpoint_port_base": 9500,
    },
    "dp_size": 2,
    "disaggregation_mode": "null",
    "disaggregation_bootstrap_port": 8998,
}


def sources(**ranks: dict[str, Any]) -> dict[str, bytes]:
    return {"/kv_event_sources": json.dumps({name[1:]: source for name, source in ranks.items()}).encode()}


def server(**fields: Any) -> dict[str, bytes]:
    return {"/server_info": json.dumps({**SGLANG, **fields}).encode()}


@pytest.mark.parametrize(
    ("endpoint", "binds"),
    [("tcp://*:5557", True), ("tcp://[::]:5557", True), ("ipc:///tmp/kv", True), ("tcp://127.0.0.1:5557", False)],
)
def test_vllm_binds_wildcards_only(endpoint: str, binds: bool) -> None:
    told = published(sources(r0={"endpoint": endpoint, "buffer_steps": 7}))
    assert told is not None
    assert (told[0].binds, told[0].buffer_steps) == (binds, 7)


def test_events_that_are_off_and_an_engine_that_does_not_tell_differ() -> None:
    assert published(sources(r0={"enable_kv_cache_events": False, "endpoint": "tcp://*:1"})) == ()
    assert published(server(kv_events=None)) == ()
    assert published({}) is None
    assert published({"/kv_event_sources": b"<html>"}) is None


def test_sglang_tells_one_base_and_every_rank_adds_its_number() -> None:
    told = published(server())
    assert told is not None
    assert [(one.rank, one.endpoint, one.replay, one.binds) for one in told] == [
        (0, "tcp://*:9400", "tcp://*:9500", True),
        (1, "tcp://*:9401", "tcp://*:9501", True),
    ]


def test_sglang_may_be_told_to_bind_a_concrete_address() -> None:
    given = {"publisher": "zmq", "endpoint": "tcp://10.0.0.1:9400"}
    concrete = published(server(kv_events=None, kv_events_config=json.dumps(given), dp_size=1))
    bound = published(server(kv_events=None, kv_events_config=json.dumps({**given, "bind": True}), dp_size=1))
    assert concrete is not None
    assert bound is not None
    assert (concrete[0].binds, bound[0].binds) == (False, True)


def test_a_rank_without_a_publisher_is_named() -> None:
    told = published(sources(r0={"endpoint": "tcp://*:5557"}, r1={"enable_kv_cache_events": False}))
    assert judge_ranks(1, told).status is Status.PASS
    assert judge_ranks(None, told).status is Status.SKIPPED
    finding = judge_ranks(2, told)
    assert finding.status is Status.FAIL
    assert "of which 1 publish no events" in finding.found
    assert "ID#RANK" in judge_ranks(2, published(server())).found


def test_the_connector_is_read_from_what_can_be_known() -> None:
    nixl = {"/metrics": b'vllm:nixl_bytes_transferred_sum{engine="0"} 0.0\n'}
    other = {"/metrics": b'vllm:external_prefix_cache_queries_total{engine="0"} 12.0\n'}
    none = {"/metrics": b'vllm:external_prefix_cache_queries_total{engine="0"} 0.0\n'}
    assert "NIXL" in judge_disaggregation("vllm", nixl).found
    assert "KV connector" in judge_disaggregation("vllm", other).found
    assert "none" in judge_disaggregation("vllm", none).found
    assert judge_disaggregation("vllm", {}).status is Status.SKIPPED


def test_a_half_of_sglang_is_no_replica_for_whole_requests() -> None:
    half = judge_disaggregation("sglang", server(disaggregation_mode="decode"))
    assert half.status is Status.WARN
    assert "--disaggregation-mode" in (half.mend or "")
    assert is_half(server(disaggregation_mode="prefill"))
    assert not is_half(server())
    assert not is_half({})


def test_a_rank_publishes_as_many_ports_higher() -> None:
    assert moved("tcp://[::1]:5557", 3) == "tcp://[::1]:5560"
    assert moved("ipc:///tmp/kv", 3) == "ipc:///tmp/kv"
