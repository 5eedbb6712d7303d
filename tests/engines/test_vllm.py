from __future__ import annotations

import json

import pytest

from router.engines.answers import NoEvents
from router.engines.base import EngineLoad
from router.engines.vllm import (
    Metrics,
    Vllm,
    parse_event_sources,
    parse_loads,
    parse_metrics,
    parse_models,
    parse_version,
)
from router.events.kinds import WireFault
from router.fleet.replica import EventAddress, Facts

METRICS = """\
# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.79532144386e+09
vllm:num_requests_running{engine="0",model_name="tiny"} 8.0
vllm:num_requests_running{engine="1",model_name="tiny"} 3.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 9.0
vllm:prefix_cache_queries_total{engine="0",model_name="tiny"} 30938.0
vllm:prefix_cache_queries_created{engine="0",model_name="tiny"} 1.79e+09
vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 9120.0
vllm:cache_config_info{block_size="96",cache_dtype="a\\"b",enable_prefix_caching="True",num_cpu_blocks="None",\
num_gpu_blocks="48",num_gpu_blocks_override="48"} 1.0
"""


def sources(**changes: object) -> bytes:
    source = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": "tcp://*:5600"}
    return json.dumps({"0": {**source, "replay_endpoint": "tcp://127.0.0.1:5700", "topic": "kv", **changes}}).encode()


def test_names_of_one_root_share_a_base_and_an_adapter_has_its_parents() -> None:
    body = {
        "data": [
            {"id": "zeta", "root": "org/model", "parent": None, "max_model_len": 1024},
            {"id": "alpha", "root": "org/model", "parent": None, "max_model_len": 1024},
            {"id": "ada", "root": "lora1", "parent": "zeta", "max_model_len": None},
            {"id": "plain"},
        ]
    }
    models = parse_models(json.dumps(body).encode())
    assert [(m.name, m.base, m.adapter) for m in models] == [
        ("zeta", "alpha", None),
        ("alpha", "alpha", None),
        ("ada", "alpha", "ada"),
        ("plain", "plain", None),
    ]
    assert (models[0].root, models[0].max_model_len, models[2].max_model_len) == ("org/model", 1024, None)


def test_metrics_are_found_by_their_whole_name_and_summed_over_engines() -> None:
    assert parse_metrics(METRICS) == Metrics(
        block_size_tokens=96,
        cache_blocks=48,
        prefix_caching=True,
        process_start_time=1795321443.86,
        running_requests=11,
        waiting_requests=0,
        prefix_queries_tokens=30938,
        prefix_hits_tokens=9120,
    )


@pytest.mark.parametrize("text", ["", "<html>", "vllm:num_requests_running NaN\n", "process_start_time_seconds x\n"])
def test_metrics_that_are_not_there_are_none(text: str) -> None:
    assert parse_metrics(text) == Metrics()


def test_a_wildcard_or_loopback_host_becomes_the_replicas() -> None:
    assert parse_event_sources(sources(), "http://10.0.0.7:8000") == EventAddress(
        "tcp://10.0.0.7:5600", "tcp://10.0.0.7:5700", "kv"
    )
    assert parse_event_sources(sources(endpoint="tcp://[::]:5600"), "http://[fd00::7]:8000") == EventAddress(
        "tcp://[fd00::7]:5600", "tcp://[fd00::7]:5700", "kv"
    )
    assert parse_event_sources(sources(replay_endpoint="tcp://10.1.1.1:5700"), "http://h:1") == EventAddress(
        "tcp://h:5600", "tcp://10.1.1.1:5700", "kv"
    )
    assert parse_event_sources(sources(replay_endpoint=None), "http://h:1") == EventAddress("tcp://h:5600", None, "kv")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{}", "off"),
        (sources(enable_kv_cache_events=False), "off"),
        (sources(publisher="null"), "null"),
        (sources(endpoint="ipc:///tmp/x"), "ipc"),
        (sources(endpoint="tcp://127.0.0.1:5600"), "tcp://*:5600"),
        (sources(endpoint="tcp://collector:5600"), "connects"),
    ],
)
def test_events_that_cannot_be_heard_come_with_their_reason(body: bytes, word: str) -> None:
    found = parse_event_sources(body, "http://h:1")
    assert isinstance(found, NoEvents)
    assert word in found.reason


def test_each_data_parallel_rank_has_its_own_source() -> None:
    body = json.dumps({"1": {"publisher": "zmq", "endpoint": "tcp://*:5601"}}).encode()
    assert parse_event_sources(body, "http://h:1", rank=1) == EventAddress("tcp://h:5601")


def test_a_server_of_one_rank_of_many_counts_its_own_from_nought() -> None:
    """--data-parallel-external-lb: the numbers run through the deployment, one address has one of them."""
    body = json.dumps({"5": {"publisher": "zmq", "endpoint": "tcp://*:5605"}}).encode()
    assert parse_event_sources(body, "http://h:1") == EventAddress("tcp://h:5605")
    metrics = METRICS.replace('engine="0"', 'engine="5"').replace('engine="1"', 'engine="5"')
    answers = {"/kv_event_sources": body, "/metrics": metrics.encode()}
    assert Vllm().learned("http://h:1", answers)[0].ranks == 1
    assert set(Vllm().loads(answers)) == {0}


def test_load_and_cache_are_those_of_each_engine_behind_the_address() -> None:
    metrics = METRICS.replace(
        "vllm:cache_config_info{",
        'vllm:cache_config_info{engine="1",block_size="32",num_gpu_blocks="7"} 1.0\n'
        'vllm:kv_cache_usage_perc{engine="1",model_name="tiny"} 0.5\nvllm:cache_config_info{engine="0",',
    )
    assert parse_loads(metrics) == {
        0: EngineLoad(8, 0, prefix_queries_tokens=30938, prefix_hits_tokens=9120),
        1: EngineLoad(running_requests=3, used_ratio=0.5),
    }
    assert parse_metrics(metrics).cache_blocks == 48
    assert parse_metrics(metrics, rank=1).cache_blocks == 7
    assert Vllm().learned("http://h:1", {"/metrics": metrics.encode()})[0].ranks == 2


def test_a_look_alike_is_recognised_by_its_metrics_or_by_who_owns_its_models() -> None:
    assert Vllm().recognises({"/metrics": b'vllm:num_requests_running{model_name="x"} 0'})
    assert Vllm().recognises({"/v1/models": b'{"data":[{"id":"m","owned_by":"vllm"}]}'})
    assert not Vllm().recognises({"/v1/models": b'{"data":[{"id":"m","owned_by":"sglang"}]}', "/version": b"{}"})


def test_the_dialect_gathers_the_facts_and_says_what_it_could_not_learn() -> None:
    vllm = Vllm()
    answers = {
        "/v1/models": b'{"data":[{"id":"tiny","root":"model"}]}',
        "/metrics": METRICS.encode(),
        "/kv_event_sources": sources(),
        "/version": b'{"version":"0.32.0"}',
    }
    assert set(vllm.paths) == set(answers)
    facts, remarks = vllm.learned("http://h:1", answers)
    assert remarks == ()
    assert (facts.block_size_tokens, facts.cache_blocks, facts.version) == (96, 48, "0.32.0")
    assert facts.events == EventAddress("tcp://h:5600", "tcp://h:5700", "kv")
    assert [model.name for model in facts.models] == ["tiny"]
    less, remarks = vllm.learned("http://h:1", {"/kv_event_sources": b"{}", "/version": b"?"})
    assert less == Facts(engine="vllm", handshake="nixl")
    assert len(remarks) == 2
    assert vllm.tokens(b'{"count":2,"max_model_len":9,"tokens":[402,537],"token_strs":null}') == [402, 537]


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b'{"data":1}'])
def test_an_answer_of_another_shape_is_a_wire_fault(body: bytes) -> None:
    for read in (parse_models, parse_version, Vllm().tokens):
        with pytest.raises(WireFault):
            read(body)
