from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import BadRequest
from router.prompt.request import Endpoint, InferenceRequest, engine_body, parse
from tests.prompt.makers import chat, completion, user


def sent(request: InferenceRequest, *, ask_usage: bool = True) -> bytes:
    pieces, _ = engine_body(request, ask_usage=ask_usage)
    return b"".join(pieces)


def splices(request: InferenceRequest) -> tuple[str, ...]:
    return engine_body(request, ask_usage=True)[1]


def test_a_chat_is_read_into_what_routing_needs() -> None:
    request = chat(
        [user("a")], stream=True, n=2, max_tokens=7, user="u", cache_salt="s", prompt_cache_key="k",
        stream_options={"include_usage": True, "continuous_usage_stats": True}, unknown={"x": 1},
    )  # fmt: skip
    assert (request.model, request.stream, request.choices, request.max_output_tokens) == ("m", True, 2, 7)
    assert (request.user, request.cache_salt, request.prompt_cache_key) == ("u", "s", "k")
    assert (request.wants_usage, request.continuous_usage, request.prompts) == (True, True, 1)


def test_null_means_not_said() -> None:
    request = chat([], stream=None, stream_options=None, n=None, max_tokens=None, user=None, vllm_xargs=None)
    assert (request.stream, request.choices, request.max_output_tokens, request.user) == (False, 1, None, None)


def test_best_of_counts_as_choices_and_completions_default_to_sixteen_tokens() -> None:
    request = completion("a", n=2, best_of=5)
    assert (request.choices, request.max_output_tokens) == (5, 16)


def test_the_newer_name_of_the_token_limit_wins() -> None:
    assert chat([], max_tokens=5, max_completion_tokens=9).max_output_tokens == 9
    assert chat([], max_tokens=5.0).max_output_tokens == 5


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1], [2, 3]], 2), ([], 1), (["a"], 1)],
)
def test_prompts_are_counted(prompt: Any, prompts: int) -> None:
    assert completion(prompt).prompts == prompts


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"n": "2"}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": []}, "max_completion_tokens"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"messages": "hello"}, "messages"),
        ({"messages": None}, "messages"),
        ({"user": 3}, "user"),
        ({"cache_salt": {}}, "cache_salt"),
        ({"vllm_xargs": []}, "vllm_xargs"),
        ({"echo": "x"}, "echo"),
    ],
)
def test_a_field_of_a_wrong_type_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as told:
        parse(Endpoint.CHAT, json.dumps({"model": "m", "messages": [], **fields}).encode())
    assert told.value.param == param
    assert param in told.value.message


@pytest.mark.parametrize("endpoint", [Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS])
def test_a_prompt_that_is_neither_text_nor_list_is_refused(endpoint: Endpoint) -> None:
    name = "prompt" if endpoint is Endpoint.COMPLETIONS else "input"
    for body in ({"model": "m"}, {"model": "m", name: 3}, {"model": "m", name: {}}):
        with pytest.raises(BadRequest) as told:
            parse(endpoint, json.dumps(body).encode())
        assert told.value.param == name


def test_embeddings_may_come_as_input_or_as_messages() -> None:
    assert parse(Endpoint.EMBEDDINGS, b'{"model":"m","input":["a","b"]}').prompts == 2
    assert parse(Endpoint.EMBEDDINGS, b'{"model":"m","messages":[]}').prompts == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"a","messages":[],"model":"b"}', "model"),
        (b'{"model":"a","messages":[],"mod\\u0065l":"b"}', "model"),
        (b'{"model":"a","messages":[],"stream_options":{},"stream_options":{}}', "stream_options"),
        (b'{"model":"a","messages":[],"stream_options":{"include_usage":true,"include_usage":false}}',
         "stream_options.include_usage"),
        (b'{"model":"a","messages":[],"vllm_xargs":{"kv_cache_report_mode":1,"kv_cache_report_mode":2}}',
         "vllm_xargs.kv_cache_report_mode"),
    ],
)  # fmt: skip
def test_a_repeated_field_that_is_read_is_refused(body: bytes, param: str) -> None:
    with pytest.raises(BadRequest) as told:
        parse(Endpoint.CHAT, body)
    assert told.value.param == param


def test_a_repeated_field_nobody_reads_passes_untouched() -> None:
    body = b'{"seed":1,"model":"a","messages":[],"seed":2}'
    assert sent(parse(Endpoint.CHAT, body)) == body


@pytest.mark.parametrize(
    ("endpoint", "fields", "wanted"),
    [
        (Endpoint.CHAT, {"prompt_logprobs": 0}, True),
        (Endpoint.CHAT, {"prompt_logprobs": None}, False),
        (Endpoint.CHAT, {"logprobs": True, "top_logprobs": 3}, False),
        (Endpoint.CHAT, {"echo": True}, True),
        (Endpoint.CHAT, {"echo": True, "top_logprobs": None}, True),
        (Endpoint.COMPLETIONS, {"echo": True}, False),
        (Endpoint.COMPLETIONS, {"echo": True, "logprobs": 1}, True),
        (Endpoint.COMPLETIONS, {"echo": False, "logprobs": 1}, False),
    ],
)
def test_prompt_logprobs_are_recognised_in_each_of_their_forms(
    endpoint: Endpoint, fields: dict[str, Any], wanted: bool
) -> None:
    body = {"model": "m", "messages": [], "prompt": "p", **fields}
    assert parse(endpoint, json.dumps(body).encode()).prompt_logprobs is wanted


def test_a_body_that_needs_no_splice_is_sent_as_the_very_same_bytes() -> None:
    request = chat([user("a")])
    pieces, names = engine_body(request, ask_usage=True)
    assert len(pieces) == 1
    assert pieces[0] is request.body
    assert names == ()


def test_usage_is_asked_for_only_in_a_stream_whose_client_did_not_ask() -> None:
    assert splices(chat([], stream=True)) == ("include_usage",)
    assert splices(chat([])) == ()
    assert splices(chat([], stream=True, stream_options={"include_usage": True})) == ()
    assert engine_body(chat([], stream=True), ask_usage=False)[1] == ()
    # Every chunk would carry usage that the client did not ask for.
    assert splices(chat([], stream=True, stream_options={"continuous_usage_stats": True})) == ()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('{"model":"m","messages":[],"stream":true}',
         '{"stream_options":{"include_usage":true},"model":"m","messages":[],"stream":true}'),
        ('{ "stream_options" : null ,"model":"m","messages":[],"stream":true}',
         '{ "stream_options" : {"include_usage":true} ,"model":"m","messages":[],"stream":true}'),
        ('{"stream_options":{ },"model":"m","messages":[],"stream":true}',
         '{"stream_options":{"include_usage":true },"model":"m","messages":[],"stream":true}'),
        ('{"stream_options":{"a":1},"model":"m","messages":[],"stream":true}',
         '{"stream_options":{"include_usage":true,"a":1},"model":"m","messages":[],"stream":true}'),
        ('{"stream_options":{"include_us\\u0061ge" : false},"model":"m","messages":[],"stream":true}',
         '{"stream_options":{"include_us\\u0061ge" : true},"model":"m","messages":[],"stream":true}'),
        ('{"vllm_xargs":{"kv_cache_report_mode":"full"},"model":"m","messages":[]}',
         '{"vllm_xargs":{},"model":"m","messages":[]}'),
        ('{"vllm_xargs":{"kv_cache_report_mode":"full", "b":1},"model":"m","messages":[]}',
         '{"vllm_xargs":{"b":1},"model":"m","messages":[]}'),
        ('{"vllm_xargs":{"a":1 , "kv_cache_report_mode":"full" },"model":"m","messages":[]}',
         '{"vllm_xargs":{"a":1 },"model":"m","messages":[]}'),
    ],
)  # fmt: skip
def test_a_splice_changes_its_own_bytes_only(written: str, expected: str) -> None:
    assert sent(parse(Endpoint.CHAT, written.encode())).decode() == expected


xargs = st.none() | st.dictionaries(
    st.sampled_from(["kv_cache_report_mode", "a", "b"]), st.integers(0, 9) | st.text("x{},", max_size=3)
)
options = st.none() | st.dictionaries(st.sampled_from(["include_usage", "other"]), st.booleans() | st.none())


@settings(max_examples=80)
@given(st.data())
def test_the_engine_reads_the_same_object_but_for_the_splices(data: st.DataObject) -> None:
    fields: dict[str, Any] = {"model": "m", "messages": [user('é\n"')], "stream": True, "temperature": 0.5}
    for name, strategy in (("vllm_xargs", xargs), ("stream_options", options)):
        if data.draw(st.booleans()):
            fields[name] = data.draw(strategy)
    fields = {name: fields[name] for name in data.draw(st.permutations(list(fields)))}
    indent = data.draw(st.sampled_from([None, 0, 2]))
    written = json.dumps(fields, indent=indent, ensure_ascii=data.draw(st.booleans())).encode()
    request = parse(Endpoint.CHAT, written)
    expected = json.loads(written)
    if not request.wants_usage:
        expected["stream_options"] = (expected.get("stream_options") or {}) | {"include_usage": True}
    if expected.get("vllm_xargs"):
        expected["vllm_xargs"].pop("kv_cache_report_mode", None)
    assert json.loads(sent(request)) == expected
    spliced = engine_body(request, ask_usage=True)[1]
    assert bool(spliced) == (expected != json.loads(written))
    again = parse(Endpoint.CHAT, sent(request))
    assert engine_body(again, ask_usage=True)[1] == ()
