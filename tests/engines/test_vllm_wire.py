from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.engines.batches import MAX_RUN_BLOCKS
from router.engines.vllm_wire import decode, frames, replay_request
from router.events.kinds import Cleared, Removed, Skip, Stored, WireFault
from router.index.base import Tier
from router.prompt.blocks import pack_tokens

FRAMES = Path(__file__).resolve().parents[1] / "frames"
RECORDINGS = Path(__file__).resolve().parents[2].parent / "shared" / "fixtures" / "vllm_kv_events"


def payload(*events: object, time_seconds: float = 1.0, rank: int | None = 0) -> bytes:
    return msgspec.msgpack.encode([time_seconds, list(events), rank])


def stored(**changes: Any) -> dict[str, Any]:  # an event as the wire has it: any field may be wrong
    event = {"type": "BlockStored", "block_hashes": [11, 12], "parent_block_hash": None, "token_ids": [1, 2, 3, 4]}
    return {**event, "block_size": 2, **changes}


def only(raw: bytes) -> Stored:
    (event,) = decode(raw).events
    assert isinstance(event, Stored)
    return event


def test_every_recorded_payload_is_read_whole() -> None:
    files = sorted(FRAMES.glob("vllm_*.jsonl"))
    assert files
    read = 0
    for file in files:
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if entry["kind"] == "event":
                batch = decode(bytes.fromhex(entry["payload_hex"]))
                assert batch.events
                assert not batch.skipped
                read += 1
    assert read > 100


@pytest.mark.shared
def test_the_full_recordings_decode_to_what_the_recorder_saw() -> None:
    if not RECORDINGS.is_dir():
        pytest.skip(f"{RECORDINGS} is not there")
    names = {"BlockStored": Stored, "BlockRemoved": Removed, "AllBlocksCleared": Cleared}
    for file in sorted(RECORDINGS.glob("*/*.jsonl")):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if entry["kind"] != "event":
                continue
            batch = decode(bytes.fromhex(entry["payload_hex"]))
            time_seconds, events, rank = entry["decoded"]
            assert (batch.time_seconds, batch.rank, batch.skipped) == (time_seconds, rank, ())
            for ours, theirs in zip(batch.events, events, strict=True):
                fields = (
                    theirs if isinstance(theirs, dict) else dict(zip(("type", "block_hashes"), theirs, strict=False))
                )
                assert type(ours) is names[fields["type"]]
                if not isinstance(ours, Cleared):
                    hashes = [
                        h if isinstance(h, int) else bytes.fromhex(h["bytes_hex"]) for h in fields["block_hashes"]
                    ]
                    assert list(ours.names) == hashes


def test_a_map_and_an_array_of_any_age_say_the_same() -> None:
    of_map = only(payload(stored(medium="GPU", lora_name="ada", extra_keys=[["ada"], ["ada"]], group_idx=0)))
    array = [
        "BlockStored",
        [11, 12],
        None,
        [1, 2, 3, 4],
        2,
        7,
        "GPU",
        "ada",
        [["ada"], ["ada"]],
        0,
        "full_attention",
        None,
    ]
    assert only(payload(array)) == of_map
    for cut in (11, 10, 9):
        assert only(payload(array[:cut])) == of_map
    assert only(payload(array[:8])) == of_map
    assert of_map == Stored((11, 12), None, pack_tokens([1, 2, 3, 4]), 2, Tier.GPU, "ada")


def test_a_batch_without_its_rank_and_with_more_fields_than_we_know_is_read() -> None:
    raw = msgspec.msgpack.encode(
        [2.5, [stored(session_id="s", ownership=None), {"type": "AllBlocksCleared", "new": 1}]]
    )
    assert decode(raw).rank == 0
    assert decode(msgspec.msgpack.encode([2.5, [], 3, "more"])).rank == 3
    assert len(decode(raw).events) == 2


def test_names_may_be_unsigned_64_bit_numbers_or_raw_digests() -> None:
    high = 2**64 - 1
    digest = bytes(range(32))
    assert only(payload(stored(block_hashes=[high, high - 1], parent_block_hash=5))).names == (high, high - 1)
    event = only(payload(stored(block_hashes=[digest, digest[::-1]], parent_block_hash=digest)))
    assert (event.names, event.parent) == ((digest, digest[::-1]), digest)


def test_the_salt_is_told_from_a_lora_of_the_same_name_by_the_lora_name_alone() -> None:
    both = only(payload(stored(lora_name="x", extra_keys=[["x", "x"], ["x"]])))
    assert (both.adapter, both.salt, both.extras) == ("x", "x", ())
    salted = only(payload(stored(extra_keys=[["x"], None])))
    assert (salted.adapter, salted.salt, salted.extras) == (None, "x", ())
    adapted = only(payload(stored(lora_name="x", extra_keys=[["x"], ["x"]])))
    assert (adapted.adapter, adapted.salt, adapted.extras) == ("x", None, ())


def test_media_and_embedding_digests_stay_with_their_block_and_a_later_string_is_no_salt() -> None:
    event = only(payload(stored(extra_keys=[[["image", 3], "salt", b"digest"], None])))
    assert event.salt == "salt"
    assert event.extras == (msgspec.msgpack.encode([["image", 3], b"digest"]), b"")
    later = only(payload(stored(parent_block_hash=9, extra_keys=[["odd"], None])))
    assert later.salt is None
    assert later.extras[0] != b""


def test_several_media_and_digests_may_share_a_block_and_span_blocks() -> None:
    """As vLLM orders them: adapter, [media id, offset in the block]..., salt, digest of prompt embeddings."""
    keys = [["ada", ["cat", 1], ["dog", -3], "salt", b"d1"], ["ada", ["dog", -5], b"d2"]]
    event = only(payload(stored(lora_name="ada", extra_keys=keys)))
    assert (event.adapter, event.salt) == ("ada", "salt")
    assert [msgspec.msgpack.decode(extra) for extra in event.extras] == [
        [["cat", 1], ["dog", -3], b"d1"],
        [["dog", -5], b"d2"],
    ]
    moved = only(payload(stored(lora_name="ada", extra_keys=[["ada", ["cat", 2], "salt"], ["ada"]])))
    assert moved.extras[0] != event.extras[0]


def test_a_store_that_others_share_is_remote_wherever_its_medium_is() -> None:
    assert only(payload(stored(medium="STORAGE", locality="REMOTE", ownership="fs"))).tier is Tier.REMOTE
    assert only(payload(stored(medium="CPU", locality="LOCAL"))).tier is Tier.CPU
    gone = {"type": "BlockRemoved", "block_hashes": [1], "medium": "STORAGE", "locality": "REMOTE", "ownership": "fs"}
    assert decode(payload(gone)).events == (Removed((1,), Tier.REMOTE),)
    as_array = ["BlockRemoved", [1], "STORAGE", 0, "REMOTE", "fs"]
    assert decode(payload(as_array)).events == (Removed((1,), Tier.REMOTE),)


@pytest.mark.parametrize("kind", [None, "full_attention", "mla_attention", "sink_full_attention"])
def test_groups_the_hit_rule_holds_for_are_indexed(kind: str | None) -> None:
    assert only(payload(stored(kv_cache_spec_kind=kind, kv_cache_spec_sliding_window=None, group_idx=0))).salt is None


@pytest.mark.parametrize(
    "kind", ["sliding_window", "sliding_window_mla", "mamba", "chunked_local_attention", "unknown"]
)
def test_groups_it_does_not_hold_for_are_counted(kind: str) -> None:
    batch = decode(payload(stored(kv_cache_spec_kind=kind, kv_cache_spec_sliding_window=128)))
    assert (batch.events, batch.skipped) == ((), (Skip.OTHER_GROUP,))


def test_a_store_that_leaves_out_what_sets_caches_apart_is_not_taken_for_the_cpus() -> None:
    """Mooncake's: `cpu` in small letters, no adapter, no salt."""
    assert decode(payload(stored(medium="cpu"))).skipped == (Skip.UNKNOWN_MEDIUM,)


def test_an_adapter_known_by_its_number_only_is_kept_apart_from_the_base_model() -> None:
    assert only(payload(stored(lora_id=3))).adapter == "#3"


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        (stored(token_ids=[1, 2, 3]), Skip.MALFORMED),
        (stored(block_size=0, token_ids=[]), Skip.MALFORMED),
        (stored(block_hashes=[], token_ids=[]), Skip.MALFORMED),
        (stored(token_ids=[1, 2, 3, -4]), Skip.MALFORMED),
        (stored(token_ids=[1, 2, 3, 2**32]), Skip.MALFORMED),
        (stored(token_ids="text"), Skip.MALFORMED),
        (stored(extra_keys=[["x"]]), Skip.MALFORMED),
        ({"type": "BlockStored"}, Skip.MALFORMED),
        (["BlockStored", [1]], Skip.MALFORMED),
        (17, Skip.MALFORMED),
        ({"type": "BlockRenamed", "from": 1}, Skip.UNKNOWN_KIND),
        (["BlockRenamed", 1], Skip.UNKNOWN_KIND),
        (stored(medium="TAPE"), Skip.UNKNOWN_MEDIUM),
        (stored(group_idx=1), Skip.OTHER_GROUP),
        (stored(kv_cache_spec_kind="sliding_window"), Skip.OTHER_GROUP),
        (stored(medium="CPU", token_ids=[], block_size=0), Skip.NO_TOKENS),
        ({"type": "BlockRemoved", "block_hashes": [1], "medium": "TAPE"}, Skip.UNKNOWN_MEDIUM),
        ({"type": "BlockRemoved", "block_hashes": [1], "group_idx": 2}, Skip.OTHER_GROUP),
    ],
)
def test_one_strange_event_is_counted_and_costs_only_itself(event: object, cause: Skip) -> None:
    is_array = isinstance(event, list)
    neighbour = (
        ["BlockRemoved", [5], "GPU"] if is_array else {"type": "BlockRemoved", "block_hashes": [5], "medium": "GPU"}
    )
    batch = decode(payload(neighbour, event, neighbour))
    assert batch.events == (Removed((5,)), Removed((5,)))
    assert batch.skipped == (cause,)


def test_a_very_long_run_comes_in_pieces_that_hang_on_each_other() -> None:
    count = 2 * MAX_RUN_BLOCKS + 3
    keys: list[list[str] | None] = [["salt"], *[None] * (count - 1)]
    raw = payload(stored(block_hashes=list(range(count)), token_ids=list(range(2 * count)), extra_keys=keys))
    pieces = [event for event in decode(raw).events if isinstance(event, Stored)]
    assert [len(piece.names) for piece in pieces] == [MAX_RUN_BLOCKS, MAX_RUN_BLOCKS, 3]
    assert [piece.parent for piece in pieces] == [None, MAX_RUN_BLOCKS - 1, 2 * MAX_RUN_BLOCKS - 1]
    assert [piece.salt for piece in pieces] == ["salt", None, None]
    assert b"".join(piece.tokens for piece in pieces) == pack_tokens(range(2 * count))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"garbage",
        msgspec.msgpack.encode({"ts": 1.0}),
        msgspec.msgpack.encode([1.0]),
        msgspec.msgpack.encode(["now", [], 0]),
        msgspec.msgpack.encode([float("nan"), [], 0]),
        payload(stored())[:-9],
        payload(stored()) + b"\x00",
        b"\x91" * 5000,
    ],
)
def test_what_is_no_batch_at_all_is_one_kind_of_fault(raw: bytes) -> None:
    with pytest.raises(WireFault):
        decode(raw)


def test_live_and_replayed_frames_of_both_framings_are_read_from_the_end() -> None:
    seq = struct.pack(">Q", 258)
    assert frames([b"topic", seq, b"p"]) == (258, b"p")
    assert frames([b"", b"topic", seq, b"p"]) == (258, b"p")
    assert frames([b"", seq, b"p"]) == (258, b"p")
    assert frames([b"", b"", b"\xff" * 8, b""]) is None
    assert frames([b"", b"\xff" * 8, b""]) is None
    assert replay_request(258) == [b"", seq]


@pytest.mark.parametrize("message", [[], [b"p"], [b"topic", b"short", b"p"]])
def test_a_message_of_other_frames_is_a_fault(message: list[bytes]) -> None:
    with pytest.raises(WireFault):
        frames(message)


def test_recorded_replay_frames_are_read() -> None:
    seen = ends = 0
    for file in FRAMES.glob("vllm_*.jsonl"):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if entry["kind"] == "replay_frame":
                read = frames([bytes.fromhex(part) for part in entry["frames_hex"]])
                seen += 1
                ends += read is None
                if read is not None:
                    assert decode(read[1]).events
    assert seen > ends > 0
