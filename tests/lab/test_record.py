"""`homing record` as far as it needs no Homing: what it does with the lines that come."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.errors import ConfigError
from router.lab.record import Taken, _take, _tell, _writing

FLEET = b'{"recording":{"version":1}}\n'
REQUEST = b'{"timestamp":0,"input_length":90,"output_length":1,"hash_ids":[1],"block_size":64}\n'
UNKNOWN = b'{"timestamp":0,"input_length":90,"output_length":1,"hash_ids":[],"block_size":64}\n'
END = b'{"recording_end":{"requests":2,"dropped":1,"left_out":0,"seconds":9.0}}\n'


def take(*lines: bytes, most_bytes: int = 10_000) -> tuple[Taken, bytes]:
    taken, written = Taken(), bytearray()
    _take(lines, taken, written.extend, lambda: len(written) > most_bytes, 60.0)
    return taken, bytes(written)


def test_requests_are_written_and_counted_and_the_rest_is_not() -> None:
    taken, written = take(FLEET, b"\n", REQUEST, b"\n", UNKNOWN, END)
    assert written == FLEET + REQUEST + UNKNOWN
    assert (taken.requests, taken.without_ids) == (2, 1)
    assert taken.sums is not None
    assert taken.sums.dropped == 1


def test_a_full_file_ends_it() -> None:
    taken, _ = take(FLEET, *[REQUEST] * 50, END, most_bytes=len(FLEET) + 3 * len(REQUEST))
    assert taken.requests == 4
    assert taken.sums is None


def test_a_homing_that_dies_leaves_what_came() -> None:
    def dying() -> Iterator[bytes]:
        yield from (FLEET, REQUEST)
        raise http.client.IncompleteRead(b"")

    taken, written = Taken(), bytearray()
    _take(dying(), taken, written.extend, lambda: False, 60.0)
    assert bytes(written) == FLEET + REQUEST
    assert taken.sums is None


def test_a_file_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"), _writing(tmp_path / "no" / "t.jsonl"):
        pass


def test_the_last_words_tell_what_is_missing_and_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.jsonl"
    out.write_bytes(FLEET + REQUEST)
    _tell(take(FLEET, REQUEST, UNKNOWN, END)[0], out)
    told = capsys.readouterr().out
    for words in ("2 requests", "1 of them without ids", "1 for want of time", f"--workload {out}"):
        assert words in told
    _tell(take(FLEET, REQUEST)[0], out)
    assert "ended early" in capsys.readouterr().out
