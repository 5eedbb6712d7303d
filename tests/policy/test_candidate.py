"""Rows and columns are two views of the same replicas."""

from __future__ import annotations

from random import Random

from router.fleet.replica import ReplicaId, Seat
from router.index.base import Trust
from router.policy.candidate import Candidate, id_keys
from tests.policy.makers import candidate, columns


def test_a_row_read_back_is_the_row_put_in() -> None:
    rng = Random(5)
    rows = [
        Candidate(
            ReplicaId(f"r{seat}"), Seat(seat), rng.randrange(99), rng.randrange(9), 100 + rng.randrange(9), 7.0 * seat,
            seat, 3.0, 5.0 * seat, 2.0 * seat, 300_000.0, 8_000.0 + seat, rng.choice(list(Trust)), 0.5, seat % 2 == 0,
        )
        for seat in range(6)
    ]  # fmt: skip
    read = columns(*reversed(rows))
    assert [read.row(row) for row in range(6)] == rows


def test_rows_stand_in_ascending_order_of_seat() -> None:
    assert columns(candidate(7), candidate(2), candidate(4)).ids == ("r2", "r4", "r7")


def test_what_is_expected_is_never_less_than_what_is_held() -> None:
    assert columns(candidate(0, matched_tokens=64, expected_tokens=16)).expected_tokens.tolist() == [64]


def test_the_key_of_an_id_is_the_same_in_every_process() -> None:
    assert id_keys([ReplicaId("r0"), ReplicaId("r1")]).tolist() == [15298520411421994212, 13871930324756293459]
