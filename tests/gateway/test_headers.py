from __future__ import annotations

import pytest

from router.errors import Unauthorized
from router.gateway.headers import Credentials, to_client, to_replica

OPEN = Credentials()


def names(headers: list[tuple[bytes, bytes]]) -> set[bytes]:
    return {name for name, _ in headers}


def test_only_end_to_end_headers_reach_the_replica() -> None:
    sent = to_replica(
        [
            (b"host", b"homing"),
            (b"connection", b"close, x-private"),
            (b"x-private", b"between client and us"),
            (b"te", b"trailers"),
            (b"transfer-encoding", b"chunked"),
            (b"accept-encoding", b"gzip"),
            (b"content-type", b"application/json"),
            (b"x-request-id", b"theirs"),
            (b"x-homing-explain", b"1"),
        ],
        OPEN,
        "ours",
    )
    assert sent == [
        (b"content-type", b"application/json"),
        (b"x-request-id", b"theirs"),
        (b"x-homing-request-id", b"ours"),
    ]


def test_a_client_cannot_give_our_request_id() -> None:
    sent = to_replica([(b"x-homing-request-id", b"forged")], OPEN, "ours")
    assert sent == [(b"x-homing-request-id", b"ours")]


def test_the_clients_authorization_passes_where_nobody_else_has_a_key() -> None:
    assert b"authorization" in names(to_replica([(b"authorization", b"Bearer theirs")], OPEN, "id"))


def test_our_own_credentials_never_reach_a_replica() -> None:
    guarded = Credentials(client_keys=frozenset({"ours"}))
    assert b"authorization" not in names(to_replica([(b"authorization", b"Bearer ours")], guarded, "id"))


def test_the_replicas_key_replaces_the_clients() -> None:
    keyed = Credentials(replica_key="secret")
    sent = to_replica([(b"authorization", b"Bearer theirs")], keyed, "id")
    assert [value for name, value in sent if name == b"authorization"] == [b"Bearer secret"]


def test_hop_by_hop_headers_of_the_answer_stay_here() -> None:
    passed = to_client([(b"connection", b"x-hop"), (b"x-hop", b"1"), (b"content-length", b"9"), (b"date", b"today")])
    assert passed == [(b"date", b"today")]


@pytest.mark.parametrize("authorization", [None, b"ours", b"Basic ours", b"Bearer other"])
def test_without_a_known_key_nobody_comes_in(authorization: bytes | None) -> None:
    with pytest.raises(Unauthorized):
        Credentials(client_keys=frozenset({"ours"})).check(authorization)


def test_a_known_key_comes_in_and_an_open_endpoint_asks_nobody() -> None:
    Credentials(client_keys=frozenset({"ours"})).check(b"bearer ours")
    OPEN.check(None)
