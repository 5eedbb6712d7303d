"""What is told of open leases, and that whoever hears it all knows what `recent` knows, by grains."""

from __future__ import annotations

from array import array

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.ledger import LeaseId, Ledger
from router.fleet.replica import Facts, Replica, ReplicaId, Seat
from router.fleet.roster import Roster
from router.index.budget import Budget
from router.index.memory import MemoryIndex
from router.index.recent import GRACE_SECONDS
from router.sharing.lending import MOST_BYTES, Lending
from router.sharing.message import HASH_BYTES, MOST_LEASES

BLOCK_TOKENS = 512  # two blocks a grain


class Scene:
    def __init__(self) -> None:
        self.ledger, self.roster, self.index = Ledger(), Roster(), MemoryIndex(Budget(1 << 30))
        for number in range(2):
            seat = self.roster.join(Replica(ReplicaId(f"r{number}"), f"http://r{number}"))
            self.roster.update(seat, Facts((), BLOCK_TOKENS, 100))
            self.index.join(seat)
        self.lending = Lending(self.index.recent, self.ledger, self.roster)

    def open(self, prompt: array[int], seat: int = 0) -> LeaseId:
        lease = self.ledger.open(
            Seat(seat),
            uncached_tokens=1,
            prompt_tokens=1,
            output_tokens_estimate=1,
            streamed=True,
            now_seconds=0.0,
            prefill_ends_at_seconds=0.0,
        )
        known = int(self.index.match(prompt, np.array([seat])).expected.item())
        self.index.recent.open(lease, Seat(seat), prompt, known)
        return lease

    def close(self, lease: LeaseId) -> None:
        self.ledger.close(lease)
        self.index.recent.close(lease)


def chained(*steps: int) -> array[int]:
    return array("Q", [hash(steps[: at + 1]) & (2**64 - 1) for at in range(len(steps))])


def test_a_lease_is_told_once_by_grains_then_that_it_lends_no_more_then_that_it_is_closed() -> None:
    scene, prompt = Scene(), chained(1, 2, 3, 4, 5)
    lease = scene.open(prompt)
    (lent,), moved, closed = scene.lending.news()
    assert (lent.lease, lent.replica, lent.grain_blocks, lent.grain_tokens) == (lease, "r0", 2, 1024)
    assert (lent.hashes, lent.first, lent.rest_tokens) == ([prompt[1], prompt[3]], 0, 512)
    assert (moved, closed) == ((), ())
    assert scene.lending.news() == ((), (), ())
    scene.index.recent.first_token(lease, 1.0)
    scene.index.recent.expire(1.0 + GRACE_SECONDS)
    assert scene.lending.news() == ((), ((lease, 2),), ())
    scene.close(lease)
    assert scene.lending.news() == ((), (), (lease,))
    assert scene.lending.firsts() == ()


def test_what_the_replica_was_expected_to_hold_is_used_but_not_lent_until_it_is_inherited() -> None:
    scene = Scene()
    first = scene.open(chained(1, 2, 3, 4))
    heir = scene.open(chained(1, 2, 3, 4, 5, 6))
    lent, _, _ = scene.lending.news()
    assert {one.lease: one.first for one in lent} == {first: 0, heir: 2}
    scene.close(first)
    assert scene.lending.news() == ((), ((heir, 0),), (first,))


def test_a_request_that_came_and_went_between_two_messages_is_not_told() -> None:
    scene = Scene()
    scene.close(scene.open(chained(1, 2)))
    assert scene.lending.news() == ((), (), ())


def test_who_may_have_missed_something_is_told_all_that_is_open() -> None:
    scene = Scene()
    lease = scene.open(chained(1, 2))
    first = scene.lending.news()
    scene.lending.anew()
    assert scene.lending.news() == first
    assert scene.lending.firsts() == ((lease, 0),)


def test_one_message_is_bounded_and_the_newest_leases_are_in_it() -> None:
    scene = Scene()
    blocks = 2 * MOST_BYTES // HASH_BYTES // 4  # a quarter of a message
    leases = [scene.open(array("Q", range(at << 32, (at << 32) + blocks))) for at in range(6)]
    lent, _, _ = scene.lending.news()
    assert [one.lease for one in lent] == leases[:1:-1]
    assert scene.lending.news() == ((), (), ()), "older ones are left out for good"


def test_so_many_leases_are_told_and_no_more() -> None:
    scene = Scene()
    for at in range(MOST_LEASES + 5):
        scene.open(chained(at, at))
    lent, _, _ = scene.lending.news()
    assert len(lent) == MOST_LEASES


def test_leases_on_a_cache_that_was_cleared_lend_nothing() -> None:
    scene = Scene()
    lease = scene.open(chained(1, 2))
    scene.lending.news()
    scene.index.clear(Seat(0))
    assert scene.lending.news() == ((), ((lease, 1),), ())


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=10).map(lambda steps: chained(*steps))
steps = st.lists(st.tuples(st.sampled_from(["open", "open", "close", "tell"]), st.integers(0, 1), prompts), max_size=40)


@given(steps)
def test_who_hears_everything_expects_what_we_expect_down_to_the_last_whole_grain(
    steps: list[tuple[str, int, array[int]]],
) -> None:
    here, there = Scene(), Scene()
    known: dict[int, tuple[int, int, list[int]]] = {}
    leases: list[LeaseId] = []
    for what, seat, prompt in (*steps, ("tell", 0, chained(0)), ("tell", 1, chained(0))):
        if what == "open":
            leases.append(here.open(prompt, seat))
        elif what == "close" and leases:
            here.close(leases.pop(len(prompt) % len(leases)))
        elif what == "tell":
            lent, moved, closed = here.lending.news()
            for one in lent:
                known[one.lease] = (int(one.replica[1:]), one.grain_blocks, one.hashes)
            for lease, first in (*((one.lease, one.first) for one in lent), *moved):
                where, blocks, ends = known[lease]
                there.index.elsewhere.open(lease, Seat(where), blocks, ends[first:])
            for lease in closed:
                there.index.elsewhere.close(lease)
    for _, _, prompt in steps:
        ours = here.index.match(prompt, np.array([0, 1])).expected
        theirs = there.index.match(prompt, np.array([0, 1])).expected
        assert (theirs == ours // 2 * 2).all()
