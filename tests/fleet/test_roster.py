"""Seats, what replicas told, and which models they serve."""

from __future__ import annotations

import numpy as np
import pytest

from router.errors import UnknownModel
from router.fleet.replica import Facts, Replica, ReplicaId, Seat, ServedModel
from router.fleet.roster import Changes, Roster

QWEN = ServedModel("qwen", base="qwen")
LORA = ServedModel("sql", base="qwen", adapter="sql")
LLAMA = ServedModel("llama", base="llama")


def replica(name: str, port: int = 8000) -> Replica:
    return Replica(ReplicaId(name), f"http://{name}:{port}")


def told(*models: ServedModel, block_size: int | None = 16, start: float | None = 1000.0) -> Facts:
    return Facts(models=models, block_size_tokens=block_size, process_start_time=start)


def test_a_returning_replica_gets_its_old_seat_and_no_other_replica_ever_does() -> None:
    roster = Roster()
    a = roster.join(replica("a"))
    roster.leave(ReplicaId("a"))
    b = roster.join(replica("b"))
    assert b != a
    assert roster.join(replica("a")) == a
    assert roster.present() == [a, b]
    assert roster.seat_of(ReplicaId("never")) is None


def test_a_released_seat_goes_to_the_next_that_joins_and_what_its_models_were_stays_known() -> None:
    roster = Roster()
    a, b = roster.join(replica("a")), roster.join(replica("b"))
    roster.update(a, told(QWEN))
    roster.leave(ReplicaId("a"))
    roster.release(a)
    assert roster.models() == (QWEN,)
    assert roster.seat_of(ReplicaId("a")) is None
    assert roster.join(replica("c")) == a
    assert roster.facts(a) == Facts()
    assert roster.join(replica("a")) not in (a, b)


def test_leaving_twice_or_never_having_come_is_nothing() -> None:
    roster = Roster()
    seat = roster.join(replica("a"))
    version = roster.version
    assert roster.leave(ReplicaId("b")) is None
    assert roster.version == version
    assert roster.leave(ReplicaId("a")) == seat
    assert roster.leave(ReplicaId("a")) is None


def test_until_a_replica_has_told_its_models_it_serves_the_configured_ones() -> None:
    roster = Roster([QWEN])
    seat = roster.join(replica("a"))
    assert roster.serving("qwen").tolist() == [seat]
    roster.update(seat, told(LLAMA))
    assert roster.serving("qwen").tolist() == []
    assert roster.serving("llama").tolist() == [seat]


def test_serving_follows_joins_leaves_and_updates() -> None:
    roster = Roster()
    a, b = roster.join(replica("a")), roster.join(replica("b"))
    roster.update(a, told(QWEN, LORA))
    roster.update(b, told(QWEN))
    assert roster.serving("qwen").tolist() == [a, b]
    assert roster.serving_ids("qwen") == ("a", "b")
    assert roster.serving("sql").tolist() == [a]
    assert roster.serving("qwen") is roster.serving("qwen")
    roster.leave(ReplicaId("a"))
    assert roster.serving("qwen").tolist() == [b]
    assert roster.serving_ids("qwen") == ("b",)


def test_the_shared_answer_cannot_be_written_to() -> None:
    roster = Roster([QWEN])
    roster.join(replica("a"))
    with pytest.raises(ValueError):
        roster.serving("qwen")[0] = 7


def test_an_unknown_model_names_the_known_ones() -> None:
    roster = Roster([QWEN])
    roster.update(roster.join(replica("a")), told(LLAMA))
    with pytest.raises(UnknownModel, match=r"`gpt` does not exist here\. Known models: llama, qwen\."):
        roster.serving("gpt")


def test_a_model_outlives_its_last_replica() -> None:
    roster = Roster()
    roster.update(roster.join(replica("a")), told(QWEN))
    roster.leave(ReplicaId("a"))
    assert roster.models() == (QWEN,)
    assert len(roster.serving("qwen")) == 0


def test_an_unloaded_adapter_is_unknown_again() -> None:
    roster = Roster()
    seat = roster.join(replica("a"))
    roster.update(seat, told(QWEN, LORA))
    assert roster.update(seat, told(QWEN)) == Changes(models=True, other=True)
    with pytest.raises(UnknownModel):
        roster.serving("sql")


def test_a_present_replicas_word_about_a_model_counts_before_a_departed_ones() -> None:
    roster = Roster()
    roster.update(roster.join(replica("a")), told(ServedModel("qwen", base="old")))
    roster.update(roster.join(replica("b")), told(ServedModel("qwen", base="new")))
    assert roster.served("qwen").base == "old"
    roster.leave(ReplicaId("a"))
    assert roster.served("qwen").base == "new"


def test_block_sizes_are_the_distinct_ones_of_the_models_present_replicas() -> None:
    roster = Roster()
    for name, size in (("a", 16), ("b", 16), ("c", 32), ("d", None)):
        roster.update(roster.join(replica(name)), told(QWEN, block_size=size))
    assert roster.block_sizes("qwen") == {16, 32}
    roster.leave(ReplicaId("c"))
    assert roster.block_sizes("qwen") == {16}


def test_what_a_replica_does_not_say_again_stays_known() -> None:
    roster = Roster()
    seat = roster.join(replica("a"))
    roster.update(seat, told(QWEN))
    assert not roster.update(seat, Facts())
    assert roster.facts(seat) == told(QWEN)


def test_a_changed_start_time_is_a_restart_and_a_first_one_is_not() -> None:
    roster = Roster()
    seat = roster.join(replica("a"))
    assert not roster.update(seat, told(QWEN)).restarted
    assert not roster.update(seat, told(QWEN, start=1000.5)).restarted
    assert roster.update(seat, told(QWEN, start=1060.0)).restarted


def test_a_new_address_is_a_new_process_whose_facts_are_unknown() -> None:
    roster = Roster()
    seat = roster.join(replica("a"))
    roster.update(seat, told(QWEN))
    assert roster.join(replica("a", port=9000)) == seat
    assert roster.facts(seat) == Facts()


def test_the_version_grows_with_every_change_and_only_then() -> None:
    roster = Roster()
    versions = [roster.version]
    seat = roster.join(replica("a"))
    versions.append(roster.version)
    roster.update(seat, told(QWEN))
    versions.append(roster.version)
    roster.leave(ReplicaId("a"))
    versions.append(roster.version)
    assert versions == sorted(set(versions))
    roster.join(replica("a"))
    settled = roster.version
    roster.join(replica("a"))
    roster.update(seat, told(QWEN))
    assert roster.version == settled


def test_ids_are_told_in_the_order_asked() -> None:
    roster = Roster()
    for name in "abc":
        roster.join(replica(name))
    assert roster.ids(np.array([2, 0])) == ("c", "a")
    assert roster.replica(Seat(1)) == replica("b")
    assert roster.is_present(Seat(1))
