"""Answers and events as engines give them, for tests: any field may be changed."""

from __future__ import annotations

import json
from typing import Any  # JSON

import msgspec

# A recorded GET /server_info of SGLang 0.5.23, of its 500 fields those that are read.
SERVER_INFO: dict[str, Any] = {
    "version": "0.5.23",
    "model_path": "/models/tiny",
    "tokenizer_path": "/models/tiny",
    "page_size": 16,
    "max_total_num_tokens": 8192,
    "dp_size": 1,
    "disable_radix_cache": False,
    "enable_cache_report": True,
    "enable_metrics": True,
    "enable_lora": None,
    "kv_events": {
        "publisher": "zmq",
        "endpoint_host": "*",
        "endpoint_port_base": 9400,
        "topic": "kv@sgl@tiny",
        "block_size": 16,
        "dp_size": 1,
        "replay_endpoint_port_base": 9500,
    },
    "kv_events_config": '{"publisher":"zmq","endpoint":"tcp://*:9400","replay_endpoint":"tcp://127.0.0.1:9500"}',
    "internal_states": [{"world_size": 1}],
}
SGLANG_MODEL = {"id": "tiny", "owned_by": "sglang", "root": "tiny", "parent": None, "max_model_len": 8192}
SGLANG_LOAD: dict[str, Any] = {
    "dp_rank": 0,
    "num_running_reqs": 3,
    "num_waiting_reqs": 2,
    "num_waiting_uncached_tokens": 900,
    "token_usage": 0.25,
    "decode_moments": None,
}
VLLM_MODEL = {"id": "tiny", "owned_by": "vllm", "root": "org/tiny", "parent": None, "max_model_len": 1024}
VLLM_METRICS = """\
process_start_time_seconds 1.7e+09
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:cache_config_info{block_size="16",enable_prefix_caching="True",engine="0",num_gpu_blocks="512"} 1.0
"""


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def sglang_answers(*models: dict[str, Any], loads: list[dict[str, Any]] | None = None, **info: Any) -> dict[str, bytes]:
    """What an SGLang server answers, by path; `info` changes its server info."""
    return {
        "/v1/models": encoded({"object": "list", "data": models or [SGLANG_MODEL]}),
        "/server_info": encoded(SERVER_INFO | info),
        "/metrics": b"sglang:num_running_reqs 0.0\n",
        "/v1/loads?include=core": encoded({"version": "0.5.23", "loads": [SGLANG_LOAD] if loads is None else loads}),
    }


def vllm_answers(*models: dict[str, Any], metrics: str = VLLM_METRICS) -> dict[str, bytes]:
    """What a vLLM server answers, by path."""
    source = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": "tcp://*:9400", "topic": "kv"}
    return {
        "/v1/models": encoded({"object": "list", "data": models or [VLLM_MODEL]}),
        "/metrics": metrics.encode(),
        "/kv_event_sources": encoded({"0": source | {"replay_endpoint": "tcp://127.0.0.1:9500"}}),
        "/version": b'{"version":"0.32.0"}',
    }


def payload(*events: object, time_seconds: float = 1.0, rank: int | None = 0) -> bytes:
    return msgspec.msgpack.encode([time_seconds, list(events), rank])


def stored(**changes: Any) -> dict[str, Any]:
    """A stored run as the wire has it, with the fields every engine has."""
    event = {"type": "BlockStored", "block_hashes": [11, 12], "parent_block_hash": None, "token_ids": [1, 2, 3, 4]}
    return {**event, "block_size": 2, **changes}
