from __future__ import annotations

from router.events.kinds import Stored
from router.events.orphans import Orphans
from router.prompt.blocks import pack_tokens


def run(parent: int, *names: int) -> Stored:
    return Stored(names, parent, pack_tokens(range(2 * len(names))), 2)


def test_runs_come_back_with_which_of_their_blocks_are_still_held() -> None:
    orphans = Orphans(100)
    orphans.add(run(1, 2, 3))
    assert 1 in orphans
    assert orphans.waits((5, 1)) == [1]
    assert orphans.remove(3)
    assert not orphans.remove(3)
    assert orphans.take(1) == [(run(1, 2, 3), (True, False))]
    assert not orphans
    assert orphans.blocks == 0


def test_each_copy_of_a_waiting_block_is_removed_by_itself() -> None:
    orphans = Orphans(100)
    orphans.add(run(1, 2))
    orphans.add(run(1, 2))
    assert orphans.remove(2)
    held = [flags for _, flags in orphans.take(1)]
    assert sorted(held) == [(False,), (True,)]


def test_the_longest_waiting_go_when_there_are_too_many() -> None:
    orphans = Orphans(4)
    for parent in (10, 20, 30):
        orphans.add(run(parent, parent + 1, parent + 2))
    assert orphans.blocks == 4
    assert orphans.dropped_blocks == 2
    assert 10 not in orphans
    assert not orphans.remove(11)


def test_a_run_is_found_by_the_tokens_it_begins_with() -> None:
    orphans = Orphans(100)
    orphans.add(run(1, 2, 3))
    first = pack_tokens([0, 1])
    assert orphans.starting(first) == run(1, 2, 3)
    orphans.take(1)
    assert orphans.starting(first) is None
