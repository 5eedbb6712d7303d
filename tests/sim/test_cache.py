"""vLLM's paged prefix cache, rule by rule."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from router.sim.cache import BlockPool, Chain, Namespace
from router.sim.wire import AllBlocksCleared, BlockRemoved, BlockStored

SIZE = 4


def pool(usable: int = 8) -> BlockPool:
    return BlockPool(usable + 1, SIZE, b"root")


def chain(tokens: Iterable[int], adapter: str | None = None, salt: str | None = None) -> Chain:
    return Chain(bytearray(array("I", tokens).tobytes()), Namespace(adapter, None, salt))


def fill(cache: BlockPool, new: Chain) -> int:
    """Let a chain in with its hits and compute all of it; the blocks that hit."""
    hits = cache.hit(new)
    assert cache.allocate(new, new.token_count, hits)
    return len(hits)


def use(cache: BlockPool, tokens: Iterable[int], adapter: str | None = None, salt: str | None = None) -> int:
    new = chain(tokens, adapter, salt)
    hits = fill(cache, new)
    cache.free(new)
    return hits


def test_a_block_hits_while_the_request_that_fills_it_still_runs() -> None:
    cache = pool()
    fill(cache, chain(range(9)))
    assert len(cache.hit(chain(range(9)))) == 2


def test_a_prompt_of_whole_blocks_computes_its_last_one_into_a_second_copy() -> None:
    cache = pool()
    assert [use(cache, range(8)) for _ in range(2)] == [0, 1]
    first, second = cache.take_events()
    assert isinstance(first, BlockStored)
    assert isinstance(second, BlockStored)
    assert second.block_hashes == first.block_hashes[1:]
    assert second.parent_block_hash == first.block_hashes[0]
    assert cache.cached_copies == 3


def test_each_copy_is_removed_by_its_own_event() -> None:
    cache = pool(usable=3)
    use(cache, range(8))
    use(cache, range(8))
    stored = cache.take_events()[0]
    assert isinstance(stored, BlockStored)
    use(cache, range(100, 112))
    removed = [event.block_hashes[0] for event in cache.take_events() if isinstance(event, BlockRemoved)]
    assert sorted(removed) == sorted([*stored.block_hashes, stored.block_hashes[1]])


def test_the_tail_of_a_prompt_is_evicted_before_its_head() -> None:
    cache = pool(usable=3)
    use(cache, range(12))
    use(cache, range(100, 104))
    assert len(cache.hit(chain(range(12)))) == 2


def test_a_removal_is_told_before_the_store_that_needed_the_room() -> None:
    cache = pool(usable=2)
    use(cache, range(8))
    cache.take_events()
    use(cache, range(100, 104))
    assert [type(event) for event in cache.take_events()] == [BlockRemoved, BlockStored]


def test_a_block_without_a_name_is_taken_before_any_cached_one() -> None:
    cache = pool(usable=3)
    use(cache, range(9))  # two full blocks and one begun
    cache.take_events()
    use(cache, range(100, 104))
    assert [type(event) for event in cache.take_events()] == [BlockStored]


def test_a_hit_says_nothing_but_keeps_the_block_from_being_evicted() -> None:
    cache = pool(usable=3)
    use(cache, range(4))
    use(cache, range(100, 104))
    kept = chain(range(5))
    assert fill(cache, kept) == 1
    cache.free(kept)
    cache.take_events()
    use(cache, range(200, 208))
    assert len(cache.hit(chain(range(5)))) == 1


def test_a_salt_marks_the_first_block_and_an_adapter_every_one() -> None:
    cache = pool()
    use(cache, range(8), salt="tenant", adapter="lora")
    (stored,) = cache.take_events()
    assert isinstance(stored, BlockStored)
    assert stored.extra_keys == [["lora", "tenant"], ["lora"]]
    assert not cache.hit(chain(range(9)))
    assert not cache.hit(chain(range(9), adapter="lora"))
    assert len(cache.hit(chain(range(9), salt="tenant", adapter="lora"))) == 2


def test_no_two_processes_agree_on_names() -> None:
    names = []
    for root in (b"one", b"two"):
        cache = BlockPool(9, SIZE, root)
        use(cache, range(4))
        (stored,) = cache.take_events()
        assert isinstance(stored, BlockStored)
        names.append(stored.block_hashes)
    assert names[0] != names[1]


def test_a_reset_is_refused_in_use_and_leads_the_next_news() -> None:
    cache = pool()
    held = chain(range(8))
    fill(cache, held)
    assert not cache.reset()
    cache.free(held)
    cache.take_events()
    assert cache.reset()
    assert not cache.hit(chain(range(9)))
    use(cache, range(4))
    assert [type(event) for event in cache.take_events()] == [AllBlocksCleared, BlockStored]


def test_an_allocation_that_does_not_fit_changes_nothing() -> None:
    cache = pool(usable=2)
    held = chain(range(5))
    fill(cache, held)
    refused = chain(range(9))
    assert not cache.allocate(refused, 9, cache.hit(refused))
    assert (refused.blocks, cache.used_blocks) == ([], 2)
