"""Puts a configuration in force, in one synchronous stretch: every request is decided under the one or the other.

What a room has learned stays: rates, index, ledger, sessions, whose turn it is. Requests under way keep the lease,
timeouts and credentials they were sent with; those that wait, at the door or for a replica's room, go on waiting, and
are decided by the policy that is there when their turn comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from router.config import Config
from router.discovery import static
from router.discovery.members import Member, Sighting, sighting
from router.fleet.newcomers import Newcomers
from router.fleet.sessions import Sessions
from router.gateway.account import Account
from router.gateway.admission import AdmissionLimits
from router.gateway.dispatch import Dispatch
from router.gateway.headers import Credentials
from router.gateway.in_force import Configuration
from router.gateway.room import Room
from router.gateway.serve import Serve
from router.gateway.shadowing import Shadowing
from router.house import House
from router.index.open_blocks import OpenBlocks
from router.metrics import Metrics
from router.policy.decider import Decider, open_blocks_for
from router.policy.shadow import Shadow

CONFIGURED = "config"  # the source whose word the replicas of a configuration are


@dataclass(frozen=True, slots=True)
class Swap:
    """Called with a configuration to be in force from then on, again and again."""

    house: House
    decider: Decider
    dispatch: Dispatch
    serve: Serve
    account: Account
    room: Room
    newcomers: Newcomers
    sessions: Sessions
    metrics: Metrics
    say: Callable[[str], None]

    def __call__(self, configuration: Configuration) -> None:
        """Where it raises, some rooms have changed and others have not: call again with what was in force."""
        config, house = configuration.config, self.house
        limits = config.limits
        # First, for it alone can fail: each address gets a client of its own.
        house.membership.seen(CONFIGURED, configured(config))
        house.keeper.heed(config)
        house.readiness.heed(config.readiness.coverage, config.readiness.wait_seconds)
        self.newcomers.heed(limits.slow_start_seconds)
        self.sessions.heed(config.sessions.max_sessions, config.sessions.idle_seconds)
        self._policies(configuration)
        self.serve.heed(
            Credentials(configuration.client_keys, self.serve.credentials.replica_key),
            config.sessions.headers,
            config.usage_probe,
            int(limits.body_megabytes * 2**20),
            reads_sessions=any(one.reads_sessions for one in configuration.policies),
        )
        house.in_force.put(configuration)
        # Last, for these let requests go on, which are to meet the new world whole.
        self.room.most_per_replica = limits.max_in_flight_per_replica
        house.admission.heed(admission_limits(config))
        house.holding.heed(configuration.policy.hold)

    def _policies(self, configuration: Configuration) -> None:
        blocks = open_blocks_for(configuration.policies)
        if _kind(blocks) != _kind(self.account.open_blocks):
            self.account.keep_blocks(blocks)
        self.decider.heed(
            configuration.policy, configuration.config.limits.max_in_flight_per_replica, self.account.open_blocks
        )
        self.dispatch.heed(shadowing(configuration, self.metrics, self.say))


def shadowing(configuration: Configuration, metrics: Metrics, say: Callable[[str], None]) -> Shadowing | None:
    """Who shows decisions to the shadow policy, where there is one."""
    if configuration.shadow is None:
        return None
    return Shadowing(
        Shadow(configuration.shadow, configuration.policy, Random(configuration.config.seed)), metrics, say
    )


def admission_limits(config: Config) -> AdmissionLimits:
    limits = config.limits
    return AdmissionLimits(
        max_in_flight=limits.max_in_flight,
        queue_length=limits.queue_length,
        queue_wait_seconds=limits.queue_wait_seconds,
        most_per_replica=limits.max_in_flight_per_replica,
    )


def configured(config: Config) -> Sighting:
    """The replicas that the configuration names itself."""
    return sighting(*map(Member, static.replicas(config.replicas)))


def _kind(blocks: OpenBlocks | None) -> bool | None:
    return None if blocks is None else blocks.exact
