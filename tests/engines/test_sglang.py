from __future__ import annotations

import json
from typing import Any  # fields of an answer

import msgspec
import pytest

from router.engines.base import EngineLoad
from router.engines.sglang import RELEASES, Sglang
from router.fleet.replica import EventAddress
from router.prompt.request import Endpoint, parse
from tests.engines.makers import SERVER_INFO, SGLANG_LOAD, SGLANG_MODEL, sglang_answers

SGLANG = Sglang()
URL = "http://10.0.0.7:8000"


def remarks(**info: Any) -> str:
    return "; ".join(SGLANG.learned(URL, sglang_answers(**info))[1])


def address(rank: int = 0, **info: Any) -> EventAddress | None:
    return SGLANG.learned(URL, sglang_answers(**info), rank)[0].events


def config(**fields: object) -> str:
    return json.dumps({"publisher": "zmq", "endpoint": "tcp://*:9400", **fields})


def test_the_ports_of_each_rank_follow_the_first_ones() -> None:
    described = SERVER_INFO["kv_events"] | {"dp_size": 4}
    assert address(3, kv_events=described) == EventAddress("tcp://10.0.0.7:9403", "tcp://10.0.0.7:9503", "kv@sgl@tiny")
    assert SGLANG.learned(URL, sglang_answers(kv_events=described))[0].ranks == 4
    loads: list[dict[str, Any]] = [
        {**SGLANG_LOAD, "dp_rank": 3, "num_running_reqs": None, "future_field": [1]},
        SGLANG_LOAD,
    ]
    assert SGLANG.loads(sglang_answers(loads=loads)) == {
        3: EngineLoad(None, 2, 900, 0.25),
        0: EngineLoad(3, 2, 900, 0.25),
    }


def test_a_publisher_without_replay_is_heard_without() -> None:
    described = {key: value for key, value in SERVER_INFO["kv_events"].items() if not key.startswith("replay")}
    assert address(kv_events=described) == EventAddress("tcp://10.0.0.7:9400", None, "kv@sgl@tiny")


def test_a_release_that_does_not_describe_its_publisher_is_read_from_its_command_line() -> None:
    """Before 0.5.15."""
    given = config(endpoint="tcp://*:5557", replay_endpoint="tcp://*:5559", topic="t")
    assert address(1, kv_events=None, kv_events_config=given, version="0.5.10") == EventAddress(
        "tcp://10.0.0.7:5558", "tcp://10.0.0.7:5560", "t"
    )


@pytest.mark.parametrize(
    ("info", "word"),
    [
        ({"kv_events": None, "kv_events_config": None}, "--kv-events-config"),
        ({"kv_events": None, "kv_events_config": config(publisher="null")}, "--kv-events-config"),
        ({"kv_events": None, "kv_events_config": config(endpoint="ipc:///tmp/x")}, "ipc:///tmp/x"),
        ({"kv_events": SERVER_INFO["kv_events"] | {"publisher": "kafka"}}, "kafka"),
        ({"kv_events": SERVER_INFO["kv_events"] | {"endpoint_host": "collector"}}, "tcp://*:9400"),
        ({"kv_events": SERVER_INFO["kv_events"] | {"endpoint_host": "127.0.0.1"}}, '"bind": true'),
        ({"kv_events_config": config(bind=False)}, "connects"),
    ],
)
def test_events_that_cannot_be_heard_come_with_their_remedy(info: dict[str, Any], word: str) -> None:
    assert address(**info) is None
    assert word in remarks(**info)


def test_a_publisher_told_to_bind_a_concrete_address_is_found_there() -> None:
    described = SERVER_INFO["kv_events"]
    bound = config(bind=True)
    assert address(kv_events=described | {"endpoint_host": "10.9.9.9"}, kv_events_config=bound) == EventAddress(
        "tcp://10.9.9.9:9400", "tcp://10.9.9.9:9500", "kv@sgl@tiny"
    )
    found = address(kv_events=described | {"endpoint_host": "127.0.0.1"}, kv_events_config=bound)
    assert found is not None
    assert found.endpoint == "tcp://10.0.0.7:9400"
    found = address(kv_events=described | {"endpoint_host": "[fd00::7]"})
    assert found is not None
    assert found.endpoint == "tcp://[fd00::7]:9400"


def test_missing_flags_are_named() -> None:
    assert remarks() == ""
    assert "--enable-cache-report" in remarks(enable_cache_report=False)
    assert "--enable-metrics" in remarks(enable_metrics=False)
    assert "0.5.22" in remarks(enable_lora=True, version="0.5.20")
    assert remarks(enable_lora=True) == ""
    facts, _ = SGLANG.learned(URL, sglang_answers(disable_radix_cache=True))
    assert facts.prefix_caching is False


def test_an_adapter_is_offered_under_the_only_name_that_chooses_it() -> None:
    adapter = {"id": "ada", "owned_by": "sglang", "root": "/loras/ada", "parent": "tiny", "max_model_len": None}
    models = SGLANG.learned(URL, sglang_answers(SGLANG_MODEL, adapter))[0].models
    assert [(model.name, model.base, model.adapter, model.root) for model in models] == [
        ("tiny", "tiny", None, "/models/tiny"),
        ("tiny:ada", "tiny", "ada", "/loras/ada"),
    ]


def test_pages_of_one_token_are_blocks_too() -> None:
    facts, _ = SGLANG.learned(URL, sglang_answers(page_size=1, kv_events=SERVER_INFO["kv_events"] | {"block_size": 1}))
    assert (facts.block_size_tokens, facts.cache_blocks) == (1, 8192)


@pytest.mark.parametrize(
    ("version", "path"),
    [("0.5.23", "/ready"), ("0.5.20", "/ready"), ("0.5.15.post1", "/v1/models"), ("nightly", "/ready")],
)
def test_health_is_asked_where_this_release_makes_no_token(version: str, path: str) -> None:
    (found,) = [release for release in RELEASES if release.recognises(sglang_answers(version=version))]
    assert found.health_path == path


def test_an_older_server_without_server_info_is_still_known_by_its_models() -> None:
    answers = {"/v1/models": sglang_answers()["/v1/models"]}
    facts, told = SGLANG.learned(URL, answers)
    assert SGLANG.recognises(answers)
    assert [model.name for model in facts.models] == ["tiny"]
    assert (facts.events, told) == (None, ())


def test_what_the_chat_endpoint_does_not_know_is_not_asked_of_the_tokenizer_either() -> None:
    chat = parse(
        Endpoint.CHAT,
        b'{"model":"tiny","messages":[{"role":"user","content":"hi"}],"add_generation_prompt":false,'
        b'"add_special_tokens":true,"tool_choice":"none","continue_final_message":true}',
    )
    asked = msgspec.json.decode(SGLANG.tokenize_body(chat))
    assert set(asked) == {"model", "messages", "tool_choice", "continue_final_message"}
