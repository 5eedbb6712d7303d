from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sharing.message import MOST_LEASES, Lent, Rate, Row, Told, pack_hashes
from router.sharing.peers import MOST_PEERS, NOTHING, SILENT_SECONDS, Heard, Load, Peers


def told(
    number: int,
    *rows: tuple[str, int],
    router: str = "two",
    boot: str = "b",
    whole: bool = False,
    rates: tuple[Rate, ...] = (),
    leaving: bool = False,
) -> Told:
    """A message; each row is a replica and its open requests, of 10 queued and 100 context tokens each."""
    full = tuple(Row(replica, count, 10 * count, 100 * count) for replica, count in rows)
    return Told(router, boot, number, whole, full, rates, leaving)


def peers() -> Peers:
    return Peers("one", "b")


def test_what_all_others_have_open_is_added_up_by_replica() -> None:
    one = peers()
    assert one.fold(told(0, ("r0", 2), whole=True), 0.0) is Heard.NEW
    assert one.fold(told(0, ("r0", 3), ("r1", 1), router="three", whole=True), 0.0) is Heard.NEW
    assert one.load("r0") == Load(5, 50, 500)
    assert one.load("r1") == Load(1, 10, 100)
    assert one.take_changed() == {"r0", "r1"}
    assert one.fold(told(1, ("r0", 0)), 0.1) is Heard.KNOWN
    assert (one.load("r0"), one.take_changed()) == (Load(3, 30, 300), {"r0"})


def test_our_own_messages_come_back_and_are_not_counted() -> None:
    one = peers()
    assert one.fold(told(0, ("r0", 2), router="one", whole=True), 0.0) is Heard.OWN
    assert (len(one), one.load("r0")) == (0, NOTHING)


def test_a_router_killed_outright_leaves_no_load_once_it_has_been_silent() -> None:
    one = peers()
    one.fold(told(0, ("r0", 2), whole=True), 10.0)
    assert one.expire(10.0 + SILENT_SECONDS - 0.01) == []
    (gone,) = one.expire(10.0 + SILENT_SECONDS)
    assert (gone.router, one.load("r0"), len(one)) == ("two", NOTHING, 0)
    assert SILENT_SECONDS < 5.0


def test_a_router_that_speaks_again_after_its_silence_is_new_and_counts_again() -> None:
    one = peers()
    one.fold(told(0, ("r0", 2), whole=True), 0.0)
    one.expire(100.0)
    assert one.fold(told(9, ("r0", 1)), 100.1) is Heard.NEW
    assert (one.load("r0").requests, one.all()[0].torn) == (1, True)


def test_a_restarted_router_is_another_and_the_old_one_falls_silent() -> None:
    one = peers()
    one.fold(told(50, ("r0", 2), whole=True), 0.0)
    assert one.fold(told(0, ("r0", 1), boot="c", whole=True), 2.0) is Heard.NEW
    assert one.load("r0").requests == 3
    one.expire(SILENT_SECONDS)
    assert one.load("r0").requests == 1


def test_after_a_gap_rows_told_since_are_right_and_the_next_whole_message_mends_the_rest() -> None:
    one = peers()
    one.fold(told(0, ("r0", 2), ("r1", 5), whole=True), 0.0)
    assert one.fold(told(2, ("r0", 1)), 0.1) is Heard.GAP  # number 1 said that r1 is idle
    assert one.all()[0].torn
    assert (one.load("r0").requests, one.load("r1").requests) == (1, 5)
    assert one.fold(told(3, ("r0", 1), whole=True), 1.0) is Heard.KNOWN
    assert not one.all()[0].torn
    assert (one.load("r1"), one.all()[0].gaps) == (NOTHING, 1)


def test_a_message_told_before_changes_nothing_and_keeps_nobody_alive() -> None:
    one = peers()
    one.fold(told(5, ("r0", 2), whole=True), 0.0)
    for number in (5, 4):
        assert one.fold(told(number, ("r0", 9), whole=True), 1.0) is Heard.OLD
    assert one.load("r0").requests == 2
    assert len(one.expire(SILENT_SECONDS)) == 1


def test_a_router_that_leaves_takes_its_load_with_it_at_once() -> None:
    one = peers()
    one.fold(told(0, ("r0", 2), whole=True), 0.0)
    assert one.fold(told(1, whole=True, leaving=True), 0.1) is Heard.LEFT
    assert (len(one), one.load("r0")) == (0, NOTHING)
    assert one.fold(told(0, router="four", leaving=True), 0.1) is Heard.LEFT
    assert len(one) == 0


def test_another_process_of_our_name_is_noticed_and_counted() -> None:
    one = peers()
    assert one.fold(told(0, ("r0", 2), router="one", boot="other", whole=True), 0.0) is Heard.NEW
    assert (one.has_namesake(), one.load("r0").requests) == (True, 2)


def test_more_routers_than_a_fleet_can_have_are_left_out() -> None:
    one = peers()
    for number in range(MOST_PEERS):
        one.fold(told(0, ("r0", 1), router=f"router {number}", whole=True), 0.0)
    assert one.fold(told(0, ("r0", 1), router="one too many", whole=True), 0.0) is Heard.CROWDED
    assert one.load("r0").requests == MOST_PEERS


def test_rates_of_others_are_averaged_by_what_each_has_seen_and_outlive_them() -> None:
    one = peers()
    assert one.rates() == {}
    one.fold(told(0, whole=True, rates=(Rate("m", 1000.0, 30),)), 0.0)
    one.fold(told(0, whole=True, rates=(Rate("m", 16000.0, 10),), router="three"), 0.0)
    assert one.rates() == {"m": pytest.approx(2000.0)}
    one.expire(100.0)
    assert one.rates() == {"m": pytest.approx(2000.0)}


names = st.sampled_from(["two", "three"])
replicas = st.sampled_from(["r0", "r1", "r2"])
loads = st.dictionaries(replicas, st.integers(0, 3))


@given(st.lists(st.tuples(names, loads, st.booleans(), st.booleans(), st.floats(0.0, 2.0)), max_size=30))
def test_whatever_is_lost_what_stands_after_a_whole_message_of_each_is_what_each_has(
    history: list[tuple[str, dict[str, int], bool, bool, float]],
) -> None:
    one, now = peers(), 0.0
    numbers = {"two": 0, "three": 0}
    truth: dict[str, dict[str, int]] = {"two": {}, "three": {}}
    for router, changes, whole, lost, later in history:
        now += later
        truth[router].update(changes)
        rows = truth[router] if whole else changes
        if not lost:
            one.fold(told(numbers[router], *rows.items(), router=router, whole=whole), now)
        numbers[router] += 1
        one.expire(now)
        for replica in ("r0", "r1", "r2"):
            shares = [peer.loads.get(replica, NOTHING).requests for peer in one.all()]
            assert one.load(replica).requests == sum(shares)
    for router, rows in truth.items():
        one.fold(told(numbers[router], *rows.items(), router=router, whole=True), now)
    for replica in ("r0", "r1", "r2"):
        requests = sum(rows.get(replica, 0) for rows in truth.values())
        assert one.load(replica) == Load(requests, 10 * requests, 100 * requests)
    one.expire(now + 2 * SILENT_SECONDS)
    assert (len(one), one.load("r0")) == (0, NOTHING)


def lent(lease: int, first: int = 0) -> Lent:
    return Lent(lease, "r0", 2, 32, 0, first, pack_hashes(array("Q", [1, 2])))


def test_leases_are_known_until_they_are_closed_and_a_whole_message_ends_those_it_leaves_out() -> None:
    one = peers()
    one.fold(Told("two", "b", 0, False, lent=(lent(1), lent(2), lent(3))), 0.0)
    assert one.take_leases() == {("two", "b", lease): lent(lease) for lease in (1, 2, 3)}
    one.fold(Told("two", "b", 1, False, firsts=((1, 2),), closed=(2, 9)), 0.1)
    assert one.take_leases() == {("two", "b", 1): lent(1, first=2), ("two", "b", 2): None}
    one.fold(Told("two", "b", 2, True, firsts=((1, 2),)), 0.2)
    assert one.take_leases() == {("two", "b", 3): None}
    assert one.take_leases() == {}


def test_a_router_that_falls_silent_lends_nothing() -> None:
    one = peers()
    one.fold(Told("two", "b", 0, False, lent=(lent(1),)), 0.0)
    one.take_leases()
    one.expire(SILENT_SECONDS)
    assert one.take_leases() == {("two", "b", 1): None}


def test_one_router_fills_no_more_than_its_share_of_memory() -> None:
    one = peers()
    one.fold(Told("two", "b", 0, False, lent=tuple(map(lent, range(MOST_LEASES)))), 0.0)
    one.fold(Told("two", "b", 1, False, lent=(lent(MOST_LEASES),)), 0.0)
    assert len(one.take_leases()) == MOST_LEASES
