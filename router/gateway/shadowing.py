"""Counts what a shadow policy thinks of the decisions that are made, and keeps its faults away from requests.

A fault in the shadow is counted and told once; the request it met goes on as if there were no shadow.
"""

from __future__ import annotations

from collections.abc import Callable

from router.gateway.exchange import Exchange
from router.metrics import Metrics
from router.policy.decision import Whole
from router.policy.shadow import Opinion, Shadow


class Shadowing:
    """Shows every decision to the shadow. Called after the request was charged, before it is sent."""

    def __init__(self, shadow: Shadow, metrics: Metrics, say: Callable[[str], None]) -> None:
        self._shadow = shadow
        self._metrics = metrics
        self._say = say
        self._told = False

    def consider(self, exchange: Exchange) -> None:
        """Note the shadow's opinion on the exchange. Raises nothing. It has none of a split request: a policy's choice
        is one replica, and its price none of a pair."""
        exchange.opinion = None
        if not isinstance(exchange.decision, Whole):
            return
        try:
            opinion = self._shadow.opinion(exchange.model, exchange.decision)
        except Exception as fault:  # whatever a policy on trial does, the request is not its
            self._failed(fault)
            return
        exchange.opinion = opinion
        self._count(opinion)

    def _count(self, opinion: Opinion) -> None:
        metrics = self._metrics
        metrics.shadow_decisions.add(opinion.policy, "true" if opinion.agrees else "false")
        if opinion.agrees:
            return
        # A policy may pay more than it must by its own price (a filter, a near tie): what is below 0 counts as nothing,
        # or a sum would fall.
        regret = metrics.shadow_regret
        if opinion.dearer_seconds is not None:
            regret.observe(regret.row("live"), max(0.0, opinion.dearer_seconds))
        if opinion.missed_seconds is not None:
            regret.observe(regret.row("shadow"), max(0.0, opinion.missed_seconds))

    def _failed(self, fault: Exception) -> None:
        name = self._shadow.policy.name
        self._metrics.shadow_faults.add(name)
        if not self._told:
            self._told = True
            self._say(
                f"shadow policy {name} failed ({type(fault).__name__}: {fault}). No request is touched; further "
                "failures are counted in homing_shadow_faults_total."
            )
