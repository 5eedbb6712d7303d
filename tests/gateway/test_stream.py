"""What the stream watcher finds, and that it hands on exactly what a client who had not asked for usage would get."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.gateway.stream import EVENT_LIMIT_BYTES, StreamWatch, Usage, error_event, usage_of

SURFACE = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "vllm_0.32.0_http_surface.jsonl"
FINGERPRINT = b',"system_fingerprint":"vllm-0.32.0-32540cc6"'
CREATED = b'data: {"id":"cmpl-1","object":"text_completion","created":1795321605,"model":"tiny",'


def chat(delta: bytes, finish: bytes = b"null", rest: bytes = b"") -> bytes:
    """One chat event as vLLM writes it."""
    choice = b'{"index":0,"delta":' + delta + b',"logprobs":null,"finish_reason":' + finish + b"}"
    return CREATED + b'"choices":[' + choice + b"]" + rest + b"}\n\n"


ROLE = chat(b'{"role":"assistant","content":""}')
HELLO = chat(b'{"content":"hello"}')
SLY = chat(rb'{"content":"say \"usage\":{\"prompt_tokens\":9} then data: [DONE]\n\n\"choices\":[] \"error\":"}')
LAST = chat(b'{"content":" world"}', b'"stop"')
LAST_UNASKED = chat(b'{"content":" world"}', b'"stop"', FINGERPRINT)
COUNTS = (
    b'"usage":{"prompt_tokens":40,"total_tokens":43,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":32}}'
)
USAGE = CREATED + b'"choices":[],' + COUNTS + FINGERPRINT + b"}\n\n"
DONE = b"data: [DONE]\n\n"

ASKED = ROLE + HELLO + b": ping\n\n" + SLY + LAST + USAGE + DONE
UNASKED = ROLE + HELLO + b": ping\n\n" + SLY + LAST_UNASKED + DONE


@dataclass(frozen=True)
class Seen:
    forwarded: bytes
    first_token: bool
    content_events: int
    usage: Usage | None
    done: bool
    error: bool


def watch(pieces: list[bytes], *, withhold: bool = False, strip: bool = False, clean: bool = True) -> Seen:
    watcher = StreamWatch(withhold_usage=withhold, strip_null_usage=strip)
    out = [watcher.feed(piece) for piece in pieces]
    out.append(watcher.finish(clean=clean))
    forwarded = b"".join(out)
    return Seen(
        forwarded,
        watcher.first_token_seen,
        watcher.content_events,
        watcher.usage,
        watcher.done_seen,
        watcher.error_seen,
    )


def cut(stream: bytes, *offsets: int) -> list[bytes]:
    marks = [0, *sorted(offsets), len(stream)]
    return [stream[a:b] for a, b in pairwise(marks)]


WHOLE = Seen(UNASKED, True, 3, Usage(40, 3, 32), True, False)


def test_a_client_that_did_not_ask_gets_the_bytes_of_a_call_without_usage() -> None:
    assert watch([ASKED], withhold=True) == WHOLE


def test_an_engine_that_paces_its_events_gives_the_same() -> None:
    events = [piece + b"\n\n" for piece in ASKED.split(b"\n\n")[:-1]]
    assert watch(events, withhold=True) == WHOLE


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_withholding_does_not_depend_on_where_the_stream_is_cut(line_end: bytes) -> None:
    asked, unasked = (stream.replace(b"\n", line_end) for stream in (ASKED, UNASKED))
    for offset in range(len(asked) + 1):
        seen = watch(cut(asked, offset), withhold=True)
        assert seen.forwarded == unasked, offset
        assert (seen.usage, seen.content_events, seen.done) == (WHOLE.usage, 3, True), offset


@given(st.lists(st.integers(0, len(ASKED)), max_size=40), st.booleans(), st.sampled_from([b"\n", b"\r\n"]))
@settings(max_examples=150, deadline=None)
def test_facts_and_bytes_do_not_depend_on_many_cuts(offsets: list[int], withhold: bool, line_end: bytes) -> None:
    asked, unasked = (stream.replace(b"\n", line_end) for stream in (ASKED, UNASKED))
    seen = watch(cut(asked, *offsets), withhold=withhold)
    assert seen.forwarded == (unasked if withhold else asked)
    assert (seen.first_token, seen.content_events, seen.usage, seen.done, seen.error) == (
        *(True, 3, Usage(40, 3, 32), True),
        False,
    )


def test_byte_by_byte_is_no_different() -> None:
    assert watch([bytes([byte]) for byte in ASKED], withhold=True) == WHOLE


def test_without_withholding_the_very_same_objects_pass() -> None:
    watcher = StreamWatch()
    for piece in cut(ASKED, *random.Random(7).sample(range(len(ASKED)), 25)):
        assert watcher.feed(piece) is piece
    assert watcher.finish() == b""


def test_a_withheld_stream_passes_ordinary_events_as_they_are() -> None:
    watcher = StreamWatch(withhold_usage=True)
    watcher.feed(ROLE + HELLO)
    assert watcher.feed(HELLO) is HELLO


def test_usage_is_known_though_it_is_withheld_and_though_it_is_not() -> None:
    assert watch([ASKED]).usage == watch([ASKED], withhold=True).usage == Usage(40, 3, 32)


def test_the_usage_event_is_withheld_wherever_other_events_stand_around_it() -> None:
    assert (
        watch([ROLE + HELLO + USAGE + b": bye\n\n" + DONE], withhold=True).forwarded
        == ROLE + HELLO + b": bye\n\n" + DONE
    )


def test_an_event_with_choices_and_usage_is_not_withheld() -> None:
    both = chat(b'{"content":"x"}', rest=b"," + COUNTS)
    assert watch([ROLE + both + DONE], withhold=True).forwarded == ROLE + both + DONE


def test_an_event_without_choices_and_without_usage_is_not_withheld() -> None:
    filters = CREATED + b'"choices":[],"prompt_filter_results":[]}\n\n'
    null = CREATED + b'"choices":[],"usage":null}\n\n'
    assert watch([filters + null + HELLO + DONE], withhold=True).forwarded == filters + null + HELLO + DONE


def test_a_fingerprint_that_the_finishing_event_has_already_is_not_added_again() -> None:
    stream = ROLE + LAST_UNASKED + USAGE + DONE
    assert watch([stream], withhold=True).forwarded == ROLE + LAST_UNASKED + DONE


def test_an_engine_without_fingerprints_gets_none() -> None:
    usage = CREATED + b'"choices":[],' + COUNTS + b"}\n\n"
    assert watch([ROLE + LAST + usage + DONE], withhold=True).forwarded == ROLE + LAST + DONE


def test_a_finishing_event_goes_out_unchanged_if_something_else_follows_or_nothing_does() -> None:
    assert watch([ROLE + LAST + HELLO], withhold=True).forwarded == ROLE + LAST + HELLO
    assert watch([ROLE + LAST], withhold=True).forwarded == ROLE + LAST
    assert watch([ROLE, LAST], withhold=True, clean=False).forwarded == ROLE + LAST


@pytest.mark.parametrize(
    "delta",
    [
        b'{"content":"x"}',
        b'{"reasoning_content":"x"}',
        b'{"reasoning":"x","content":null}',
        b'{"tool_calls":[{"index":0,"function":{"name":"f"}}]}',
        b'{"refusal":"no"}',
    ],
)
def test_content_reasoning_and_tool_calls_are_a_first_token(delta: bytes) -> None:
    watcher = StreamWatch()
    watcher.feed(ROLE)
    assert not watcher.first_token_seen
    watcher.feed(chat(delta))
    assert watcher.first_token_seen
    assert watcher.content_events == 1


def test_text_of_a_completion_is_a_first_token() -> None:
    event = CREATED + b'"choices":[{"index":0,"text":"%s","finish_reason":null}]}\n\n'
    assert not watch([event.replace(b"%s", b"")]).first_token
    assert watch([event.replace(b"%s", b"a")]).first_token


@pytest.mark.parametrize(
    "piece", [ROLE, b": ping\n\n", b"event: x\n\n", b"data: {broken\n\n", DONE, b"data: 5\n\n", b"\n\n"]
)
def test_other_events_are_no_first_token(piece: bytes) -> None:
    assert not watch([piece]).first_token


@pytest.mark.parametrize(
    "piece", [b"data: {broken\n\n", b"data: [1]\n\n", b"data: \xff\xfe\n\n", b'data: {"choices":7}\n\n']
)
def test_what_cannot_be_read_is_forwarded(piece: bytes) -> None:
    assert watch([ROLE + piece + DONE], withhold=True).forwarded == ROLE + piece + DONE


@pytest.mark.parametrize(
    ("details", "cached"),
    [
        (b"", None),
        (b',"prompt_tokens_details":null', None),
        (b',"prompt_tokens_details":{}', None),
        (b',"prompt_tokens_details":{"cached_tokens":null}', None),
        (b',"prompt_tokens_details":{"cached_tokens":"many"}', None),
        (b',"prompt_tokens_details":{"cached_tokens":-1}', None),
        (b',"prompt_tokens_details":{"cached_tokens":true}', None),
        (b',"prompt_tokens_details":{"cached_tokens":0}', 0),
        (b',"prompt_tokens_details":{"cached_tokens":16,"created_cache_tokens":4}', 16),
    ],
)
def test_cached_tokens_are_unknown_unless_a_number(details: bytes, cached: int | None) -> None:
    usage = b'"usage":{"prompt_tokens":7,"completion_tokens":2' + details + b"}"
    expected = Usage(7, 2, cached)
    assert watch([CREATED + b'"choices":[],' + usage + b"}\n\n"], withhold=True).usage == expected
    assert usage_of(b'{"id":"x","choices":[{"text":"a"}],' + usage + b"}") == expected


def test_continuous_usage_keeps_the_cached_tokens_of_whichever_event_had_them() -> None:
    first = chat(b'{"content":"a"}', rest=b"," + COUNTS)
    later = chat(b'{"content":"b"}', rest=b',"usage":{"prompt_tokens":40,"completion_tokens":4}')
    assert watch([first, later]).usage == Usage(40, 4, 32)


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b"{}", b'{"usage":null}', b'{"usage":7}', b"\xff"])
def test_a_body_without_readable_usage_has_none(body: bytes) -> None:
    assert usage_of(body) is None


def test_data_over_several_lines_is_one_event() -> None:
    event = b'event: x\ndata: {"choices":\ndata:[],\ndata: "usage":{"prompt_tokens":5}}\nid: 4\n\n'
    seen = watch([ROLE + event + DONE], withhold=True)
    assert seen.usage == Usage(5, None, None)
    assert seen.forwarded == ROLE + DONE


def test_a_byte_order_mark_hides_nothing() -> None:
    assert watch([b"\xef\xbb\xbf" + HELLO]).first_token


def test_a_usage_event_without_its_blank_line_is_withheld_at_the_end() -> None:
    assert watch([ROLE + LAST + USAGE.rstrip()], withhold=True).forwarded == ROLE + LAST_UNASKED


def test_a_last_event_without_its_blank_line_is_read_and_forwarded() -> None:
    seen = watch([ROLE + HELLO + DONE.rstrip()], withhold=True)
    assert seen.done
    assert seen.forwarded == ROLE + HELLO + DONE.rstrip()


def test_half_an_event_of_a_dead_engine_is_not_forwarded_if_that_can_be_helped() -> None:
    assert watch([ROLE + HELLO[:-9]], withhold=True, clean=False).forwarded == ROLE


def test_the_watcher_knows_whether_the_client_has_half_an_event() -> None:
    for withhold in (False, True):
        watcher = StreamWatch(withhold_usage=withhold)
        watcher.feed(ROLE)
        assert not watcher.mid_event
        watcher.feed(HELLO[:20])
        watcher.finish(clean=False)
        assert watcher.mid_event is not withhold


def test_an_event_over_the_limit_passes_and_the_next_is_read_again() -> None:
    huge = chat(b'{"content":"' + b"x" * (EVENT_LIMIT_BYTES + 50_000) + b'"}')
    stream = ROLE + HELLO + huge + LAST + USAGE + DONE
    for size in (1000, 65_536, len(stream)):
        pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
        seen = watch(pieces, withhold=True)
        assert seen.forwarded == ROLE + HELLO + huge + LAST_UNASKED + DONE
        assert seen.usage == Usage(40, 3, 32)


def test_the_end_of_an_event_over_the_limit_is_found_wherever_it_is_cut() -> None:
    huge = b"data: " + b"x" * EVENT_LIMIT_BYTES
    for first, second in ((b"\n", b"\n"), (b"\r\n", b"\r\n"), (b"\r\n\r", b"\n")):
        pieces = [ROLE, huge, first, second + LAST + USAGE + DONE]
        seen = watch(pieces, withhold=True)
        assert seen.forwarded == ROLE + huge + first + second + LAST_UNASKED + DONE


def test_memory_stays_bounded_in_an_event_that_never_ends() -> None:
    watcher = StreamWatch(withhold_usage=True)
    piece = b"y" * 65_536
    forwarded = sum(len(watcher.feed(piece)) for _ in range(64))
    assert 64 * len(piece) - forwarded <= EVENT_LIMIT_BYTES


def test_null_usage_is_taken_out_of_every_event_where_the_engine_adds_it() -> None:
    def added(event: bytes) -> bytes:
        return event[:-3] + b',"usage":null}\n\n'

    text = chat(b'{"content":"\\",\\"usage\\":null"}')
    asked = added(ROLE) + added(text) + added(LAST_UNASKED) + USAGE + DONE
    assert watch([asked], withhold=True, strip=True).forwarded == ROLE + text + LAST_UNASKED + DONE
    assert watch([asked], withhold=True).forwarded == added(ROLE) + added(text) + added(LAST_UNASKED) + DONE


def test_a_nested_null_usage_is_not_taken_for_the_event_s_own() -> None:
    event = chat(b'{"content":"x","usage":null}')
    assert watch([event], withhold=True, strip=True).forwarded == event
    asked = event[:-3] + b',"usage":null}\n\n'
    assert watch([asked], withhold=True, strip=True).forwarded == event


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_stream_is_seen_alike_however_its_engine_spaces_json(separators: tuple[str, str]) -> None:
    def event(choices: list[object], **rest: object) -> bytes:
        return b"data: " + json.dumps({"choices": choices, **rest}, separators=separators).encode() + b"\n\n"

    def said(text: str) -> bytes:
        return event([{"index": 0, "delta": {"content": text}, "finish_reason": None}])

    texts = ["Many", " words", " of", " one", " shape", ', "usage": {}', " and", ' "usage":', " [DONE]", ""]
    events = [*map(said, texts), said("last")]
    usage = event([], usage={"prompt_tokens": 40, "completion_tokens": 3, "prompt_tokens_details": None})
    seen = watch([*events, usage, DONE], withhold=True)
    assert (seen.forwarded, seen.usage, seen.done) == (b"".join(events) + DONE, Usage(40, 3, None), True)
    assert not seen.error


def test_an_error_event_is_noticed_and_forwarded() -> None:
    fault = b'data: {"error":{"message":"boom","type":"InternalServerError","code":500}}\n\n'
    seen = watch([ROLE + HELLO, fault, DONE], withhold=True)
    assert seen.error
    assert seen.forwarded == ROLE + HELLO + fault + DONE
    assert not watch([ROLE + HELLO, chat(b'{"content":"error"}')]).error


def test_our_error_event_is_shaped_as_openai_s() -> None:
    event = error_event("the replica died", "upstream_error", "died_mid_stream")
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert json.loads(event[6:]) == {
        "error": {"message": "the replica died", "type": "upstream_error", "param": None, "code": "died_mid_stream"}
    }
    assert b"\n" not in error_event("two\nlines", "x")[:-2]
    assert error_event("m", "k", mid_event=True).startswith(b"\n\ndata: ")


@pytest.mark.shared
def test_recorded_streams_lose_the_usage_event_and_nothing_else() -> None:
    if not SURFACE.exists():
        pytest.skip(f"{SURFACE} is not here")
    asked: list[bytes] = []
    unasked: list[bytes] = []
    for line in SURFACE.read_text().splitlines():
        record = json.loads(line)
        if isinstance(record.get("response"), str) and record["response"].startswith("data: "):
            options = record["body"].get("stream_options", {})
            (asked if options.get("include_usage") else unasked).append(record["response"].encode())
    assert asked
    assert unasked
    for stream in asked:
        seen = watch([stream], withhold=True)
        for offset in range(0, len(stream), 7):
            assert watch(cut(stream, offset), withhold=True) == seen
        assert seen.first_token
        assert seen.done
        assert seen.usage is not None
        assert seen.usage.cached_tokens == 0
        assert b'"choices":[]' not in seen.forwarded
        # Where the fingerprint stands in a stream nobody asked usage of: last in the event that ends the choice.
        final = seen.forwarded.split(b"\n\n")[-3]
        assert final.endswith(FINGERPRINT + b"}")
        plain = seen.forwarded.replace(FINGERPRINT, b"")
        assert (
            b"".join(event + b"\n\n" for event in stream.split(b"\n\n")[:-1] if b'"choices":[]' not in event) == plain
        )
    for stream in unasked:
        seen = watch([stream], withhold=True)
        assert seen.forwarded == stream
        assert seen.usage is None
        assert stream.split(b"\n\n")[-3].endswith(FINGERPRINT + b"}")
