"""Every trouble there is: whom it strikes, for how long, and what R 2 lets a client see because of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Victim(Enum):
    REPLICA = "replica"
    ROUTER = "router"
    REDIS = "redis"
    WIRES = "wires"  # between one router and one replica
    ALL_WIRES = "all wires"  # between both routers and every replica
    REDIS_WIRE = "redis wire"  # between one router and Redis


class Effect(Enum):
    """How an attempt at a replica, or a whole request, may end because of a trouble."""

    CUT = "cut"  # no connection, or it was lost before or within the answer
    STATUS = "status"  # the replica answered with a 429, 500, 502 or 503
    SILENCE = "silence"  # a wait took longer than R 2.2 allows
    ROUTER_CUT = "router cut"  # the router itself was not there, or ended


class Act(Enum):
    """What is done to the victim while the trouble lasts, and undone when it is over."""

    KILL = "kill"  # SIGKILL; another process in its place afterwards
    END = "end"  # SIGTERM; another process in its place afterwards
    PAUSE = "pause"  # SIGSTOP: connections are accepted by the kernel, and nobody answers
    STUTTER = "stutter"  # SIGSTOP and SIGCONT in turn, several times a second
    SWITCH = "switch"  # POST /sim/failures
    HOLD = "hold"  # the wire keeps all bytes and delivers them afterwards
    LOSE = "lose"  # the wire swallows all bytes, and resets what it carried afterwards
    REFUSE = "refuse"  # the wire resets what it carries and refuses connections


@dataclass(frozen=True, slots=True)
class Sort:
    """One sort of trouble. `effects`: what it excuses; a sort without any must be seen by nobody."""

    name: str
    victim: Victim
    act: Act
    seconds: tuple[float, float]  # it lasts from .. to
    effects: frozenset[Effect] = frozenset()
    on: Mapping[str, object] = field(default_factory=dict)  # of a SWITCH
    off: Mapping[str, object] = field(default_factory=dict)

    @property
    def ends_processes(self) -> bool:
        return self.act in (Act.KILL, Act.END)

    @property
    def takes_a_router_away(self) -> bool:
        return self.victim is Victim.ROUTER and self.ends_processes


CUT, STATUS, SILENCE, ROUTER_CUT = (frozenset({effect}) for effect in Effect)

SORTS: tuple[Sort, ...] = (
    Sort("replica killed", Victim.REPLICA, Act.KILL, (1.0, 4.0), CUT),
    Sort("replica paused", Victim.REPLICA, Act.PAUSE, (1.0, 8.0), SILENCE),
    Sort("replica hung", Victim.REPLICA, Act.SWITCH, (2.0, 6.0), SILENCE, {"hang": True}, {"hang": False}),
    Sort("replica slow", Victim.REPLICA, Act.SWITCH, (3.0, 8.0), frozenset(), {"slow": 8.0}, {"slow": 1.0}),
    Sort("replica stutters", Victim.REPLICA, Act.STUTTER, (3.0, 8.0)),
    Sort("replica restarted", Victim.REPLICA, Act.SWITCH, (0.5, 0.5), CUT, {"restart": True}),
    Sort("replica restarted unseen", Victim.REPLICA, Act.SWITCH, (0.5, 0.5), CUT, {"restart_silent": True}),
    Sort("502s", Victim.REPLICA, Act.SWITCH, (2.0, 5.0), STATUS, {"status": 502}, {"status": 0}),
    Sort("503s", Victim.REPLICA, Act.SWITCH, (2.0, 5.0), STATUS, {"status": 503}, {"status": 0}),
    Sort("500s", Victim.REPLICA, Act.SWITCH, (2.0, 5.0), STATUS, {"status": 500}, {"status": 0}),
    Sort("429s", Victim.REPLICA, Act.SWITCH, (2.0, 5.0), STATUS, {"status": 429}, {"status": 0}),
    Sort("resets", Victim.REPLICA, Act.SWITCH, (2.0, 5.0), CUT, {"reset_connection": 20}, {"reset_connection": 0}),
    Sort(
        "deaths in mid-stream", Victim.REPLICA, Act.SWITCH, (2.0, 5.0), CUT,
        {"die_after_chunks": 3}, {"die_after_chunks": -1},
    ),
    Sort(
        "events dropped", Victim.REPLICA, Act.SWITCH, (2.0, 6.0), frozenset(),
        {"drop_events_ratio": 0.3}, {"drop_events_ratio": 0.0},
    ),
    Sort(
        "events dropped, no replay", Victim.REPLICA, Act.SWITCH, (2.0, 6.0), frozenset(),
        {"drop_events_ratio": 0.3, "no_replay": True}, {"drop_events_ratio": 0.0, "no_replay": False},
    ),
    Sort(
        "events garbled", Victim.REPLICA, Act.SWITCH, (1.0, 3.0), frozenset(),
        {"malformed_events": 5}, {"malformed_events": 0},
    ),
    Sort(
        "events out of order", Victim.REPLICA, Act.SWITCH, (2.0, 6.0), frozenset(),
        {"reorder_events": True}, {"reorder_events": False},
    ),
    Sort("wires hold", Victim.WIRES, Act.HOLD, (1.0, 6.0), SILENCE),
    Sort("wires lose", Victim.WIRES, Act.LOSE, (1.0, 6.0), CUT | SILENCE),
    Sort("wires refuse", Victim.WIRES, Act.REFUSE, (1.0, 4.0), CUT),
    Sort("no wire carries", Victim.ALL_WIRES, Act.REFUSE, (2.0, 4.0), CUT),
    Sort("router killed", Victim.ROUTER, Act.KILL, (0.5, 2.0), ROUTER_CUT),
    Sort("router ended", Victim.ROUTER, Act.END, (0.5, 2.0), ROUTER_CUT),
    Sort("router paused", Victim.ROUTER, Act.PAUSE, (1.0, 3.0)),
    Sort("router stutters", Victim.ROUTER, Act.STUTTER, (2.0, 5.0)),
    Sort("redis killed", Victim.REDIS, Act.KILL, (1.0, 5.0)),
    Sort("redis paused", Victim.REDIS, Act.PAUSE, (1.0, 6.0)),
    Sort("redis stutters", Victim.REDIS, Act.STUTTER, (2.0, 5.0)),
    Sort("redis wire loses", Victim.REDIS_WIRE, Act.LOSE, (1.0, 6.0)),
    Sort("redis wire refuses", Victim.REDIS_WIRE, Act.REFUSE, (1.0, 5.0)),
)  # fmt: skip
