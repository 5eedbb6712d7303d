from __future__ import annotations

from array import array

import msgspec
import pytest

from router.sharing.message import MOST_MESSAGE_BYTES, Lent, Malformed, Rate, Row, Told, pack, pack_hashes, unpack


def test_a_message_arrives_as_it_was_told() -> None:
    lent = Lent(3, "r0", 16, 1024, 32, 1, pack_hashes(array("Q", [1, 2**64 - 1])))
    told = Told("one", "b", 7, True, (Row("r0", 1, 2, 3),), (Rate("m", 8000.0, 12),), False, (lent,), ((3, 1),), (2,))
    assert unpack(pack(told)) == told
    assert unpack(pack(told)).lent[0].hashes == [1, 2**64 - 1]


def test_what_an_older_release_says_is_understood_and_it_lends_nothing() -> None:
    told = unpack(msgspec.msgpack.encode(["one", "b", 1, True, [], [], False]))
    assert (told.lent, told.firsts, told.closed) == ((), (), ())


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
        msgspec.msgpack.encode(["one", "b", 1, True, [], [], False, [[1, "r0", 0, 1024, 0, 0, b""]]]),
        msgspec.msgpack.encode(["one", "b", 1, True, [], [], False, [[1, "r0", 16, 1024, 0, 0, b"1" * 40_000]]]),
        pack(Told("one", "b", 1, True, (Row("r" * MOST_MESSAGE_BYTES, 1, 0, 0),))),
    ],
)
def test_what_is_no_message_of_ours_is_refused_whole(message: bytes) -> None:
    with pytest.raises(Malformed):
        unpack(message)


def test_a_later_release_may_say_more_at_the_end() -> None:
    assert unpack(msgspec.msgpack.encode(["one", "b", 1, True, [], [], False, [], [], [], "news"])).router == "one"
