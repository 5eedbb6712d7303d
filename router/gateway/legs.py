"""The prefill leg of a split request, in the books: an exchange of its own that no client waits for.

So its replica is charged, judged and learned from as for any request: one that wants a single token, streamed, as its
answer is the moment of its first token.
"""

from __future__ import annotations

import msgspec

from router.fleet.pairs import Pairs
from router.gateway.exchange import Exchange
from router.gateway.receipts import Tried
from router.metrics import Metrics
from router.policy.decision import Whole
from router.policy.split import Decision, Split

LARGEST_QUEUE_SHARE = 0.1  # of a hand-over, at the taker, for it to tell anything of the pair (as R 5.3)


def prefill_leg(exchange: Exchange) -> Exchange:
    """The leg's exchange, before anything is charged."""
    assert exchange.request is not None
    return Exchange(
        id=exchange.id,
        client_id=exchange.client_id,
        endpoint=exchange.endpoint,
        arrived_seconds=exchange.arrived_seconds,
        arrived_wall_seconds=exchange.arrived_wall_seconds,
        explained=False,
        model=exchange.model,
        base=exchange.base,
        adapter=exchange.adapter,
        request=msgspec.structs.replace(exchange.request, stream=True, max_output_tokens=1),
        prompt=exchange.prompt,
        token_source=exchange.token_source,
        session_key=exchange.session_key,
    )


def note_legs(exchange: Exchange, leg: Exchange, ending: str, now_seconds: float) -> None:
    """Two lines of the receipt for one attempt: how far each leg came."""
    assert leg.decision is not None
    assert exchange.decision is not None
    computed = leg.first_token_seconds
    leg.attempting = False
    told = "computed" if computed is not None else ending
    ended_seconds = computed if computed is not None else now_seconds
    exchange.attempts.append(Tried(leg.decision.replica, told, ended_seconds - leg.sent_seconds, "prefill"))
    exchange.attempts.append(Tried(exchange.decision.replica, ending, now_seconds - exchange.sent_seconds, "decode"))


def charged_alone(decision: Decision) -> Whole:
    """What is charged to the replica that answers: all there is to a whole request, the decode leg of a split one."""
    return decision.decode if isinstance(decision, Split) else decision


def handed_over(exchange: Exchange, leg: Exchange, metrics: Metrics, pairs: Pairs | None, now_seconds: float) -> None:
    """The first token of a split request has come: learn how long its pair took since the prompt was computed."""
    computed_seconds, split = leg.first_token_seconds, exchange.decision
    if computed_seconds is None or pairs is None or not isinstance(split, Split):
        return
    seconds = now_seconds - computed_seconds
    metrics.legs.observe(metrics.legs.row("handover"), seconds)
    if split.decode.queue_seconds > LARGEST_QUEUE_SHARE * seconds:
        return  # the taker's own queue would be taken for the wire's doing, and the wire shunned for it
    pairs.observe(split.prefill.seat, split.seat, tokens=split.moved_tokens, seconds=seconds)
