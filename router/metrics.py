"""Every metric Homing shows, by name (R 6.3). One registry per process, passed in; the default one is never used.

Counting with the client library costs more than relaying a header, so counters and histograms keep their own numbers
and are handed to the library only when someone scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Outcome(StrEnum):
    """How a request ended, as the client saw it."""

    OK = "ok"
    CLIENT_ERROR = "client_error"
    UPSTREAM_ERROR = "upstream_error"
    NO_REPLICA = "no_replica"
    OVERLOAD = "overload"
    TIMEOUT = "timeout"
    CLIENT_GONE = "client_gone"


TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
ITL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
REGRET_BUCKETS = (0.0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
DECISION_BUCKETS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.05)


class Tally:
    """A counter with labels. `add` costs one dict lookup and an addition."""

    def __init__(self, name: str, documentation: str, *labels: str) -> None:
        self.name = name
        self.documentation = documentation
        self.labels = labels
        self._counts: dict[tuple[str, ...], float] = {}

    def add(self, *values: str, count: float = 1) -> None:
        """Count for these label values, one for each label, in their order."""
        counts = self._counts
        counts[values] = counts.get(values, 0) + count

    def forget(self, label: str, value: str) -> None:
        """Drop every series in which `label` is `value`."""
        if label in self.labels:
            at = self.labels.index(label)
            self._counts = {values: count for values, count in self._counts.items() if values[at] != value}

    def family(self) -> CounterMetricFamily:
        family = CounterMetricFamily(self.name, self.documentation, labels=self.labels)
        for values, count in self._counts.items():
            family.add_metric(values, count)
        return family


class Histogram:
    """Buckets of seconds with one label. `observe` costs a bisection and two additions."""

    def __init__(self, name: str, documentation: str, label: str, buckets: tuple[float, ...]) -> None:
        self.name = name
        self.documentation = documentation
        self.label = label
        self.buckets = buckets
        self._rows: dict[str, list[float]] = {}  # per label value: counts per bucket, then +Inf, then the sum

    def row(self, value: str) -> list[float]:
        """The counts of one label value; hold it while a stream lasts and `observe` into it."""
        found = self._rows.get(value)
        if found is None:
            found = self._rows[value] = [0.0] * (len(self.buckets) + 2)
        return found

    def observe(self, row: list[float], seconds: float) -> None:
        row[bisect_left(self.buckets, seconds)] += 1
        row[-1] += seconds

    def family(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(self.name, self.documentation, labels=[self.label])
        for value, row in self._rows.items():
            total = 0.0
            cumulative: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, self.buckets), "+Inf"), row, strict=False):
                total += count
                cumulative.append((bound, total))
            family.add_metric([value], cumulative, row[-1])
        return family


class Metrics:
    """All counters of one process. `gauges` are read when scraped, from the rooms that own the numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Tally("homing_requests", "Finished requests.", "model", "replica", "outcome")
        self.prompt_tokens = Tally("homing_prompt_tokens", "Prompt tokens of forwarded requests.", "model")
        self.predicted = Tally(
            "homing_cached_tokens_predicted", "Prompt tokens predicted to be cached where they were sent.", "model"
        )
        self.reported = Tally(
            "homing_cached_tokens_reported", "Prompt tokens the replicas reported as cached.", "model"
        )
        self.judged = Tally(
            "homing_judged_requests", "Requests whose prediction was held against the report.", "replica", "verdict"
        )
        self.unpredicted = Tally("homing_unpredicted", "Requests routed without a prediction.", "cause")
        self.unjudged = Tally("homing_unjudged", "Finished requests that could not be judged.", "cause")
        self.splices = Tally("homing_splices", "Edits made to a client's body (R 1.1).", "splice")
        self.retries = Tally("homing_retries", "Attempts after the first.", "replica", "reason")
        self.splits = Tally("homing_splits", "Requests split over two replicas, and why.", "model", "rule")
        self.leg_ends = Tally("homing_legs", "Ends of the legs of split requests.", "replica", "leg", "outcome")
        self.legs = Histogram(
            "homing_leg_seconds",
            "Of split requests: prefill, sent to computed; handover, computed to the first token of the other replica.",
            "leg",
            TTFT_BUCKETS,
        )
        self.events = Tally("homing_kv_events", "KV event batches and what became of them.", "replica", "outcome")
        self.shared = Tally("homing_shared_messages", "Messages between routers, and what became of them.", "outcome")
        self.warm_index = Tally(
            "homing_warm_index", "What routers told each other of replicas' caches, and what became of it.", "outcome"
        )
        self.reloads = Tally("homing_reloads", "Reloads of the configuration, and what became of them.", "outcome")
        self.ttft = Histogram(
            "homing_time_to_first_token_seconds",
            "Request read to first token, as the client sees it.",
            "model",
            TTFT_BUCKETS,
        )
        self.inter_token = Histogram(
            "homing_inter_token_seconds", "Between streamed chunks that carry tokens.", "model", ITL_BUCKETS
        )
        self.decision = Histogram(
            "homing_decision_seconds", "Choosing a replica, prompt hashes at hand.", "policy", DECISION_BUCKETS
        )
        self.shadow_decisions = Tally(
            "homing_shadow_decisions", "Decisions shown to the shadow policy, by whether it agrees.", "shadow", "agree"
        )
        self.shadow_faults = Tally("homing_shadow_faults", "Decisions on which the shadow policy failed.", "shadow")
        self.shadow_regret = Histogram(
            "homing_shadow_regret_seconds",
            "Where the shadow disagrees, what the other policy's choice costs more as the judge prices it.",
            "judge",
            REGRET_BUCKETS,
        )
        self.gauges: list[Callable[[], Iterable[Metric]]] = []
        self.registry.register(_Scraped(self))

    def forget_replica(self, replica: str) -> None:
        """A replica is gone, and its series with it (R 6.3)."""
        for own in vars(self).values():
            if isinstance(own, Tally):
                own.forget("replica", replica)


class _Scraped(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for own in vars(self._metrics).values():
            if isinstance(own, Tally | Histogram):
                yield own.family()
        for read in self._metrics.gauges:
            yield from read()


def gauge_family(name: str, documentation: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    """A gauge whose samples are computed at the moment of the scrape."""
    return GaugeMetricFamily(name, documentation, labels=list(labels))
