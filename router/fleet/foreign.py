"""Load on a replica that is not ours: what others send there past this router, told by the replica's own figures.

A replica tells how many requests it runs and lets wait; our leases say how many of them we sent. Both are right, but
not of the same moment, and the difference of two moments is not a number of requests. What is known of the lag:

* The figures were taken before the answer came: at the end of some scheduler step. A step with a long prefill takes
  seconds, and no figure changes meanwhile; an engine that rests keeps what its last step left.
* A lease opens before the request is on its way, and closes when its last byte has come; a client that hung up is off
  our books at once, and on the engine's until its next step.

So the figures may speak of any moment since some time before we asked, and they are held against the *most* leases that
were open at one time in that window, not against those open now: in doubt a request is ours. The window reaches back to
the scrape before the last one, so that a figure one whole round old is covered. What is left over is foreign. It errs
low: while our own load swings, foreign load hides in the swing; it never invents any out of requests of ours that have
just begun or ended.

Only *open requests* are taken from it, not queued tokens. A queue is told in requests, or (SGLang) in tokens that our
own leases are charged with too; how many of them were ours at the moment they were counted cannot be told, so a prefill
of ours would be charged twice for a round, and a price in seconds would act on it. An open request costs little in a
price (half a millisecond), spreads equals, and is what the fewest-open rules compare: an error of a round is harmless.

A body of several prompts or choices is one lease and several requests to the engine. The rest of them is counted as
foreign, which is what it is: work our leases do not tell of.

What other routers tell of their own leases (`Ledger.peers`) is known, so it is no more foreign than ours: it stands in
the same peaks. It comes some tens of milliseconds late, so a request of theirs that a scrape overtook is foreign until
the next one: it counts twice for a round, in open requests alone.
"""

from __future__ import annotations

from collections import deque

from router.fleet.ledger import Ledger
from router.fleet.replica import Seat

WINDOW_SCRAPES = 2

# A preference must not become a refusal: what we only infer may never fill a replica's places by itself.
LARGEST_SHARE_OF_PLACES = 0.5


class Foreign:
    """One replica's foreign load, into the ledger. Changed by the replica's scrapes only."""

    def __init__(self, seat: Seat, ledger: Ledger, places: int) -> None:
        """`places`: how many requests may be open on the replica."""
        self._seat = seat
        self._ledger = ledger
        self.heed(places)
        self._peaks: deque[int] = deque(maxlen=WINDOW_SCRAPES)

    def heed(self, places: int) -> None:
        """Another cap from now on."""
        self._most = int(places * LARGEST_SHARE_OF_PLACES)

    def told(self, requests: int) -> int:
        """The replica's own count of running and waiting requests has just come. What of it is foreign."""
        self._peaks.append(self._ledger.take_peak(self._seat))
        foreign = min(max(0, requests - max(self._peaks)), self._most)
        self._ledger.foreign(self._seat, foreign)
        return foreign

    def silent(self) -> None:
        """The replica did not tell this time: what it told before is not believed any longer."""
        self._peaks.append(self._ledger.take_peak(self._seat))
        self._ledger.foreign(self._seat, 0)
