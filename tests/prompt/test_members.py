from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import BadRequest
from router.prompt.members import Members, nested_members, read_members

names = st.text(st.sampled_from('ab"\\é{}:,'), max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(st.sampled_from('x"\\{}[],:é '), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
blanks = st.text(st.sampled_from(" \t\n\r"), max_size=2)


@st.composite
def written_objects(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, Any]]]:
    """An object as bytes with odd spacing and escapes, and its members in order, repeats included."""
    members = draw(st.lists(st.tuples(names, values), max_size=6))
    pieces = []
    for name, value in members:
        ascii_only = draw(st.booleans())
        pieces.append(
            draw(blanks)
            + json.dumps(name, ensure_ascii=ascii_only)
            + draw(blanks)
            + ":"
            + draw(blanks)
            + json.dumps(value, ensure_ascii=draw(st.booleans()))
            + draw(blanks)
        )
    body = draw(blanks) + "{" + (",".join(pieces) or draw(blanks)) + "}" + draw(blanks)
    return body.encode(), members


@settings(max_examples=100)
@given(written_objects())
def test_every_member_is_found_where_it_stands_and_repeats_are_told(
    written: tuple[bytes, list[tuple[str, Any]]],
) -> None:
    body, expected = written
    members = read_members(body)
    counts = {name: sum(name == other for other, _ in expected) for name, _ in expected}
    assert members.repeated == {name for name, count in counts.items() if count > 1}
    assert set(members.spans) == set(counts)
    assert body[members.opening : members.opening + 1] == b"{"
    for name, span in members.spans.items():
        first = next(value for other, value in expected if other == name)
        assert json.loads(body[span.value_start : span.end]) == first
        quoted, _ = json.JSONDecoder(strict=False).raw_decode(body[span.start : span.end].decode())
        assert quoted == name


def raw(members: Members, name: str) -> bytes:
    found = members.raw(name)
    assert found is not None
    return bytes(found)


def test_an_escaped_name_counts_as_what_it_spells() -> None:
    members = read_members(b'{"mod\\u0065l": "a", "x": 1}')
    assert raw(members, "model") == b'"a"'
    assert read_members(b'{"mod\\u0065l": 1, "model": 2}').repeated == {"model"}


def test_a_repeated_name_is_seen_even_where_the_last_value_fits_inside_the_first() -> None:
    # Laid over the first value, the last one's length ends where a member could end.
    members = read_members(b'{"a":{"z":1,"b":2},"b":3,"a":123456}')
    assert members.repeated == {"a"}
    assert raw(members, "a") == b'{"z":1,"b":2}'


def test_null_and_absent_are_both_not_present() -> None:
    members = read_members(b'{"a": null, "b": 0}')
    assert [members.is_present(name) for name in "abc"] == [False, True, False]


def test_a_nested_object_tells_places_in_the_whole_body() -> None:
    body = b'{"x": 1, "o" : { "k" : [1] , "l":2}}'
    inner = nested_members(body, read_members(body).spans["o"])
    assert raw(inner, "k") == b"[1]"
    assert body[inner.opening : inner.opening + 1] == b"{"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "empty"),
        (b"[]", "must be a JSON object"),
        (b"3", "must be a JSON object"),
        (b'{"a":1', "byte 6"),
        (b'{"a":1}x', "trailing characters .byte 8."),
        (b'{"a":1,}', "byte 7"),
        (b'{"a":tru}', "byte"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"\xff":1}', "UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', "byte 0"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a":' + b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_object_is_refused_saying_where(body: bytes, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        read_members(body)


@settings(max_examples=150)
@given(st.binary(max_size=40) | st.text(st.sampled_from('{}[]",:\\u0 \n1ae'), max_size=24).map(str.encode))
def test_any_bytes_are_read_as_the_standard_library_reads_them_or_refused(body: bytes) -> None:
    try:
        members = read_members(body)
    except BadRequest:
        return
    assert set(json.loads(body)) == set(members.spans)
