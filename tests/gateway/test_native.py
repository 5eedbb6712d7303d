from __future__ import annotations

import json
from typing import Any  # fields of an answer

import pytest

from router.errors import BadRequest, NoReplica, UnknownModel
from router.fleet.replica import Facts, Replica, ReplicaId, ServedModel
from router.fleet.roster import Roster
from router.gateway.native import NativeWatch, addressed, native_usage
from router.gateway.stream import EVENT_LIMIT_BYTES, Usage
from router.prompt.generate import parse_generate

TINY = ServedModel("tiny", "tiny")
ADA = ServedModel("tiny:ada", "tiny", adapter="ada")


def fleet(*replicas: tuple[str | None, tuple[ServedModel, ...]]) -> Roster:
    roster = Roster()
    for number, (engine, models) in enumerate(replicas):
        seat = roster.join(Replica(ReplicaId(f"r{number}"), f"http://h:{number}"))
        roster.update(seat, Facts(models=models, engine=engine))
    return roster


def address(roster: Roster, **fields: Any) -> tuple[str, str, str | None]:
    request, served = addressed(roster, parse_generate(json.dumps({"text": "x", **fields}).encode()))
    return request.model, served.base, served.adapter


def event(text: str = "a", cached: object = 32, **fields: Any) -> bytes:
    meta = {"prompt_tokens": 40, "completion_tokens": 2, "cached_tokens": cached, "finish_reason": None}
    return b"data: " + json.dumps({"text": text, "output_ids": [1], "meta_info": meta, **fields}).encode() + b"\n\n"


def test_without_a_model_the_only_sglang_model_is_meant() -> None:
    roster = fleet(("sglang", (TINY, ADA)), ("vllm", (ServedModel("other", "other"),)))
    assert address(roster) == ("tiny", "tiny", None)
    assert address(roster, model="tiny") == ("tiny", "tiny", None)
    assert address(roster, lora_path="ada") == address(roster, model="tiny:ada") == ("tiny:ada", "tiny", "ada")


def test_where_it_could_be_several_or_none_the_client_is_told() -> None:
    two = fleet(("sglang", (TINY,)), ("sglang", (ServedModel("other", "other"),)))
    assert address(two, model="other") == ("other", "other", None)
    with pytest.raises(BadRequest, match="other, tiny"):
        address(two)
    with pytest.raises(UnknownModel, match="SGLang"):
        address(fleet(("vllm", (TINY,))))
    with pytest.raises(NoReplica):
        address(Roster(), model="tiny")
    with pytest.raises(UnknownModel, match="tiny:bob"):
        address(two, model="tiny", lora_path="bob")


@pytest.mark.parametrize("engine", ["vllm", None])
def test_a_model_that_other_engines_serve_too_is_refused(engine: str | None) -> None:
    """The next request could meet the other one, which does not know the endpoint."""
    with pytest.raises(BadRequest, match="/v1/completions"):
        address(fleet(("sglang", (TINY,)), (engine, (TINY,))), model="tiny")


def test_counts_of_a_whole_answer_are_its_meta_info() -> None:
    assert native_usage(event()[6:]) == Usage(40, 2, 32)
    assert native_usage(b"[" + event()[6:] + b"]") == Usage(40, 2, 32)
    assert native_usage(event(cached=None)[6:]) == Usage(40, 2, None)
    several = b"[" + b",".join([event()[6:]] * 2) + b"]"
    for body in (several, b'{"error":{"message":"x"}}', b"[]", b"rubbish", b"7"):
        assert native_usage(body) is None


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_stream_passes_as_it_came_and_is_counted(size: int) -> None:
    stream = event("", output_ids=[]) + event("a") + event("ab") + b"data: [DONE]\n\n"
    watch = NativeWatch()
    passed = b"".join(watch.feed(stream[at : at + size]) for at in range(0, len(stream), size)) + watch.finish()
    assert passed == stream
    assert (watch.usage, watch.content_events, watch.first_token_seen) == (Usage(40, 2, 32), 2, True)
    assert (watch.done_seen, watch.error_seen, watch.mid_event) == (True, False, False)


def test_an_error_in_a_stream_is_seen_and_what_cannot_be_read_passes() -> None:
    watch = NativeWatch()
    assert watch.feed(b'data: {"error":{"message":"out of memory","code":500}}\n\ndata: {\n\n')
    assert watch.error_seen
    assert watch.usage is None
    watch.feed(event()[:20])
    assert watch.mid_event
    watch.finish(clean=False)
    assert watch.mid_event
    assert watch.content_events == 0


def test_an_event_too_large_to_keep_passes_unread_and_the_next_is_read() -> None:
    watch = NativeWatch()
    large = event("x" * 2 * EVENT_LIMIT_BYTES)
    for at in range(0, len(large), 1 << 16):
        watch.feed(large[at : at + (1 << 16)])
    assert watch.usage is None
    assert not watch.mid_event
    watch.feed(event())
    assert watch.usage == Usage(40, 2, 32)


def test_a_last_event_without_its_blank_line_is_read_when_the_end_is_clean() -> None:
    watch = NativeWatch()
    watch.feed(event().rstrip())
    assert watch.mid_event
    watch.finish()
    assert (watch.usage, watch.mid_event) == (Usage(40, 2, 32), False)
