"""What this router has to tell the others, and when: rows that changed at once, everything once a second.

Asked every few tens of milliseconds, it answers with one message for all that changed since the last, or with none.
Nothing is queued, so a slow Redis costs freshness and never memory: the next message tells what is true then.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from router.fleet.ledger import Ledger
from router.fleet.rates import Rates
from router.fleet.replica import FloatArray, Seat
from router.sharing.lending import First, Lending
from router.sharing.message import MOST_MODELS, MOST_ROWS, Lent, Rate, Row, Told

WHOLE_SECONDS = 1.0

Columns = tuple[FloatArray, FloatArray, FloatArray]


class Teller:
    """Our ledger and our leases in messages. `name` gives the id of the replica on a seat that has requests of ours or
    had them."""

    def __init__(
        self, router: str, boot: str, ledger: Ledger, rates: Rates, lending: Lending, name: Callable[[Seat], str]
    ) -> None:
        self._router = router
        self._boot = boot
        self._ledger = ledger
        self._rates = rates
        self._lending = lending
        self._name = name
        self._number = 0
        self._told: Columns | None = None  # what the others know of us; None: nothing
        self._whole_at_seconds = 0.0

    def anew(self) -> None:
        """Somebody may have missed what we told: the next message is whole."""
        self._told = None

    def tell(self, now_seconds: float) -> Told | None:
        """The next message; None when there is nothing to say yet."""
        self._ledger.advance(now_seconds)
        now = self._ledger.own()
        told = self._told
        whole = told is None or now_seconds >= self._whole_at_seconds
        if told is None:
            self._lending.anew()
        news = self._lending.news()
        if told is None or whole:
            seats = np.flatnonzero((now[0] != 0) | (now[1] != 0) | (now[2] != 0))
        else:
            seats = _changed(now, told)
            if not (len(seats) or any(news)):
                return None
        if len(seats) > MOST_ROWS:  # the busiest: others are as good as idle beside them
            seats = seats[np.argsort(-now[0][seats], kind="stable")[:MOST_ROWS]]
        rows = tuple(
            Row(self._name(Seat(seat)), *(int(column.item(seat)) for column in now)) for seat in seats.tolist()
        )
        if whole:
            self._whole_at_seconds = now_seconds + WHOLE_SECONDS
        self._told = now
        return self._message(rows, *news, whole=whole)

    def farewell(self) -> Told:
        """Our last message: we have nothing open any more."""
        return self._message((), (), (), (), whole=True, leaving=True)

    def _message(
        self,
        rows: tuple[Row, ...],
        lent: tuple[Lent, ...],
        moved: tuple[First, ...],
        closed: tuple[int, ...],
        *,
        whole: bool,
        leaving: bool = False,
    ) -> Told:
        number, self._number = self._number, self._number + 1
        rates = tuple(Rate(*seen) for seen in self._rates.observed()[:MOST_MODELS]) if whole and not leaving else ()
        firsts = self._lending.firsts() if whole and not leaving else moved
        return Told(self._router, self._boot, number, whole, rows, rates, leaving, lent, firsts, closed)


def _changed(now: Columns, told: Columns) -> np.typing.NDArray[np.int64]:
    rows = len(told[0])  # columns only grow; new rows were told as nothing
    changed = np.zeros(len(now[0]), dtype=np.bool_)
    for column, before in zip(now, told, strict=True):
        changed[:rows] |= column[:rows] != before
        changed[rows:] |= column[rows:] != 0
    return np.flatnonzero(changed)
