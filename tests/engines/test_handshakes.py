"""The bodies of both legs and their order, held to what a driver sent to real engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any  # JSON

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engines.handshake import Donor, Handshake, HandshakeFault, splittable
from router.engines.handshakes import HANDSHAKES
from router.prompt.generate import parse_generate
from router.prompt.request import Endpoint, InferenceRequest, engine_body, parse
from router.prompt.splices import Pieces

FRAMES = Path(__file__).resolve().parents[1] / "frames"
DONOR = Donor("127.0.0.1", bootstrap_port=8998)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
every_handshake = pytest.mark.parametrize("name", sorted(HANDSHAKES))
of_vllm = pytest.mark.parametrize("name", ["mooncake", "nixl"])


def transcript(name: str) -> dict[str, dict[str, dict[str, Any]]]:
    """By label of the request, then "P" or "D": the bodies sent, what P answered, and when each left."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    query: dict[str, Any] = {}
    for text in (FRAMES / f"pd_{name}.jsonl").read_text().splitlines():
        line = json.loads(text)
        if line["kind"] == "bootstrap_query":
            query = line["body"]
            continue
        label = line["label"].split(" ")[0]
        entry = found.setdefault(label, {}).setdefault(line["role"], {"query": query})
        if line["kind"] == "http_request":
            entry |= {"path": line["path"], "sent": line["body"], "sent_at": line["t"]}
        else:
            entry |= {"answer": line["body"], "answered_at": line["t"]}
    return found


def as_client(legs: dict[str, dict[str, Any]]) -> InferenceRequest:
    """The request the driver was asked for: what it told D, less the transfer."""
    body = {name: value for name, value in legs["D"]["sent"].items() if name != "kv_transfer_params"}
    return parse(Endpoint(legs["D"]["path"]), json.dumps(body).encode())


def read(pieces: Pieces | None) -> dict[str, Any]:
    assert pieces is not None
    return dict(json.loads(b"".join(pieces)))


def whole(request: InferenceRequest) -> Pieces:
    return engine_body(request, ask_usage=False)[0]


def test_nixl_says_to_both_legs_what_the_recorded_driver_said() -> None:
    handshake, played = HANDSHAKES["nixl"], 0
    for label, legs in transcript("nixl").items():
        if label in ("pd7", "pd8", "pd9"):
            continue  # its parameters were lost or spoilt on purpose
        request = as_client(legs)
        written = handshake.legs(request, whole(request), DONOR, 1)
        assert read(written.prefill) == legs["P"]["sent"]
        assert written.decode is None, "the decode leg waits"
        decode = handshake.hand_over(request, whole(request), json.dumps(legs["P"]["answer"]).encode())
        assert read(decode) == legs["D"]["sent"]
        assert not handshake.at_once
        assert legs["P"]["answered_at"] <= legs["D"]["sent_at"]
        played += 1
    assert played == 6


def test_mooncake_says_to_both_legs_what_the_recorded_driver_said() -> None:
    handshake, played = HANDSHAKES["mooncake"], 0
    for label, legs in transcript("mooncake").items():
        if label == "pd7":
            continue  # its parameters were lost on purpose
        request = as_client(legs)
        donor = Donor("127.0.0.1", bootstrap_port=8998, bootstrap=json.dumps(legs["P"]["query"]).encode())
        written = handshake.legs(request, whole(request), donor, 7)
        prefill, decode = read(written.prefill), read(written.decode)
        name = prefill["kv_transfer_params"].pop("transfer_id")
        assert decode["kv_transfer_params"].pop("transfer_id") == name
        for told in (legs["P"]["sent"], legs["D"]["sent"]):
            del told["kv_transfer_params"]["transfer_id"]  # the driver's own
        assert (prefill, decode) == (legs["P"]["sent"], legs["D"]["sent"])
        assert handshake.at_once
        if label != "pd8":  # where the driver tried the other order
            assert legs["D"]["sent_at"] < legs["P"]["answered_at"]
        played += 1
    assert played == 7


def test_the_bootstrap_server_of_a_mooncake_donor_is_asked_where_the_driver_asked_it() -> None:
    mooncake = HANDSHAKES["mooncake"]
    assert mooncake.bootstrap_url(Donor("10.0.0.7")) == "http://10.0.0.7:8998/query"
    assert mooncake.bootstrap_url(Donor("fd00::7", bootstrap_port=9000)) == "http://[fd00::7]:9000/query"
    assert {HANDSHAKES[name].bootstrap_url(DONOR) for name in ("nixl", "sglang")} == {None}


def test_each_rank_of_a_mooncake_donor_has_an_engine_of_its_own() -> None:
    request = parse(Endpoint.CHAT, json.dumps(CHAT).encode())
    told = json.dumps({"0": {"engine_id": "zero"}, "1": {"engine_id": "one"}}).encode()
    legs = HANDSHAKES["mooncake"].legs(request, whole(request), Donor("p", rank=1, bootstrap=told), 1)
    assert read(legs.decode)["kv_transfer_params"]["remote_engine_id"] == "one"


@pytest.mark.parametrize("told", [None, b"<html>", b"{}", b'{"0":{}}'])
def test_a_bootstrap_server_that_tells_no_engine_is_a_fault(told: bytes | None) -> None:
    request = parse(Endpoint.CHAT, json.dumps(CHAT).encode())
    with pytest.raises(HandshakeFault):
        HANDSHAKES["mooncake"].legs(request, whole(request), Donor("p", bootstrap=told), 1)


def test_sglang_gets_one_body_on_both_sides_with_the_room_to_meet_in() -> None:
    request = parse(Endpoint.CHAT, json.dumps({**CHAT, "stream": True}).encode())
    legs = HANDSHAKES["sglang"].legs(request, whole(request), Donor("10.0.0.7", bootstrap_port=8999), 2**63 - 1)
    room = {"bootstrap_host": "10.0.0.7", "bootstrap_port": 8999, "bootstrap_room": 2**63 - 1}
    assert read(legs.prefill) == read(legs.decode) == {**CHAT, "stream": True, **room}


def test_an_sglang_taker_is_told_the_rank_of_its_donor() -> None:
    request = parse_generate(b'{"text":"hi","sampling_params":{"max_new_tokens":4}}')
    legs = HANDSHAKES["sglang"].legs(request, whole(request), Donor("p", rank=3), 5)
    assert read(legs.decode) == {**read(legs.prefill), "disagg_prefill_dp_rank": 3}


def test_a_donor_that_hands_nothing_over_leaves_the_taker_to_compute() -> None:
    request = parse(Endpoint.CHAT, json.dumps(CHAT).encode())
    for answer in (b'{"kv_transfer_params":null}', b"{}"):
        assert HANDSHAKES["nixl"].hand_over(request, whole(request), answer) is None


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"kv_transfer_params":[1]}', b'{"kv_transfer_params":7}'])
def test_an_answer_no_donor_gives_is_a_fault(answer: bytes) -> None:
    request = parse(Endpoint.CHAT, json.dumps(CHAT).encode())
    with pytest.raises(HandshakeFault):
        HANDSHAKES["nixl"].hand_over(request, whole(request), answer)


def test_transfer_parameters_pass_byte_for_byte() -> None:
    request = parse(Endpoint.CHAT, json.dumps(CHAT).encode())
    odd = b'{"b" : [ [1,  2] ],"a":"\\u00e9","new_in_some_release":1e3}'
    decode = HANDSHAKES["nixl"].hand_over(request, whole(request), b'{"id":"x","kv_transfer_params":' + odd + b"}")
    assert decode is not None
    assert odd in b"".join(decode)


@of_vllm
def test_a_prefill_leg_asks_for_one_token_and_no_stream_whatever_the_client_asked_for(name: str) -> None:
    asked = {
        **CHAT,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 900,
        "max_completion_tokens": 900,
        "min_tokens": 30,
        "vllm_xargs": {"kv_cache_report_mode": "full", "x": 1},
        "anything": [1, {"a": None}],
    }
    request = parse(Endpoint.CHAT, json.dumps(asked).encode())
    donor = Donor("p", bootstrap=b'{"0":{"engine_id":"e"}}')
    body = read(HANDSHAKES[name].legs(request, whole(request), donor, 1).prefill)
    assert (body["stream"], body["max_tokens"], body["max_completion_tokens"]) == (False, 1, 1)
    assert "stream_options" not in body
    assert body.get("min_tokens", 1) == 1
    assert body["vllm_xargs"] == {"x": 1}, "copies are counted on both replicas"
    assert body["anything"] == asked["anything"]
    assert body["messages"] == asked["messages"]


@every_handshake
@given(
    fields=st.dictionaries(
        st.text(max_size=6).filter(lambda name: name not in ("model", "messages", "n", "user", "stream")),
        st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=4),
        max_size=4,
    ),
    streamed=st.booleans(),
)
def test_the_decode_leg_is_the_clients_own_request_and_more(name: str, fields: dict[str, Any], streamed: bool) -> None:
    asked = {**fields, **CHAT, "stream": streamed}
    try:
        request = parse(Endpoint.CHAT, json.dumps(asked, ensure_ascii=False).encode())
    except Exception:  # a field that routing reads, of a type it must not have
        return
    handshake = HANDSHAKES[name]
    if not handshake.takes(request):
        return
    body = engine_body(request, ask_usage=True)[0]
    legs = handshake.legs(request, body, Donor("p", bootstrap=b'{"0":{"engine_id":"e"}}'), 1)
    decode = legs.decode or handshake.hand_over(request, body, b'{"kv_transfer_params":{"opaque":1}}')
    added = {"kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room"}
    rest = {field: value for field, value in read(decode).items() if field not in added}
    assert rest == {field: value for field, value in read(body).items() if field not in added}
    assert read(legs.prefill)["model"] == "m"


@every_handshake
def test_a_client_that_plays_the_handshake_itself_is_left_alone(name: str) -> None:
    handshake: Handshake = HANDSHAKES[name]
    own = {"bootstrap_room": 7} if name == "sglang" else {"kv_transfer_params": None}
    assert handshake.takes(parse(Endpoint.CHAT, json.dumps(CHAT).encode()))
    assert not handshake.takes(parse(Endpoint.CHAT, json.dumps({**CHAT, **own}).encode()))


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": "a", "n": 2},
        {"prompt": ["a", "b"]},
        {"prompt": [[1], [2]]},
        {"prompt": "a", "best_of": 3},
        {"prompt": "a", "prompt_logprobs": 1},
    ],
)
def test_several_answers_or_prompts_are_never_split(asked: dict[str, Any]) -> None:
    assert splittable(parse(Endpoint.COMPLETIONS, b'{"model":"m","prompt":"a"}'))
    assert not splittable(parse(Endpoint.COMPLETIONS, json.dumps({"model": "m", **asked}).encode()))


def test_embeddings_and_bodies_that_name_a_field_twice_are_never_split() -> None:
    assert not splittable(parse(Endpoint.EMBEDDINGS, b'{"model":"m","input":"a"}'))
    assert not splittable(parse(Endpoint.COMPLETIONS, b'{"model":"m","prompt":"a","top_p":1,"top_p":0}'))
