"""The HTTP surface of a simulated replica has the shape of vLLM 0.32.0."""

from __future__ import annotations

import json
import struct
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any  # JSON of any shape

import httpx
import pytest

from router.sim.engine import EngineLimits
from tests.sim.fleets import FAST, fleet_config, serving
from tests.sim.recordings import FULL, lines

SURFACE = FULL.parent / "vllm_0.32.0_http_surface.jsonl"
SIMULATED = {
    "/health",
    "/ping",
    "/version",
    "/load",
    "/v1/models",
    "/kv_event_sources",
    "/tokenize",
    "/v1/completions",
    "/v1/chat/completions",
    "/nope",
}
# One stream as recorded from the real engine, members in order.
RECORDED_CHAT_STREAM = """\
data: {"id":"chatcmpl-b514e75ac5461c64","object":"chat.completion.chunk","created":1795321605,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":16,"total_tokens":16,"completion_tokens":0,"completion_tokens_details":null},"prompt_token_ids":null,"prompt_text":null}

data: {"id":"chatcmpl-b514e75ac5461c64","object":"chat.completion.chunk","created":1795321605,"model":"tiny","choices":[{"index":0,"delta":{"content":" True"},"logprobs":null,"finish_reason":null,"token_ids":null}],"usage":{"prompt_tokens":16,"total_tokens":17,"completion_tokens":1,"completion_tokens_details":null}}

data: {"id":"chatcmpl-b514e75ac5461c64","object":"chat.completion.chunk","created":1795321605,"model":"tiny","choices":[{"index":0,"delta":{"content":" either"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}],"usage":{"prompt_tokens":16,"total_tokens":19,"completion_tokens":3,"completion_tokens_details":null}}

data: {"id":"chatcmpl-b514e75ac5461c64","object":"chat.completion.chunk","created":1795321605,"model":"tiny","choices":[],"usage":{"prompt_tokens":16,"total_tokens":19,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":0,"created_cache_tokens":0}},"system_fingerprint":"vllm-0.32.0-32540cc6"}

data: [DONE]

"""  # noqa: E501 - a recording is not broken into lines
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with serving(fleet_config(adapters=("adapter-x",))) as url, httpx.AsyncClient(base_url=url) as http:
        yield http


def chat(**fields: object) -> dict[str, object]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 3} | fields


def skeleton(value: object) -> object:
    """Member names in order and the kinds of values, nulls told apart."""
    if isinstance(value, dict):
        return [(name, skeleton(member)) for name, member in value.items()]
    if isinstance(value, list):
        return ["list", *([skeleton(value[0])] if value and isinstance(value[0], dict) else [])]
    return value if value is None else type(value).__name__


def stream_skeleton(text: str) -> list[object]:
    assert text.endswith("data: [DONE]\n\n")
    return [skeleton(json.loads(event[len("data: ") :])) for event in text.split("\n\n")[:-2]]


async def test_a_stream_has_the_members_of_a_recorded_one_in_their_order(client: httpx.AsyncClient) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    reply = await client.post("/v1/chat/completions", json=chat(max_tokens=2, stream=True, stream_options=options))
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream_skeleton(reply.text) == stream_skeleton(RECORDED_CHAT_STREAM)


async def test_what_is_streamed_is_what_is_answered_whole(client: httpx.AsyncClient) -> None:
    whole = (await client.post("/v1/chat/completions", json=chat(max_tokens=9))).json()
    streamed = (await client.post("/v1/chat/completions", json=chat(max_tokens=9, stream=True))).text
    deltas = [json.loads(event[6:])["choices"][0]["delta"] for event in streamed.split("\n\n")[:-2]]
    assert "".join(delta["content"] for delta in deltas) == whole["choices"][0]["message"]["content"]
    assert whole["usage"]["completion_tokens"] == 9
    assert whole["choices"][0]["finish_reason"] == "length"


async def test_the_next_turn_hits_the_answer_of_the_one_before(client: httpx.AsyncClient) -> None:
    first = chat(max_tokens=40)
    answered = (await client.post("/v1/chat/completions", json=first)).json()
    turns = [
        {"role": "user", "content": "hello there"},
        answered["choices"][0]["message"],
        {"role": "user", "content": "on"},
    ]
    second = (await client.post("/v1/chat/completions", json=chat(messages=turns))).json()
    with_kv = answered["usage"]["total_tokens"] - 1
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == with_kv // 16 * 16


async def test_without_a_limit_the_model_ends_by_itself(client: httpx.AsyncClient) -> None:
    reply = (await client.post("/v1/chat/completions", json=chat(max_tokens=None))).json()
    assert reply["choices"][0]["finish_reason"] == "stop"


async def test_several_prompts_and_choices_are_answered_in_order(client: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "prompt": [[1, 2, 3], [4, 5]], "n": 2, "max_tokens": 2, "return_token_ids": True}
    reply = (await client.post("/v1/completions", json=body)).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert [choice["prompt_token_ids"] for choice in reply["choices"]] == [[1, 2, 3], [1, 2, 3], [4, 5], [4, 5]]
    assert reply["usage"]["prompt_tokens"] == 5
    assert reply["usage"]["completion_tokens"] == 8


async def test_a_tool_is_called_when_the_user_names_it_or_the_choice_requires_it(client: httpx.AsyncClient) -> None:
    asked = chat(messages=[{"role": "user", "content": "please get_weather in Bern"}], tools=[WEATHER])
    choice = (await client.post("/v1/chat/completions", json=asked)).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", {"city": "value"})
    required = (await client.post("/v1/chat/completions", json=chat(tools=[WEATHER], tool_choice="required"))).json()
    assert required["choices"][0]["message"]["tool_calls"]
    left_alone = (await client.post("/v1/chat/completions", json=chat(tools=[WEATHER]))).json()
    assert left_alone["choices"][0]["finish_reason"] == "length"


async def test_a_streamed_tool_call_adds_up_to_the_whole_one(client: httpx.AsyncClient) -> None:
    body = chat(tools=[WEATHER], tool_choice="required", stream=True)
    text = (await client.post("/v1/chat/completions", json=body)).text
    choices = [json.loads(event[6:])["choices"][0] for event in text.split("\n\n")[:-2]]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "get_weather"
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"city": "value"}
    assert choices[-1]["finish_reason"] == "tool_calls"


async def test_tokenize_reads_a_chat_as_the_completion_does(client: httpx.AsyncClient) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Bern"}'}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "fine"},
        {"role": "developer", "content": "Be kind."},
    ]
    body = chat(messages=turns, tools=[WEATHER])
    tokens = (await client.post("/tokenize", json=body)).json()["tokens"]
    answered = (await client.post("/v1/chat/completions", json=body | {"return_token_ids": True})).json()
    assert answered["prompt_token_ids"] == tokens


async def test_embeddings_come_as_numbers_or_packed_and_are_the_same(client: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "input": ["one", "two"]}
    plain = (await client.post("/v1/embeddings", json=body)).json()
    packed = (await client.post("/v1/embeddings", json=body | {"encoding_format": "base64"})).json()
    vectors = [item["embedding"] for item in plain["data"]]
    assert vectors[0] != vectors[1]
    raw = b64decode(packed["data"][0]["embedding"])
    assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(vectors[0])


async def test_metrics_tell_the_block_size_and_count_cached_tokens(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await client.post("/v1/completions", json={"model": "tiny", "prompt": list(range(40)), "max_tokens": 1})
    text = (await client.get("/metrics")).text
    assert 'vllm:cache_config_info{block_size="16"' in text
    assert 'vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 32.0' in text
    assert 'vllm:prefix_cache_queries_total{engine="0",model_name="tiny"} 80.0' in text


async def test_a_request_id_becomes_part_of_the_answers_id(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/chat/completions", json=chat(), headers={"X-Request-Id": "abc"})
    assert reply.json()["id"] == "chatcmpl-abc"


async def test_cached_tokens_are_left_out_where_reporting_is_off() -> None:
    async with serving(fleet_config(reports_cached=False)) as url, httpx.AsyncClient(base_url=url) as http:
        whole = (await http.post("/v1/chat/completions", json=chat())).json()
        body = chat(stream=True, stream_options={"include_usage": True})
        streamed = (await http.post("/v1/chat/completions", json=body)).text
    assert whole["usage"]["prompt_tokens_details"] is None
    assert "cached_tokens" not in streamed


async def test_a_hang_up_ends_generation_streamed_or_not() -> None:
    slow = fleet_config(timing=FAST.faster(0.1), limits=EngineLimits(max_model_tokens=2048))
    async with serving(slow) as url, httpx.AsyncClient(base_url=url) as http:
        async with http.stream("POST", "/v1/chat/completions", json=chat(max_tokens=2000, stream=True)) as reply:
            await anext(reply.aiter_bytes())
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/v1/chat/completions", json=chat(max_tokens=2000), timeout=0.05)
        text = ""
        while 'abort"} 2.0' not in text:
            text = (await http.get("/metrics")).text
    assert 'vllm:num_requests_running{engine="0",model_name="tiny"} 0.0' in text


@pytest.mark.shared
@pytest.mark.skipif(not SURFACE.exists(), reason="the recorded surface is not part of the repository")
async def test_recorded_requests_get_answers_of_the_recorded_shape(client: httpx.AsyncClient) -> None:
    compared = 0
    for line in lines(SURFACE):
        if line.get("path") not in SIMULATED or '"max_tokens": 200' in json.dumps(line["body"]):
            continue
        content = line["body"] if isinstance(line["body"], str) else json.dumps(line["body"])
        body = content.encode() if line["body"] is not None else None
        reply = await client.request(line["method"], line["path"], content=body, headers=line["headers"])
        where = f"{line['method']} {line['path']} {content[:200]}"
        assert reply.status_code == line["status"], where
        check(reply, line["response"], where)
        compared += 1
    assert compared > 25


def check(reply: httpx.Response, recorded: Any, where: str) -> None:
    if isinstance(recorded, str):
        same = stream_skeleton(reply.text) == stream_skeleton(recorded) if recorded else reply.text == ""
        assert same, where
    elif "error" in recorded:
        said, ours = recorded["error"]["message"], reply.json()["error"]
        assert ours | {"message": ""} == recorded["error"] | {"message": ""}, where
        assert ours["message"].split(" Valid aliases")[0] == said.split(" Valid aliases")[0], where
    else:
        assert skeleton(reply.json()) == skeleton(recorded), where
