from __future__ import annotations

import msgspec
import pytest

from router.sharing.message import MOST_MESSAGE_BYTES, Malformed, Rate, Row, Told, pack, unpack


def test_a_message_arrives_as_it_was_told() -> None:
    told = Told("one", "b", 7, True, (Row("r0", 1, 2, 3),), (Rate("m", 8000.0, 12),), False)
    assert unpack(pack(told)) == told


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"hello",
        msgspec.msgpack.encode(["one", "b", -1, True]),
        msgspec.msgpack.encode(["", "b", 1, True]),
        msgspec.msgpack.encode(["one", "b", 1, True, [["r0", -1, 0, 0]]]),
        msgspec.msgpack.encode(["one", "b", 1, True, [["r0", 1, 2**60, 0]]]),
        msgspec.msgpack.encode(["one", "b", 1, True, [["r0", 1, 0.5, 0]]]),
        msgspec.msgpack.encode(["one", "b", 1, True, [], [["m", float("nan"), 1]]]),
        pack(Told("one", "b", 1, True, (Row("r" * MOST_MESSAGE_BYTES, 1, 0, 0),))),
    ],
)
def test_what_is_no_message_of_ours_is_refused_whole(message: bytes) -> None:
    with pytest.raises(Malformed):
        unpack(message)


def test_a_later_release_may_say_more_at_the_end() -> None:
    assert unpack(msgspec.msgpack.encode(["one", "b", 1, True, [], [], False, "news"])).router == "one"
