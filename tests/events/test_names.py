from __future__ import annotations

from router.events.names import Names
from router.index.base import Tier


def test_a_name_is_known_until_its_last_copy_has_gone() -> None:
    names = Names()
    assert names.add((1, 2), (10, 20), Tier.GPU) == 2
    assert names.add((2, 3), (20, 30), Tier.GPU) == 1
    assert names.remove(2, Tier.GPU) == (20, False)
    assert names.block(2) == 20
    assert names.remove(2, Tier.GPU) == (20, True)
    assert names.block(2) is None
    assert names.remove(2, Tier.GPU) is None


def test_a_run_that_names_a_block_twice_holds_two_copies() -> None:
    names = Names()
    assert names.add((7, 7), (70, 70), Tier.GPU) == 1
    assert names.remove(7, Tier.GPU) == (70, False)
    assert names.remove(7, Tier.GPU) == (70, True)
    assert len(names) == 0


def test_tiers_keep_their_own_names_and_lend_them_for_lookup() -> None:
    names = Names()
    names.add((b"a",), (1,), Tier.GPU)
    assert names.block(b"a", Tier.CPU) == 1
    assert names.remove(b"a", Tier.CPU) is None
    names.add((b"a",), (1,), Tier.CPU)
    assert sorted(names.blocks()) == [1, 1]
    assert names.remove(b"a", Tier.GPU) == (1, True)
    assert names.block(b"a") == 1
