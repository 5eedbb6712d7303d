"""What holds for every engine: its dialect and its wire as the rest of the house relies on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any  # events as the wire has them

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.engines.base import Dialect, EngineLoad
from router.engines.batches import MAX_RUN_BLOCKS
from router.engines.sglang import RELEASES, Sglang
from router.engines.vllm import Vllm
from router.events.kinds import Cleared, Removed, Skip, Stored, WireFault
from router.fleet.replica import EventAddress, Facts
from router.index.base import Tier
from router.prompt.blocks import pack_tokens
from router.prompt.request import Endpoint, parse
from tests.engines.makers import payload, sglang_answers, stored, vllm_answers

DIALECTS: dict[str, tuple[Dialect, Callable[[], dict[str, bytes]]]] = {
    "vllm": (Vllm(), vllm_answers),
    "sglang": (Sglang(), sglang_answers),
}
HANDSHAKES = {"vllm": "nixl", "sglang": "sglang"}
MAKES_TOKENS = {"sglang": {"/health", "/health_generate"}}
every_engine = pytest.mark.parametrize("name", sorted(DIALECTS))


@pytest.fixture
def dialect(name: str) -> Dialect:
    return DIALECTS[name][0]


@pytest.fixture
def answers(name: str) -> Mapping[str, bytes]:
    return DIALECTS[name][1]()


@every_engine
def test_an_engine_is_recognised_by_its_own_dialect_only(name: str, answers: Mapping[str, bytes]) -> None:
    engines: tuple[Dialect, ...] = (Vllm(), *RELEASES)
    assert [dialect.name for dialect in engines if dialect.recognises(answers)] == [name]
    assert not DIALECTS[name][0].recognises({})
    assert not DIALECTS[name][0].recognises({"/v1/models": b"<html>", "/metrics": b"process_start_time_seconds 1"})


@every_engine
def test_nothing_that_is_asked_idly_makes_a_token(name: str, dialect: Dialect) -> None:
    asked = {dialect.health_path, dialect.load_path, *dialect.paths}
    assert not asked & MAKES_TOKENS.get(name, set())


@every_engine
def test_all_that_routing_needs_is_learned(name: str, dialect: Dialect, answers: Mapping[str, bytes]) -> None:
    facts, remarks = dialect.learned("http://10.0.0.7:8000", answers)
    assert remarks == ()
    assert [(model.name, model.base, model.adapter) for model in facts.models] == [("tiny", "tiny", None)]
    assert facts.models[0].root
    assert facts.models[0].max_model_len
    assert (facts.block_size_tokens, facts.cache_blocks, facts.prefix_caching) == (16, 512, True)
    assert facts.events is not None
    assert (facts.events.endpoint, facts.events.replay) == ("tcp://10.0.0.7:9400", "tcp://10.0.0.7:9500")
    assert facts.version
    assert (facts.ranks, facts.engine) == (1, name)


@every_engine
def test_what_is_not_told_is_unknown_and_no_fault(name: str, dialect: Dialect) -> None:
    assert dialect.learned("http://h:1", {}) == (Facts(engine=name, handshake=HANDSHAKES[name]), ())
    assert dialect.loads({}) == {}


@every_engine
@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b'{"data":1}', b'{"0":7}', b"[" * 5000])
def test_rubbish_of_a_replica_is_remarked_on_and_raises_nothing(dialect: Dialect, body: bytes) -> None:
    facts, _ = dialect.learned("http://h:1", dict.fromkeys(dialect.paths, body))
    assert facts.models == ()
    assert dialect.loads({dialect.load_path: body}) == {}
    assert not dialect.recognises({"/v1/models": body})
    with pytest.raises(WireFault):
        dialect.tokens(body)


@every_engine
def test_load_is_told_by_rank(dialect: Dialect, answers: Mapping[str, bytes]) -> None:
    load = dialect.loads(answers)[0]
    assert (load.running_requests, load.waiting_requests, load.used_ratio) == (3, 2, 0.25)
    assert EngineLoad() not in dialect.loads(answers).values()


@every_engine
def test_the_engine_is_asked_for_the_tokens_of_a_text_and_of_a_chat(dialect: Dialect) -> None:
    text = parse(Endpoint.COMPLETIONS, b'{"model":"tiny","prompt":"hello","stream":true}')
    assert msgspec.json.decode(dialect.tokenize_body(text, "hello")) == {"model": "tiny", "prompt": "hello"}
    chat = parse(
        Endpoint.CHAT,
        b'{"model":"tiny","stream":true,"stream_options":{},"max_tokens":3,"tools":[{"type":"function"}],'
        b'"messages":[{"role":"user","content":"hi"}],"chat_template_kwargs":{"enable_thinking":false}}',
    )
    asked = msgspec.json.decode(dialect.tokenize_body(chat))
    assert asked == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function"}],
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert dialect.tokens(b'{"tokens":[5,6],"count":2,"max_model_len":9}') == [5, 6]


@every_engine
def test_a_rank_is_pinned_by_headers(dialect: Dialect) -> None:
    headers = dict(dialect.rank_headers(3))
    assert headers[b"x-data-parallel-rank"] == b"3"
    assert set(headers.values()) == {b"3"}


# The wire


@every_engine
def test_stores_removals_and_clears_are_read_in_order(dialect: Dialect) -> None:
    batch = dialect.wire.decode(
        payload(
            stored(medium="GPU", lora_id=None),
            {"type": "BlockRemoved", "block_hashes": [12, 11], "medium": "GPU"},
            {"type": "AllBlocksCleared"},
            time_seconds=2.5,
            rank=3,
        )
    )
    assert batch.events == (Stored((11, 12), None, pack_tokens([1, 2, 3, 4]), 2), Removed((12, 11)), Cleared())
    assert (batch.time_seconds, batch.rank, batch.skipped) == (2.5, 3, ())


@every_engine
@pytest.mark.parametrize(
    ("event", "cause"),
    [
        (stored(token_ids=[1, 2, 3]), Skip.MALFORMED),
        (stored(block_size=0, token_ids=[]), Skip.MALFORMED),
        (stored(block_hashes=[], token_ids=[]), Skip.MALFORMED),
        (stored(token_ids=[1, 2, 3, -4]), Skip.MALFORMED),
        (stored(token_ids="text"), Skip.MALFORMED),
        ({"type": "BlockStored"}, Skip.MALFORMED),
        (["BlockStored", [1]], Skip.MALFORMED),
        (17, Skip.MALFORMED),
        ({"type": "BlockRenamed", "from": 1}, Skip.UNKNOWN_KIND),
        (["BlockRenamed", 1], Skip.UNKNOWN_KIND),
        (stored(medium="TAPE"), Skip.UNKNOWN_MEDIUM),
        ({"type": "BlockRemoved", "block_hashes": [1], "medium": "TAPE"}, Skip.UNKNOWN_MEDIUM),
    ],
)
def test_one_strange_event_is_counted_and_costs_only_itself(dialect: Dialect, event: object, cause: Skip) -> None:
    neighbour: object = {"type": "BlockRemoved", "block_hashes": [5], "medium": "GPU"}
    if isinstance(event, list):
        neighbour = ["BlockRemoved", [5], "GPU"]
    batch = dialect.wire.decode(payload(neighbour, event, neighbour))
    assert batch.events == (Removed((5,)), Removed((5,)))
    assert batch.skipped == (cause,)


@every_engine
@pytest.mark.parametrize("size", [1, 2])
def test_a_very_long_run_comes_in_pieces_that_hang_on_each_other(dialect: Dialect, size: int) -> None:
    count = 2 * MAX_RUN_BLOCKS + 3
    raw = payload(stored(block_hashes=list(range(count)), token_ids=list(range(size * count)), block_size=size))
    pieces = [event for event in dialect.wire.decode(raw).events if isinstance(event, Stored)]
    assert [len(piece.names) for piece in pieces] == [MAX_RUN_BLOCKS, MAX_RUN_BLOCKS, 3]
    assert [piece.parent for piece in pieces] == [None, MAX_RUN_BLOCKS - 1, 2 * MAX_RUN_BLOCKS - 1]
    assert b"".join(piece.tokens for piece in pieces) == pack_tokens(range(size * count))


@every_engine
def test_live_and_replayed_frames_are_read_from_the_end(dialect: Dialect) -> None:
    seq = (258).to_bytes(8, "big")
    assert dialect.wire.frames([b"topic", seq, b"p"]) == (258, b"p")
    assert dialect.wire.frames([b"", b"topic", seq, b"p"]) == (258, b"p")
    assert dialect.wire.frames([b"", b"", b"\xff" * 8, b""]) is None
    assert dialect.wire.replay_request(258) == [b"", seq]
    with pytest.raises(WireFault):
        dialect.wire.frames([b"topic", b"short", b"p"])


@every_engine
@settings(max_examples=100, deadline=None)
@given(noise=st.binary(max_size=60), at=st.integers(0, 400), value=st.integers(0, 255))
def test_no_bytes_whatever_raise_anything_but_a_wire_fault(name: str, noise: bytes, at: int, value: int) -> None:
    damaged = bytearray(payload(stored(cache_salt="x"), {"type": "BlockRemoved", "block_hashes": [1]}))
    damaged[at % len(damaged)] = value
    for raw in (noise, bytes(damaged)):
        try:
            DIALECTS[name][0].wire.decode(raw)
        except WireFault:
            continue


@every_engine
def test_slower_mediums_become_tiers(name: str, dialect: Dialect) -> None:
    mediums: dict[str, dict[str, Tier]] = {
        "vllm": {"CPU": Tier.CPU, "STORAGE": Tier.DISK, "DISK": Tier.DISK, "REMOTE": Tier.REMOTE},
        "sglang": {"CPU_PINNED": Tier.CPU, "DISK": Tier.DISK, "EXTERNAL": Tier.REMOTE},
    }
    for medium, tier in mediums[name].items():
        events: tuple[Any, ...] = dialect.wire.decode(
            payload(stored(medium=medium), {"type": "BlockRemoved", "block_hashes": [1], "medium": medium})
        ).events
        assert [event.tier for event in events] == [tier, tier]


def test_an_address_is_told_for_each_rank() -> None:
    two = {"publisher": "zmq", "endpoint": "tcp://*:5601", "replay_endpoint": None}
    of_vllm = vllm_answers() | {
        "/kv_event_sources": msgspec.json.encode({"0": {**two, "endpoint": "tcp://*:5600"}, "1": two})
    }
    assert Vllm().learned("http://h:1", of_vllm, 1)[0].events == EventAddress("tcp://h:5601")
    assert Vllm().learned("http://h:1", of_vllm)[0].ranks == 2
