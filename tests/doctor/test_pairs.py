"""Whether prefill and decode replicas can work together, judged and asked."""

from __future__ import annotations

from router import config
from router.doctor.ask import Ending, Silence
from router.doctor.command import examine
from router.doctor.finding import Check, Finding, Status
from router.doctor.fleet import Known
from router.doctor.pairs import Given, Side, judge_pairs
from router.fleet.replica import Facts, Replica, ReplicaId, Role
from router.sim.text import SHIPPED_TOKENIZER
from tests.doctor.wards import TIMEOUT_SECONDS, assert_named, disguised, of, ward

P, D, BOTH = Role.PREFILL, Role.DECODE, Role.BOTH
REFUSED = Silence(Ending.REFUSED, "10.0.0.1:5600")


def side(
    role: Role,
    *,
    host: str = "10.0.0.1",
    configured: str | None = None,
    own: str | None = "nixl",
    version: str = "0.32.0",
    given: Given | str | None = None,
) -> Side:
    replica = Replica(ReplicaId(f"{role.value}@{host}"), f"http://{host}:8000", role, handshake=configured)
    return Side(replica, Known(replica.id, "vllm", Facts(version=version, handshake=own)), given)


def judged(*sides: Side) -> Finding:
    (finding,) = judge_pairs(sides)
    assert finding.check is Check.PAIRS
    return finding


def test_a_fleet_without_roles_is_not_asked_for_pairs() -> None:
    assert judge_pairs([side(BOTH), side(BOTH)]) == ()


def test_pairs_that_match_and_give_pass() -> None:
    finding = judged(side(P, given=Given("10.0.0.1", 5600)), side(D, host="10.0.0.2"), side(D, host="10.0.0.3"))
    assert finding.status is Status.PASS
    assert finding.found == "2 pairs over nixl; 1 hands KV over where others can reach it"


def test_an_engine_whose_handshake_nobody_knows_is_named() -> None:
    assert_named(judged(side(P, own=None), side(D)), Status.FAIL, "prefill@10.0.0.1", "replicas[].handshake")


def test_a_pool_without_the_other_is_a_failure() -> None:
    assert_named(judged(side(P), side(P, host="10.0.0.2")), Status.FAIL, "role prefill", "role decode")
    assert_named(judged(side(D)), Status.FAIL, "role decode", "role prefill")
    assert judged(side(P), side(BOTH, configured="nixl", host="10.0.0.2")).status is Status.PASS


def test_sides_that_speak_different_handshakes_or_releases_are_no_pair() -> None:
    mixed = judged(side(P, configured="mooncake"), side(D, host="10.0.0.2"))
    assert_named(mixed, Status.FAIL, "prefill@10.0.0.1 (mooncake, 0.32.0)", "one handshake")
    released = judged(side(P), side(D, host="10.0.0.2", version="0.33.0"))
    assert_named(released, Status.FAIL, "0.33.0", "one release")
    some = judged(side(P), side(D, host="10.0.0.2"), side(D, host="10.0.0.3", version="0.33.0"))
    assert_named(some, Status.WARN, "decode@10.0.0.3", "one release")


def test_a_donor_that_hands_nothing_over_lacks_its_connector() -> None:
    finding = judged(side(P, given="a prefill leg is answered, and hands nothing over"), side(D))
    assert_named(finding, Status.FAIL, "hands nothing over", "NixlConnector")


def test_a_side_channel_that_takers_cannot_reach_is_named_with_its_variable() -> None:
    loopback = judged(side(P, given=Given("127.0.0.1", 5600)), side(D, host="10.0.0.2"))
    assert_named(loopback, Status.FAIL, "127.0.0.1:5600", "VLLM_NIXL_SIDE_CHANNEL_HOST")
    anywhere = judged(side(P, given=Given("0.0.0.0", 5600)), side(D, host="10.0.0.2"))
    assert_named(anywhere, Status.FAIL, "0.0.0.0:5600", "VLLM_NIXL_SIDE_CHANNEL_HOST")
    assert judged(side(P, given=Given("localhost", 5600)), side(D)).status is Status.PASS, "one machine"
    silent = judged(side(P, given=Given("10.0.0.1", 5600, REFUSED)), side(D, host="10.0.0.2"))
    assert_named(silent, Status.WARN, "10.0.0.1:5600", "VLLM_NIXL_SIDE_CHANNEL_PORT")


def configured(*urls: str) -> config.Config:
    replicas = [{"url": url, "role": role} for url, role in zip(urls, ("prefill", "decode"), strict=True)]
    return config.read(None, {"replicas": replicas, "tokens": {"tokenizer": str(SHIPPED_TOKENIZER)}})


async def test_a_donor_is_asked_as_homing_would_ask_it() -> None:
    async with ward(2, roles=("prefill", "decode")) as urls:
        report = await examine(configured(*urls), timeout_seconds=TIMEOUT_SECONDS)
    assert of(report, Check.PAIRS).found == "1 pair over nixl; 1 hands KV over where others can reach it"


async def test_a_donor_without_a_connector_is_found_out_by_asking() -> None:
    def nothing(body: bytes) -> bytes:
        return body.replace(b'"kv_transfer_params":{', b'"kv_transfer_params":null,"was":{')

    async with (
        ward(2, roles=("prefill", "decode")) as (donor, taker),
        disguised(donor, alter={"/v1/completions": nothing}) as bare,
    ):
        report = await examine(configured(bare, taker), timeout_seconds=TIMEOUT_SECONDS)
    assert_named(of(report, Check.PAIRS), Status.FAIL, "hands nothing over", "--kv-transfer-config")
