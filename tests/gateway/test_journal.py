from __future__ import annotations

import io
import json

from router.gateway.journal import Journal


def test_every_line_is_one_json_object_in_order() -> None:
    stream = io.BytesIO()
    journal: Journal[dict[str, object]] = Journal(stream, dict)
    for number in range(100):
        journal.write({"number": number, "text": "a\nb"})
    journal.close()
    assert [json.loads(line)["number"] for line in stream.getvalue().splitlines()] == list(range(100))


def test_a_reader_that_went_away_stops_nothing() -> None:
    class Broken(io.BytesIO):
        def write(self, _data: object) -> int:
            raise BrokenPipeError

    journal: Journal[dict[str, object]] = Journal(Broken(), dict)
    journal.write({"a": 1})
    journal.close()
    assert journal.dropped == 1


def test_without_a_stream_nothing_is_kept() -> None:
    journal: Journal[dict[str, object]] = Journal(None, dict)
    journal.write({"a": 1})
    journal.close()
    assert journal.dropped == 0
