"""What is told of a finished request: its receipt, and its log line."""

from __future__ import annotations

from router.gateway.exchange import Exchange
from router.gateway.receipts import Receipt
from router.index.accuracy import Verdict
from router.metrics import Outcome
from router.policy.split import Split


def receipt_of(exchange: Exchange, outcome: Outcome, verdict: Verdict | None, now_seconds: float) -> Receipt:
    prompt = exchange.prompt
    usage = exchange.usage if exchange.donor is None else exchange.donor.usage
    first_token = exchange.first_token_seconds
    return Receipt(
        request_id=exchange.id,
        client_request_id=exchange.client_id,
        endpoint=exchange.endpoint.value,
        model=exchange.model,
        received_at_wall_seconds=exchange.arrived_wall_seconds,
        outcome=outcome,
        status=exchange.status,
        total_seconds=now_seconds - exchange.arrived_seconds,
        ttft_seconds=first_token - exchange.arrived_seconds if first_token is not None else None,
        held_seconds=exchange.held_seconds,
        prompt_tokens=prompt.total_tokens if prompt is not None else None,
        token_source=exchange.token_source,
        unpredicted=prompt.unpredicted.value if prompt is not None and prompt.unpredicted is not None else None,
        decision=exchange.decision,
        opinion=exchange.opinion,
        attempts=tuple(exchange.attempts),
        reported_cached_tokens=usage.cached_tokens if usage is not None else None,
        verdict=verdict,
        fault=exchange.fault.message if exchange.fault is not None else None,
    )


def log_line(receipt: Receipt) -> dict[str, object]:
    """The log line of a finished request, with its decision and why."""
    decision = receipt.decision
    return {
        "request_id": receipt.request_id,
        "client_request_id": receipt.client_request_id,
        "outcome": receipt.outcome,
        "status": receipt.status,
        "endpoint": receipt.endpoint,
        "model": receipt.model,
        "replica": decision.replica if decision is not None else None,
        "prefill_replica": decision.prefill.replica if isinstance(decision, Split) else None,
        "policy": decision.policy if decision is not None else None,
        "why": decision.reason if decision is not None else None,
        "attempts": sum(attempt.leg != "prefill" for attempt in receipt.attempts),  # two legs are one attempt
        "prompt_tokens": receipt.prompt_tokens,
        "predicted_cached_tokens": decision.predicted_cached_tokens if decision is not None else None,
        "reported_cached_tokens": receipt.reported_cached_tokens,
        "held_seconds": receipt.held_seconds,
        "ttft_seconds": receipt.ttft_seconds,
        "total_seconds": receipt.total_seconds,
        "fault": receipt.fault,
    }
