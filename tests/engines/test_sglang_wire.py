from __future__ import annotations

import json
from typing import Any  # recorded events

import msgspec
import pytest

from router.engines.sglang_wire import decode, frames
from router.events.kinds import Cleared, Removed, Skip, Stored
from router.index.base import Tier
from router.prompt.blocks import pack_tokens, unpack_tokens
from tests.engines.makers import payload, stored
from tests.sim.recordings import FRAMES

RECORDED = FRAMES / "sglang_page16.jsonl"
# The order of the fields in the array form, as SGLang 0.5.10 has them; 0.5.5 ends at lora_id.
STORED_FIELDS = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium")
REMOVED_FIELDS = ("block_hashes", "medium")


def only(raw: bytes) -> Stored:
    (event,) = decode(raw).events
    assert isinstance(event, Stored)
    return event


def recorded() -> list[bytes]:
    lines = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    return [bytes.fromhex(line["payload_hex"]) for line in lines if line["kind"] == "event"]


def as_array(event: dict[str, Any], fields: int | None = None) -> list[Any]:
    names = {"BlockStored": STORED_FIELDS, "BlockRemoved": REMOVED_FIELDS, "AllBlocksCleared": ()}[event["type"]]
    return [event["type"], *(event.get(name) for name in names[:fields])]


def test_every_recorded_payload_is_read_whole() -> None:
    kinds = set()
    for raw in recorded():
        batch = decode(raw)
        assert batch.events
        assert (batch.skipped, batch.rank) == ((), 0)
        kinds |= {type(event) for event in batch.events}
    assert kinds == {Stored, Removed, Cleared}


def test_recorded_replay_frames_are_read() -> None:
    lines = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    read = [
        frames([bytes.fromhex(part) for part in line["frames_hex"]]) for line in lines if line["kind"] == "replay_frame"
    ]
    assert [None if one is None else one[0] for one in read] == [0, 1, 2, None]
    assert read[0] is not None
    assert decode(read[0][1]).events == (Cleared(),)  # what a fresh process says first


def test_events_of_earlier_releases_are_arrays_and_say_the_same() -> None:
    for raw in recorded():
        time_seconds, events, rank = msgspec.msgpack.decode(raw)
        if any("cache_salt" in event for event in events):
            continue  # told since the maps only
        for last in (None, rank):
            batch = [time_seconds, [as_array(event) for event in events], *([] if last is None else [last])]
            assert decode(msgspec.msgpack.encode(batch)).events == decode(raw).events
        if all(event.get("medium") == "GPU" for event in events):
            oldest = [as_array(event, 5 if event["type"] == "BlockStored" else 1) for event in events]
            assert decode(msgspec.msgpack.encode([time_seconds, oldest, rank])).events == decode(raw).events


def test_names_are_signed() -> None:
    low = -(2**63)
    event = only(payload(stored(block_hashes=[low, 2**63 - 1], parent_block_hash=-1)))
    assert (event.names, event.parent) == ((low, 2**63 - 1), -1)


def test_a_removal_names_many_blocks() -> None:
    batch = decode(payload({"type": "BlockRemoved", "block_hashes": [-3, 4, -3], "medium": "GPU"}))
    assert batch.events == (Removed((-3, 4, -3)),)


def test_the_salt_of_every_event_counts_with_the_first_of_its_chain() -> None:
    assert only(payload(stored(cache_salt="tenant"))).salt == "tenant"
    assert only(payload(stored(cache_salt="tenant", parent_block_hash=9))).salt is None
    assert only(payload(stored(cache_salt=""))).salt is None
    run = payload(stored(cache_salt="tenant", block_hashes=list(range(600)), token_ids=list(range(600)), block_size=1))
    assert [event.salt for event in decode(run).events if isinstance(event, Stored)] == ["tenant", None, None]


def test_the_adapter_is_told_by_name_and_the_session_is_nothing_to_us() -> None:
    event = only(payload(stored(lora_name="ada", session_id="s", lora_id=None)))
    assert event == Stored((11, 12), None, pack_tokens([1, 2, 3, 4]), 2, Tier.GPU, "ada")


def test_an_image_stands_among_the_tokens_as_numbers_no_other_image_has() -> None:
    """As SGLang 0.5.23 makes them: a million and up, of 63 bits."""
    cat, dog = 1_000_000 + 2**62, 1_000_000 + 2**62 + 2**32  # alike in their low halves
    events = [only(payload(stored(token_ids=[1, 2, image, 4]))) for image in (cat, dog)]
    assert [unpack_tokens(event.tokens)[2] for event in events] == [1_000_000] * 2
    assert [event.extras[0] for event in events] == [b"", b""]
    assert events[0].extras[1] != events[1].extras[1]
    assert decode(payload(stored(token_ids=[1, 2, 3, 2**63]))).skipped == (Skip.MALFORMED,)


@pytest.mark.parametrize("form", [dict, list])
def test_pairs_of_tokens_are_read_by_their_first(form: type) -> None:
    """EAGLE: each token with the one after it."""
    event = stored(token_ids=[[1, 2], [2, 3], [3, 4], [4, 5]], medium="GPU", lora_id=None)
    gone = {"type": "BlockRemoved", "block_hashes": [1], "medium": "GPU"}
    said = [event, gone] if form is dict else [as_array(event), as_array(gone)]
    assert decode(payload(*said)).events == (
        Stored((11, 12), None, pack_tokens([1, 2, 3, 4]), 2),
        Removed((1,)),
    )
    assert decode(payload(stored(token_ids=[[1, 2, 3]]))).skipped == (Skip.MALFORMED,)
