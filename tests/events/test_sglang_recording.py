"""A recording of a real SGLang drives the index, which must foretell what the engine then reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any  # recorded JSON

import numpy as np
import pytest

from router.engines.sglang_wire import decode, frames
from router.events.ingest import Ingest
from router.events.kinds import Cleared, Removed, Stored
from router.events.sequence import Deliver, Sequencer
from router.fleet.replica import Seat
from router.index.base import Tier, Trust
from router.index.budget import Budget
from router.index.memory import MemoryIndex
from router.prompt.blocks import BlockHasher, pack_tokens, root_hash

RECORDED = Path(__file__).resolve().parents[1] / "frames" / "sglang_page16.jsonl"
SEAT = Seat(0)
PAGE = 16
# Its prompt is kept apart by a key that no event tells: the engine finds nothing where the index has the plain prompt.
# Such requests are not predicted (`prompt/read`).
BEYOND_READING = {"extra_key"}


class House:
    def __init__(self) -> None:
        self.index = MemoryIndex(Budget(64 << 20))
        self.ingest = Ingest(self.index, hash_seed=7)
        self.ingest.join(SEAT, "tiny")
        self.ingest.stream(SEAT, up=True)
        self.hasher = BlockHasher()

    def predicted(self, tokens: list[int], salt: str | None = None, page: int = PAGE) -> int:
        hashes = self.hasher.hashes(pack_tokens(tokens), root_hash(7, "tiny", None, salt), page)
        held = int(self.index.match(hashes, np.array([SEAT])).held[0])
        return page * min(held, (len(tokens) - 1) // page)


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDED.read_text().splitlines()]


def test_every_recorded_count_of_cached_tokens_is_foretold_but_for_the_invisible_key() -> None:
    house, sequencer = House(), Sequencer()
    sequencer.connected()
    sequencer.replay_ended(answered=True)
    house.ingest.begin(SEAT, whole=True)
    for line in recorded():  # batch 0, which clears, was replayed only
        if line["kind"] == "replay_frame" and line["frames_hex"][2] == "0" * 16:
            first = frames([bytes.fromhex(part) for part in line["frames_hex"]])
            assert first is not None
            assert sequencer.accept(first[0], decode(first[1]).time_seconds, 0) == Deliver()
    bodies: dict[str, dict[str, Any]] = {}
    foretold: dict[str, tuple[int, int]] = {}
    predictions: dict[str, int] = {}
    prompts = {line["tag"]: line["prompt_token_ids"] for line in recorded() if line["kind"] == "response"}
    for line in recorded():
        if line["kind"] == "request" and line["tag"] in prompts:
            bodies[line["tag"]] = line["body"]
            predictions[line["tag"]] = house.predicted(prompts[line["tag"]], line["body"].get("cache_salt"))
        elif line["kind"] == "event":
            read = frames([line["topic"].encode(), line["seq"].to_bytes(8, "big"), bytes.fromhex(line["payload_hex"])])
            assert read is not None
            batch = decode(read[1])
            assert sequencer.accept(read[0], batch.time_seconds, read[0]) == Deliver()
            for event in batch.events:
                house.ingest.apply(SEAT, event)
        elif line["kind"] == "response":
            foretold[line["tag"]] = predictions[line["tag"]], line["cached_tokens"]
    wrong = {tag for tag, (ours, theirs) in foretold.items() if ours != theirs}
    assert wrong == BEYOND_READING == {tag for tag, body in bodies.items() if "extra_key" in body}
    assert len(foretold) == 27
    assert sum(theirs > 0 for _, theirs in foretold.values()) == 6
    assert house.ingest.trust(SEAT) is Trust.EXACT
    tally = house.ingest.tally(SEAT)
    assert (tally.removed_unknown, tally.orphaned, tally.other_block_size) == (0, 0, 0)


def test_a_block_of_two_namespaces_is_held_until_it_was_removed_twice() -> None:
    """As recorded: the plain prompt and the one with an extra key have the same names."""
    house = House()
    house.ingest.begin(SEAT, whole=True)
    tokens = list(range(3 * PAGE))
    run = Stored((-1, 2, 3), None, pack_tokens(tokens), PAGE)
    for event in (run, run, Removed((-1, 2, 3))):
        house.ingest.apply(SEAT, event)
    assert house.predicted([*tokens, 9]) == 3 * PAGE
    house.ingest.apply(SEAT, Removed((-1, 2, 3)))
    assert house.predicted([*tokens, 9]) == 0


def test_the_children_of_a_salted_block_hang_under_it() -> None:
    house = House()
    house.ingest.begin(SEAT, whole=True)
    tokens = list(range(2 * PAGE))
    for event in (
        Stored((1,), None, pack_tokens(tokens[:PAGE]), PAGE, salt="tenant"),
        Stored((2,), 1, pack_tokens(tokens[PAGE:]), PAGE),
    ):
        house.ingest.apply(SEAT, event)
    assert house.predicted([*tokens, 9], salt="tenant") == 2 * PAGE
    assert house.predicted([*tokens, 9]) == house.predicted([*tokens, 9], salt="other") == 0


@pytest.mark.parametrize("count", [5, 3000])
def test_pages_of_one_token_are_foretold_to_the_token(count: int) -> None:
    house = House()
    house.ingest.begin(SEAT, whole=True)
    tokens = list(range(7, 7 + count))
    house.ingest.apply(SEAT, Stored(tuple(range(-count, 0)), None, pack_tokens(tokens), 1))
    assert house.predicted([*tokens, 3], page=1) == count
    assert house.predicted(tokens, page=1) == count - 1
    assert house.predicted([*tokens[:4], 3, 3], page=1) == 4
    house.ingest.apply(SEAT, Cleared())
    assert house.predicted(tokens, page=1) == 0


def test_a_block_offloaded_under_a_name_we_know_stays_in_its_own_namespace() -> None:
    """Connectors may leave out the salt of what they copy; the name tells which block it is."""
    house = House()
    house.ingest.begin(SEAT, whole=True)
    tokens = list(range(PAGE))
    packed = pack_tokens(tokens)
    house.ingest.apply(SEAT, Stored((1,), None, packed, PAGE, salt="tenant"))
    house.ingest.apply(SEAT, Stored((1,), None, packed, PAGE, Tier.CPU))
    house.ingest.apply(SEAT, Removed((1,)))

    def slower(salt: str | None) -> int:
        hashes = house.hasher.hashes(packed, root_hash(7, "tiny", None, salt), PAGE)
        return int(house.index.match(hashes, np.array([SEAT])).slower[0])

    assert (slower("tenant"), slower(None)) == (1, 0)
    house.ingest.apply(SEAT, Removed((1,), Tier.CPU))
    assert slower("tenant") == 0
