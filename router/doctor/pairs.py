"""Whether prefill and decode replicas can work together: who has a partner, and whether KV is given where it says.

Judging only, but for `asked_for_kv`, which sends a prefill leg of a few tokens as Homing would. The blocks it leaves at
the donor are given back when their lease is over (30 s).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import msgspec

from router.doctor.ask import Answer, Asker, Silence, connect
from router.doctor.finding import Check, Finding, failed, passed, warned
from router.doctor.fleet import Known
from router.engines.handshake import Donor
from router.engines.handshakes import ANSWERING_WHOLE, HANDSHAKES
from router.fleet.replica import Replica, ReplicaId, Role
from router.policy.pools import handshake_of, pools_of
from router.prompt.request import Endpoint, parse

NIXL = "nixl"
CONNECTOR = '--kv-transfer-config \'{"kv_connector":"NixlConnector","kv_role":"kv_both"}\''


@dataclass(frozen=True, slots=True)
class Given:
    """What a NIXL donor told of where its KV is fetched; `silence`: why nothing listens there, as seen from here."""

    host: str
    port: int
    silence: Silence | None = None

    @property
    def is_loopback(self) -> bool:
        try:
            return ip_address(self.host).is_loopback or ip_address(self.host).is_unspecified
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class Side:
    """One replica as a side of pairs. `given`: what came of a prefill leg, or a sentence where nothing did."""

    replica: Replica
    known: Known
    given: Given | str | None = None  # None: not asked

    @property
    def speaks(self) -> str | None:
        return handshake_of(self.replica, self.known.facts)

    @property
    def host(self) -> str:
        return self.replica.url.split("://", 1)[-1].rsplit(":", 1)[0]


class _Params(msgspec.Struct):
    remote_host: str = ""
    remote_port: int = 0


class _Leg(msgspec.Struct):
    kv_transfer_params: _Params | None = None


def gives(replica: Replica, known: Known) -> bool:
    """Whether it would be asked for KV in a way the doctor can ask too: NIXL alone needs no second side."""
    return replica.role is not Role.DECODE and handshake_of(replica, known.facts) == NIXL


async def asked_for_kv(asker: Asker, known: Known, timeout_seconds: float) -> Given | str:
    """A prefill leg as Homing sends it, and a connection to where it says its KV is."""
    model = next((model.name for model in known.facts.models if model.adapter is None), "")
    body = msgspec.json.encode({"model": model, "prompt": "Homing asks whether you hand over.", "max_tokens": 1})
    request = parse(Endpoint.COMPLETIONS, body)
    legs = HANDSHAKES[NIXL].legs(request, (request.body,), Donor(""), 0)
    answer = await asker.post(request.endpoint.value, b"".join(legs.prefill), timeout_seconds=10 * timeout_seconds)
    if not isinstance(answer, Answer) or answer.status != 200:
        told = answer.ending.value if isinstance(answer, Silence) else f"status {answer.status}"
        return f"a prefill leg is not answered ({told})"
    try:
        params = msgspec.json.decode(answer.body, type=_Leg).kv_transfer_params
    except msgspec.DecodeError:
        params = None
    if params is None or not params.remote_host:
        return "a prefill leg is answered, and hands nothing over"
    reached = await connect(params.remote_host, params.remote_port, timeout_seconds)
    return Given(params.remote_host, params.remote_port, reached if isinstance(reached, Silence) else None)


def judge_pairs(sides: Sequence[Side]) -> tuple[Finding, ...]:
    """Nothing where nobody has a role: such a fleet has no pools. Else the worst there is to say."""
    if all(side.replica.role is Role.BOTH and side.speaks is None for side in sides):
        return ()
    return (_partners(sides) or _kv(sides) or passed(Check.PAIRS, _count(sides)),)


def _partners(sides: Sequence[Side]) -> Finding | None:
    """Who has nobody to work with."""
    mute = [side.known.replica for side in sides if side.replica.role is not Role.BOTH and side.speaks is None]
    if mute:
        return failed(
            Check.PAIRS,
            f"nobody knows how {_and(mute)} moves KV: its engine has no handshake of its own",
            f"Set replicas[].handshake to one of {', '.join(sorted(HANDSHAKES))}.",
        )
    for role, other in ((Role.PREFILL, Role.DECODE), (Role.DECODE, Role.PREFILL)):
        alone = [side.known.replica for side in sides if side.replica.role is role]
        if alone and all(side.replica.role is role or side.speaks is None for side in sides):
            return failed(
                Check.PAIRS,
                f"only the role {role.value} is there ({_and(alone)}): nobody has the other",
                f"Give a replica the role {other.value}, or take the role away.",
            )
    lonely: list[Side] = []
    matched = 0
    for side in sides:
        partners = [other for other in sides if other is not side and _match(side, other)]
        matched += len(partners)
        if side.speaks is not None and not partners:
            lonely.append(side)
    if not lonely:
        return None
    told = ", ".join(f"{side.known.replica} ({side.speaks}, {side.known.facts.version})" for side in lonely)
    found = f"no replica speaks the handshake and release of {told}"
    mend = "Give both sides one handshake (replicas[].handshake) and one release of the engine."
    return (warned if matched else failed)(Check.PAIRS, found, mend)


def _match(one: Side, other: Side) -> bool:
    """Whether either can hand over to the other, by the very rule that Homing pairs by."""
    pools = pools_of((one.replica, other.replica), (one.known.facts, other.known.facts), ANSWERING_WHOLE)
    return pools is not None and bool(pools.matched.any())


def _kv(sides: Sequence[Side]) -> Finding | None:
    """Whether donors give, and takers can fetch it where they say."""
    for side in sides:
        name, given = side.known.replica, side.given
        if isinstance(given, str):
            return failed(Check.PAIRS, f"{name}: {given}", f"Start it with {CONNECTOR}.")
        if given is None:
            continue
        where = f"{given.host}:{given.port}"
        away = [other for other in sides if other.replica.role is not Role.PREFILL and other.host != side.host]
        if given.is_loopback and away:
            return failed(
                Check.PAIRS,
                f"{name} tells takers to fetch from {where}, "
                f"which {_and([other.known.replica for other in away])} cannot reach",
                "Set VLLM_NIXL_SIDE_CHANNEL_HOST to its own address in the engine's environment.",
            )
        if given.silence is not None:
            return warned(
                Check.PAIRS,
                f"{name} tells takers to fetch from {where}, where nothing answers from here "
                f"({given.silence.ending.value})",
                "Open VLLM_NIXL_SIDE_CHANNEL_PORT between the replicas, or set VLLM_NIXL_SIDE_CHANNEL_HOST to an "
                "address that they reach.",
            )
    return None


def _count(sides: Sequence[Side]) -> str:
    pools = pools_of([side.replica for side in sides], [side.known.facts for side in sides], ANSWERING_WHOLE)
    assert pools is not None
    asked = sum(isinstance(side.given, Given) for side in sides)
    told = f"; {asked} {'hands' if asked == 1 else 'hand'} KV over where others can reach it" if asked else ""
    pairs = int(pools.matched.sum())
    return f"{pairs} pair{'' if pairs == 1 else 's'} over {' and '.join(sorted(pools.handshakes))}{told}"


def _and(names: Sequence[ReplicaId | str]) -> str:
    return " and ".join(names)
