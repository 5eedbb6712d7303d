"""Columns that grow."""

from __future__ import annotations

import numpy as np

from router.fleet.columns import grown


def test_a_column_with_room_is_left_alone() -> None:
    column = np.zeros(4)
    assert grown(column, 4) is column


def test_growing_doubles_keeps_the_rows_and_fills_the_new_ones() -> None:
    column = np.arange(20)
    longer = grown(column, 21, fill=-1)
    assert len(longer) == 40
    assert longer[:20].tolist() == column.tolist()
    assert set(longer[20:].tolist()) == {-1}
    assert longer.dtype == column.dtype
    assert len(grown(column, 1000)) == 1000
