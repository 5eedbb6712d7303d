"""What one decision costs: hashes already computed, real index, ledger, rates, health and policy, no sockets."""

from __future__ import annotations

import gc
import time
from array import array
from dataclasses import dataclass
from random import Random

import numpy as np

from router.fleet.health import Health
from router.fleet.ledger import Ledger
from router.fleet.rates import Rates
from router.fleet.replica import Facts, FloatArray, IntArray, Replica, ReplicaId, ServedModel
from router.fleet.roster import Roster
from router.fleet.sessions import Sessions
from router.index.base import Trust
from router.index.budget import Budget
from router.index.memory import MemoryIndex
from router.policy.candidate import Ask
from router.policy.decider import Decider
from router.policy.load import load
from router.sim.report import percentile

BLOCK_SIZE_TOKENS = 16
PROMPT_TOKENS = 100_000
WARM_UP = 200


@dataclass(frozen=True, slots=True)
class DecisionCost:
    """Wall time of one decision, in microseconds. CPU time leaves out what the machine's neighbours took."""

    replicas: int
    distinct_depths: int
    p50_microseconds: float
    p99_microseconds: float
    cpu_p99_microseconds: float


class _Exact:
    """Every replica is believed; told from columns, as the real one does."""

    def __init__(self, replicas: int) -> None:
        self._trust = np.full(replicas, Trust.EXACT, dtype=np.int64)
        self._belief = np.ones(replicas)
        self.version = 0

    def effective(self, seats: IntArray) -> IntArray:
        trust: IntArray = self._trust[seats]
        return trust

    def belief(self, seats: IntArray) -> FloatArray:
        belief: FloatArray = self._belief[seats]
        return belief


def decision_cost(replicas: int, distinct_depths: int, policy: str, decisions: int, seed: int) -> DecisionCost:
    """Decide the same 100K-token prompt again and again, on replicas that hold different lengths of its beginning."""
    chance = Random(seed)
    blocks = PROMPT_TOKENS // BLOCK_SIZE_TOKENS
    hashes = array("Q", (chance.getrandbits(64) for _ in range(blocks)))
    roster, health, ledger, index = Roster(), Health(), Ledger(), MemoryIndex(Budget(1 << 30))
    for number in range(replicas):
        seat = roster.join(Replica(ReplicaId(f"replica-{number}"), f"http://replica-{number}:8000"))
        roster.update(seat, Facts((ServedModel("m", "m"),), block_size_tokens=BLOCK_SIZE_TOKENS))
        health.join(seat)
        ledger.join(seat)
        index.join(seat)
        # Depths from 1/(n+1) to n/(n+1) of the prompt; equal for replicas whose numbers are equal modulo n.
        index.store_run(seat, hashes[: blocks * (1 + number % distinct_depths) // (distinct_depths + 1)], None)
    decider = Decider(
        policy=load(policy),
        roster=roster,
        health=health,
        ledger=ledger,
        rates=Rates(),
        index=index,
        trusts=_Exact(replicas),
        sessions=Sessions(),
        rng=Random(seed),
    )
    ask = Ask(model="m", prompt_tokens=PROMPT_TOKENS, hashes={BLOCK_SIZE_TOKENS: hashes}, prefix_key=hashes[0])
    wall, cpu = [], []
    gc.collect()
    for turn in range(WARM_UP + decisions):
        began, began_cpu = time.perf_counter_ns(), time.thread_time_ns()
        decider.decide(ask, now_seconds=float(turn))
        spent_cpu, spent = time.thread_time_ns() - began_cpu, time.perf_counter_ns() - began
        if turn >= WARM_UP:
            wall.append(spent / 1000)
            cpu.append(spent_cpu / 1000)
    p50, p99, cpu_p99 = percentile(wall, 0.5), percentile(wall, 0.99), percentile(cpu, 0.99)
    assert p50 is not None and p99 is not None and cpu_p99 is not None  # noqa: PT018
    return DecisionCost(replicas, min(distinct_depths, replicas), p50, p99, cpu_p99)
