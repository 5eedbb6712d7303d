"""What goes wrong when, and who asks what when: all of it drawn from one seed, before anything begins. Pure.

Every sort of trouble comes once before any comes again. At any moment one replica, the *rock*, is spared by all but the
loss of every wire, so that there is always somebody whose failure would be Homing's. The rock changes from one era to
the next; around the change both are spared. Two troubles never strike one victim at once: what undoes the first would
undo the second.

From the first third on router 0 is neither killed nor ended, so that its memory can be watched for long.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random

from loadtest.chaos.troubles import SORTS, Sort, Victim

ROUTERS = 2
QUIET_SECONDS = 3.0  # at the beginning
FIRST_THIRD = 1 / 3
SPARED_ON_SECONDS = 15.0  # of the next era
# After its end a trouble's victim comes back; a new process takes seconds on a busy machine.
BACK_SECONDS, NEW_PROCESS_SECONDS = 1.0, 8.0

RUBBISH_SHARE = 0.04
IMPATIENT_SHARE = 0.15
STREAMED_SHARE = 0.6
STORIES = 40

Struck = tuple[Victim, int | None, int | None]


@dataclass(frozen=True, slots=True)
class Trouble:
    """`replica` and `router` are None where the sort strikes none of them, or all."""

    at_seconds: float
    seconds: float
    sort: Sort
    replica: int | None
    router: int | None

    @property
    def end_seconds(self) -> float:
        return self.at_seconds + self.seconds

    def struck(self, replicas: int) -> frozenset[Struck]:
        """Who must not be struck by another one meanwhile."""
        if self.sort.victim is Victim.ALL_WIRES:
            return frozenset((Victim.WIRES, a, b) for a in range(replicas) for b in range(ROUTERS))
        return frozenset({(self.sort.victim, self.replica, self.router)})


class Rubbish(Enum):
    """A request that makes no sense, and the status it deserves."""

    CUT_SHORT = 400
    UNKNOWN_MODEL = 404


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to come."""

    at_seconds: float
    router: int
    text: str
    max_tokens: int
    streamed: bool
    hangs_up_after_seconds: float | None
    rubbish: Rubbish | None


def rocks(at_seconds: float, seconds: float, replicas: int) -> frozenset[int]:
    """The replicas that are spared at this moment."""
    era = seconds / replicas
    before = max(0.0, at_seconds - min(SPARED_ON_SECONDS, era / 2))
    return frozenset(min(int(moment / era), replicas - 1) for moment in (before, at_seconds))


def troubles(seed: int, seconds: float, replicas: int, per_minute: float) -> tuple[Trouble, ...]:
    """In order of their beginning. All are over when `seconds` are."""
    chance = Random(f"troubles {seed}")
    left: list[Sort] = []
    found: list[Trouble] = []
    at = QUIET_SECONDS
    while at < seconds:
        if not left:
            left = chance.sample(SORTS, len(SORTS))
        for sort in left:  # the first that may strike now
            one = _aimed(sort, at, seconds, replicas, chance)
            if one is not None and one.end_seconds < seconds and not any(_meet(one, two, replicas) for two in found):
                found.append(one)
                left.remove(sort)
                break
        at += 60.0 / per_minute * chance.uniform(0.5, 1.5)
    return tuple(found)


def asks(seed: int, seconds: float, per_second: float) -> tuple[Ask, ...]:
    """Poisson arrivals. Prompts share the beginnings of so many stories, as conversations do."""
    chance = Random(f"asks {seed}")
    found: list[Ask] = []
    at = chance.expovariate(per_second)
    while at < seconds:
        told = "and then there was more to tell of it " * chance.randrange(2, 60)
        kind = chance.random()
        found.append(
            Ask(
                at,
                chance.randrange(ROUTERS),
                f"story {chance.randrange(STORIES)} {told}",
                chance.randrange(1, 80),
                chance.random() < STREAMED_SHARE,
                chance.uniform(0.01, 1.0) if kind > 1 - IMPATIENT_SHARE else None,
                chance.choice(tuple(Rubbish)) if kind < RUBBISH_SHARE else None,
            )
        )
        at += chance.expovariate(per_second)
    return tuple(found)


def _aimed(sort: Sort, at: float, seconds: float, replicas: int, chance: Random) -> Trouble | None:
    """None: there is nobody whom it may strike now."""
    lasts = chance.uniform(*sort.seconds)
    replica = router = None
    if sort.victim in (Victim.REPLICA, Victim.WIRES):
        spared = rocks(at, seconds, replicas) | rocks(at + lasts, seconds, replicas)
        free = [number for number in range(replicas) if number not in spared]
        if not free:
            return None
        replica = chance.choice(free)
    if sort.victim in (Victim.ROUTER, Victim.WIRES, Victim.REDIS_WIRE):
        router = chance.randrange(ROUTERS)
        if sort.victim is Victim.ROUTER and sort.ends_processes and at > FIRST_THIRD * seconds:
            router = ROUTERS - 1
    return Trouble(at, lasts, sort, replica, router)


def _meet(one: Trouble, before: Trouble, replicas: int) -> bool:
    """Whether two troubles would strike one victim at once."""
    back = NEW_PROCESS_SECONDS if before.sort.ends_processes else BACK_SECONDS
    is_near = one.at_seconds < before.end_seconds + back
    return is_near and bool(one.struck(replicas) & before.struck(replicas))
