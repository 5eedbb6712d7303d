"""Per-replica columns: numpy arrays with one row per seat, growing by doubling.

A column that grows is a new array, so whoever reads one must fetch it anew from its owner at each use
(`ledger.queued_tokens[seats]`) and never keep a reference across a join.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

FIRST_ROWS = 16

Scalar = TypeVar("Scalar", bound=np.generic)


def grown(column: npt.NDArray[Scalar], rows: int, fill: float | bool = 0) -> npt.NDArray[Scalar]:
    """`column` itself when it has at least `rows` rows, else a copy at least twice as long, new rows holding `fill`."""
    if len(column) >= rows:
        return column
    longer = np.full(max(rows, 2 * len(column), FIRST_ROWS), fill, dtype=column.dtype)
    longer[: len(column)] = column
    return longer
