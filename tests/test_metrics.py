from __future__ import annotations

from prometheus_client import generate_latest

from router.metrics import Metrics


def shown(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_the_documented_names_are_there() -> None:
    metrics = Metrics()
    metrics.requests.add("m", "r0", "ok")
    metrics.ttft.observe(metrics.ttft.row("m"), 0.03)
    metrics.inter_token.observe(metrics.inter_token.row("m"), 0.03)
    metrics.decision.observe(metrics.decision.row("cache_aware"), 0.00003)
    metrics.judged.add("r0", "exact")
    text = shown(metrics)
    for line in (
        'homing_requests_total{model="m",outcome="ok",replica="r0"} 1.0',
        'homing_time_to_first_token_seconds_bucket{le="0.025",model="m"} 0.0',
        'homing_time_to_first_token_seconds_bucket{le="0.05",model="m"} 1.0',
        'homing_time_to_first_token_seconds_count{model="m"} 1.0',
        'homing_inter_token_seconds_sum{model="m"} 0.03',
        'homing_decision_seconds_bucket{le="5e-05",policy="cache_aware"} 1.0',
        'homing_judged_requests_total{replica="r0",verdict="exact"} 1.0',
    ):
        assert line in text, line
