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


def test_a_replica_that_is_gone_takes_its_series_with_it() -> None:
    metrics = Metrics()
    for replica in ("r0", "r1"):
        metrics.requests.add("m", replica, "ok")
        metrics.events.add(replica, "batch")
    metrics.prompt_tokens.add("r0", count=3)  # a model may be called as a replica
    metrics.forget_replica("r0")
    text = shown(metrics)
    assert 'replica="r0"' not in text
    assert 'homing_requests_total{model="m",outcome="ok",replica="r1"} 1.0' in text
    assert 'homing_prompt_tokens_total{model="r0"} 3.0' in text
