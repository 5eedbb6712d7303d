"""What a stream leaves behind for whoever must explain a miss: its pulse, its last removals, and what it lost."""

from __future__ import annotations

from router.events.kinds import Removed, Stored
from router.index.base import Trust
from router.prompt.blocks import pack_tokens
from tests.events.test_ingest import PROMPT, SEAT, SIZE, House, part, stored


def test_a_pulse_tells_what_happened_in_between() -> None:
    house = House()
    before = house.ingest.pulse(SEAT)
    house.hear(stored([1, 2], None, part(0, 2)), Removed((2,)))
    after = house.ingest.pulse(SEAT)
    assert before is not None
    assert after is not None
    assert (after.story - before.story, after.stored - before.stored, after.removed - before.removed) == (0, 2, 1)
    house.ingest.begin(SEAT, whole=True)
    again = house.ingest.pulse(SEAT)
    assert again is not None
    assert again.story == after.story + 1


def test_a_replica_without_a_story_has_no_pulse() -> None:
    assert House(whole=None).ingest.pulse(SEAT) is None


def test_removals_are_remembered_since_a_pulse() -> None:
    house = House()
    hashes = house.hashes(PROMPT)
    house.hear(stored([1, 2, 3], None, part(0, 3)), Removed((3,)))
    pulse = house.ingest.pulse(SEAT)
    house.hear(Removed((2,)))
    assert house.ingest.removed_since(SEAT, pulse, [hashes[1]])
    assert not house.ingest.removed_since(SEAT, pulse, [hashes[2]])
    assert house.ingest.removed_since(SEAT, None, [hashes[2]])
    assert not house.ingest.removed_since(SEAT, None, [hashes[0]])


def test_only_the_last_removals_are_remembered() -> None:
    house = House()
    hashes = house.hashes(PROMPT)
    house.hear(stored([1], None, part(0, 1)), Removed((1,)))
    for round_ in range(4096):
        other = [7, 7, 7, round_]
        house.hear(stored([2], None, other), Removed((2,)))
    assert not house.ingest.removed_since(SEAT, None, [hashes[0]])


def test_a_story_says_what_it_lost_until_it_is_trusted_again() -> None:
    house = House()
    assert house.ingest.lost(SEAT) is None
    house.hear(stored([9], 8, part(3, 4)))
    assert house.ingest.trust(SEAT) is Trust.CATCHING_UP
    assert house.ingest.lost(SEAT) == "blocks were stored below one never heard of"
    house.ingest.begin(SEAT, whole=True)
    assert house.ingest.lost(SEAT) is None
    house.ingest.begin(SEAT, whole=False, lost="a gap")
    assert house.ingest.lost(SEAT) == "a gap"


def test_who_joined_late_has_lost_nothing() -> None:
    house = House(whole=False)
    house.hear(stored([9], 8, part(3, 4)))
    assert house.ingest.lost(SEAT) is None


def test_a_prompt_can_be_looked_up_as_if_it_had_no_salt() -> None:
    house = House()
    tokens = pack_tokens(PROMPT)
    house.hear(Stored((1, 2), None, pack_tokens(part(0, 2)), SIZE))
    assert house.held(house.hashes(PROMPT, salt="tenant")) == 0
    assert house.ingest.plain_blocks(SEAT, tokens, SIZE) == 2
