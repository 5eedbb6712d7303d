"""How true the predictions are, as others see it: metrics at a scrape, and a replica's part of GET /homing/replicas."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric

from router.fleet.replica import Seat
from router.fleet.roster import Roster
from router.gateway.misses import Misses
from router.index.accuracy import ERROR_BOUNDS, Accuracy
from router.metrics import gauge_family

# Names of the buckets of signed errors, for people.
ERROR_BUCKETS = (*(f"<={bound}" for bound in ERROR_BOUNDS), f">{ERROR_BOUNDS[-1]}")


def truth_families(roster: Roster, accuracy: Accuracy, misses: Misses) -> Iterable[Metric]:
    """How far reports were from predictions, and why, for the replicas that are here."""
    errors = HistogramMetricFamily(
        "homing_prediction_error_blocks",
        "Reported less predicted cached tokens of judged requests, in blocks, signed.",
        labels=["replica"],
    )
    causes = CounterMetricFamily(
        "homing_mispredicted", "Judged requests that were not exact, by cause.", labels=["replica", "cause"]
    )
    suspicions = gauge_family(
        "homing_suspicion", "1 for what a replica that is not believed is suspected of.", ("replica", "cause")
    )
    for seat in roster.present():
        name = roster.replica(seat).id
        buckets = zip((*map(str, ERROR_BOUNDS), "+Inf"), accumulate(accuracy.errors(seat)), strict=True)
        errors.add_metric([name], list(buckets), float(accuracy.error_blocks[seat]))
        for cause, count in accuracy.causes(seat).items():
            causes.add_metric([name, cause.value], count)
        found = misses.suspicion(seat)
        if found is not None:
            suspicions.add_metric([name, found.cause.value], 1.0)
    return (errors, causes, suspicions)


def truth_entry(accuracy: Accuracy, misses: Misses, seat: Seat) -> dict[str, object]:
    """What the answers showed of one replica."""
    found = misses.suspicion(seat)
    return {
        "judged": int(accuracy.judged[seat]),
        "exact": int(accuracy.exact[seat]),
        "missed": {cause.value: count for cause, count in accuracy.causes(seat).items()},
        "unjudged": {reason.value: int(column[seat]) for reason, column in accuracy.unjudged.items() if column[seat]},
        "error_blocks": {
            bucket: count for bucket, count in zip(ERROR_BUCKETS, accuracy.errors(seat), strict=True) if count
        },
        "habit_blocks": accuracy.habit_blocks(seat),
        "confirmed_ratio": accuracy.confirmed(seat),
        "suspicion": None
        if found is None
        else {"cause": found.cause.value, "misses": found.misses, "judged": found.judged, "says": found.says},
    }
