"""What one router knows of a cache, in parts that another goes on from: the same as having heard everything."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.events.kinds import Event, Removed, Stored
from router.events.sequence import Mark
from router.events.snapshot import (
    HASH_BYTES,
    RUN_BLOCKS,
    Malformed,
    Snapshot,
    packed,
    packed_head,
    parts,
    snapshot,
    unpacked,
    unpacked_head,
)
from router.index.base import Tier, Trust
from router.prompt.blocks import pack_tokens
from tests.events.paged_engine import PagedEngine, Request
from tests.events.test_ingest import SEAT, SIZE, House, Stream, stored

MARK = Mark(0, (1,), 1.0, None)


def told(house: House, mark: Mark = MARK) -> list[bytes]:
    """As it goes over the wire, the head last."""
    knows = house.ingest.told(SEAT)
    assert knows is not None
    lots = list(parts(knows.runs))
    return [*map(packed, lots), packed_head(mark, knows, sum(map(len, lots)))]


def read(wire: Sequence[bytes]) -> Snapshot:
    return snapshot(unpacked_head(wire[-1]), [run for part in wire[:-1] for run in unpacked(part)])


def take(house: House, wire: Sequence[bytes]) -> Mark:
    taken = read(wire)
    assert house.ingest.fits(SEAT, taken.told)
    house.ingest.borrow(SEAT, taken.told.block_size_tokens)
    for run in taken.told.runs:
        house.ingest.hold(SEAT, run)
    return taken.mark


def depths(house: House, prompts: Sequence[Sequence[int]]) -> list[tuple[int, float]]:
    """What every prompt finds there, on the GPU and right after it in slower tiers."""
    return [(house.held(house.hashes(prompt)), _slower(house, prompt)) for prompt in prompts]


def _slower(house: House, prompt: Sequence[int]) -> float:
    return float(house.index.match(house.hashes(prompt), SEATS).slower[0])


SEATS = np.array([SEAT])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["store", "store", "copy", "remove", "remove"]),
            st.integers(0, 3),  # which prompt
            st.integers(0, 4),  # from which block on
            st.integers(1, 5),  # how many
            st.sampled_from([Tier.GPU, Tier.GPU, Tier.CPU]),
        ),
        max_size=40,
    ),
    st.integers(0, 40),
)
def test_a_snapshot_and_the_rest_of_the_events_mean_the_same_as_all_events(
    happenings: list[tuple[str, int, int, int, Tier]], cut: int
) -> None:
    """Copies, holes in the middle, both tiers: at every cut the newcomer finds what the other finds, ever after."""
    prompts = [[100 * number // 2 + at // 8 for at in range(5 * SIZE)] for number in range(4)]
    events: list[Event] = []
    for kind, number, first, count, tier in happenings:
        names = tuple(1 + _content_name(prompts[number], at) for at in range(first, min(first + count, 5)))
        if not names:
            continue
        if kind == "remove":
            events.append(Removed(names, tier))
            continue
        parent = 1 + _content_name(prompts[number], first - 1) if first else None
        tokens = pack_tokens(prompts[number][first * SIZE : (first + len(names)) * SIZE])
        events.append(Stored(names, parent, tokens, SIZE, tier))
    one, two = House(), House(whole=None)
    one.hear(*events[:cut])
    if one.ingest.trust(SEAT) is not Trust.EXACT:
        assert one.ingest.told(SEAT) is None, "what is not whole is not told further"
        return
    take(two, told(one))
    assert two.ingest.trust(SEAT) is Trust.CATCHING_UP, "not proven yet"
    two.ingest.proven(SEAT)
    assert depths(two, prompts) == depths(one, prompts)
    assert two.index.held_blocks(SEAT) == one.index.held_blocks(SEAT)
    for event in events[cut:]:
        one.hear(event)
        two.hear(event)
        assert depths(two, prompts) == depths(one, prompts)
        assert two.ingest.trust(SEAT) is one.ingest.trust(SEAT)
    assert two.index.held_blocks(SEAT) == one.index.held_blocks(SEAT)


def _content_name(prompt: Sequence[int], at: int) -> int:
    return hash(tuple(prompt[: (at + 1) * SIZE])) & 0xFFFFFFFF


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(12, 60), st.sampled_from([2, 6, 20]), st.floats(0, 0.4), st.integers(0, 20))
@example(2**32, 20, 20, 0.25, 18)  # the cache is emptied between the snapshot and the replay
def test_a_newcomer_is_exact_as_soon_as_the_replay_reaches_the_snapshot_and_never_above_the_truth(
    seed: int, blocks: int, buffer_steps: int, loss: float, late_steps: int
) -> None:
    """One hears everything; the other joins when the replay has rolled, loses some batches, hears others in disorder,
    and gets a snapshot that may be so old that no replay reaches it."""
    rng = random.Random(seed)
    engine = PagedEngine(blocks, SIZE, seed=seed, buffer_steps=buffer_steps)
    one, two = House(whole=None), House(whole=None)
    first, second = Stream(one, engine), Stream(two, engine)
    first.connect()
    prompts = [[rng.randrange(3) for _ in range(rng.randrange(1, 6 * SIZE))] for _ in range(12)]
    running: list[Request] = []
    wire: list[bytes] | None = None

    def step() -> None:
        if not running and rng.random() < 0.1:
            engine.clear()
        request = engine.start(rng.choice(prompts)) if rng.random() < 0.6 else None
        if request is not None:
            running.append(request)
        elif running:
            engine.finish(running.pop(rng.randrange(len(running))), [rng.randrange(3) for _ in range(6)])
        while first.told < len(engine.batches):
            first.live(first.told)
            first.told += 1

    def hear() -> None:
        fresh = [n for n in range(second.told, len(engine.batches)) if rng.random() >= loss]
        second.told = len(engine.batches)
        rng.shuffle(fresh)
        for n in fresh:
            second.live(n)

    for _ in range(40):
        step()
    second.connect()
    second.told = len(engine.batches)
    for at in range(60):
        step()
        if at == 5:
            mark = first.sequencer.mark()
            wire = None if mark is None else told(one, mark)
        hear()
        if at == 5 + late_steps and wire is not None and not two.ingest.whole(SEAT):
            mark = read(wire).mark
            if second.sequencer.meets(mark) and not second.sequencer.contradicts(mark):
                take(two, wire)
                begins = second.begins
                second.settle(second.sequencer.resume(mark))
                reached = engine.buffer[0][0] < mark.first + len(mark.fingerprints)
                assert (second.begins == begins) == reached
                if reached:
                    two.ingest.proven(SEAT)
                    assert two.ingest.trust(SEAT) is Trust.EXACT
                    assert depths(two, prompts) == depths(one, prompts)
    engine.start([5] * SIZE * 2)
    second.live(len(engine.batches) - 1)
    exact = two.ingest.trust(SEAT) is Trust.EXACT
    for prompt in prompts:
        held, truth = two.held(two.hashes(prompt)), engine.cached_blocks(prompt)
        assert held == truth if exact else held <= truth


def test_long_chains_are_cut_into_runs_and_parts_and_come_out_whole() -> None:
    prompt = list(range(3 * RUN_BLOCKS * SIZE))
    one, two = House(), House(whole=None)
    one.hear(stored(range(1, 3 * RUN_BLOCKS + 1), None, prompt))
    wire = told(one)
    assert len(wire) == 4
    take(two, wire)
    assert two.held(two.hashes(prompt)) == 3 * RUN_BLOCKS
    two.hear(Removed((RUN_BLOCKS + 1,)))
    assert two.held(two.hashes(prompt)) == RUN_BLOCKS


def test_adapters_salts_and_names_of_bytes_come_with_it() -> None:
    prompt = list(range(2 * SIZE))
    one, two = House(), House(whole=None)
    one.hear(Stored((b"\x01" * 32, b"\x02" * 32), None, pack_tokens(prompt), SIZE, adapter="lora", salt="tenant"))
    take(two, told(one))
    assert two.held(two.hashes(prompt, adapter="lora", salt="tenant")) == 2
    assert two.held(two.hashes(prompt)) == 0
    two.hear(Removed((b"\x02" * 32,)))
    assert two.held(two.hashes(prompt, adapter="lora", salt="tenant")) == 1


def test_what_is_given_back_after_a_takeover_leaves_no_charge() -> None:
    one, two = House(), House(whole=None)
    prompt = list(range(3 * SIZE))
    one.hear(stored([1, 2, 3], None, prompt), stored([3], 2, prompt[2 * SIZE :]))
    take(two, told(one))
    two.ingest.leave(SEAT)
    while two.ingest.purge(100):
        pass
    assert two.index.used_bytes == 0


def test_what_another_router_said_is_forgotten_with_all_else() -> None:
    one, two = House(), House(whole=None)
    one.hear(stored([1], None, list(range(SIZE))))
    take(two, told(one))
    two.ingest.begin(SEAT, whole=False)
    assert two.held(two.hashes(list(range(SIZE)))) == 0
    assert two.ingest.trust(SEAT) is Trust.CATCHING_UP
    two.ingest.begin(SEAT, whole=True)
    assert two.ingest.trust(SEAT) is Trust.EXACT


@pytest.mark.parametrize("at", range(3))
def test_a_snapshot_with_a_part_missing_or_broken_is_refused_whole(at: int) -> None:
    one = House()
    one.hear(stored(range(1, 2 * RUN_BLOCKS + 1), None, list(range(2 * RUN_BLOCKS * SIZE))))
    wire = told(one)
    assert len(wire) == 3
    with pytest.raises(Malformed):
        read([part for number, part in enumerate(wire) if number != at])
    with pytest.raises(Malformed):
        read([part if number != at else part[:-1] for number, part in enumerate(wire)])


def test_names_and_hashes_that_do_not_go_together_are_refused() -> None:
    good = [Tier.GPU.value, 1, [1, 2], b"", bytes(2 * HASH_BYTES)]
    assert unpacked(msgspec.msgpack.encode([good]))
    for at, bad in ((4, bytes(HASH_BYTES)), (3, b"x"), (2, [1, 1]), (1, 0), (0, "TAPE")):
        with pytest.raises(Malformed):
            unpacked(msgspec.msgpack.encode([[*good[:at], bad, *good[at + 1 :]]]))
    with pytest.raises(Malformed):
        unpacked_head(msgspec.msgpack.encode([2, 1, 16, 0, bytes(HASH_BYTES), 1.0, None, 0]))


def test_only_who_roots_hashes_alike_fits() -> None:
    one, two = House(), House(whole=None)
    one.hear(stored([1], None, list(range(SIZE))))
    knows = read(told(one)).told
    assert two.ingest.fits(SEAT, knows)
    two.ingest.leave(SEAT)
    two.ingest.join(SEAT, "another model")
    assert not two.ingest.fits(SEAT, knows)
