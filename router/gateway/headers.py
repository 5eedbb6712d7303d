"""Which headers pass, in both directions (R 1.3, R 1.4). Pure: lists of byte pairs in, lists of byte pairs out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from router.errors import Unauthorized

RawHeaders = list[tuple[bytes, bytes]]

# RFC 9110 7.6.1, and the fields that the upstream client writes itself.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
NOT_TO_REPLICA = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",  # answered by our own server
    b"accept-encoding",  # a compressed stream could not be watched for its first token and its usage
    b"x-homing-explain",
    b"x-homing-request-id",
}
NOT_TO_REPLICA_NOR_KEY = NOT_TO_REPLICA | {b"authorization"}
NOT_TO_CLIENT = HOP_BY_HOP | {b"content-length"}
BEARER = b"bearer "


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys on both sides. `client_keys` None: the endpoint is open. `replica_key`: what replicas want from us."""

    client_keys: frozenset[str] | None = None
    replica_key: str | None = None

    @property
    def passes_clients_key(self) -> bool:
        """Whether a client's Authorization is meant for the replica: neither we nor our own key stand between."""
        return self.client_keys is None and self.replica_key is None

    @property
    def to_replica(self) -> RawHeaders:
        """What a request of our own carries so that a replica lets it in."""
        return [] if self.replica_key is None else [(b"authorization", b"Bearer " + self.replica_key.encode())]

    def check(self, authorization: bytes | None) -> None:
        """Raises Unauthorized unless the client may come in."""
        if self.client_keys is None:
            return
        if authorization is None or authorization[:7].lower() != BEARER:
            raise Unauthorized("No API key given. Send it as `Authorization: Bearer KEY`.", code="missing_api_key")
        if authorization[7:].strip().decode("latin-1") not in self.client_keys:
            raise Unauthorized("Incorrect API key.", code="invalid_api_key")


def to_replica(headers: Iterable[tuple[bytes, bytes]], credentials: Credentials, request_id: str) -> RawHeaders:
    """The client's end-to-end headers, with its Authorization only where it is meant for the replica."""
    passed: RawHeaders = []
    nominated: frozenset[bytes] = frozenset()
    withheld = NOT_TO_REPLICA if credentials.passes_clients_key else NOT_TO_REPLICA_NOR_KEY
    for pair in headers:
        if pair[0] not in withheld:
            passed.append(pair)
        elif pair[0] == b"connection":
            nominated |= _named(pair[1])
    if nominated:
        passed = [pair for pair in passed if pair[0] not in nominated]
    if credentials.replica_key is not None:
        passed.append((b"authorization", b"Bearer " + credentials.replica_key.encode()))
    passed.append((b"x-homing-request-id", request_id.encode()))
    return passed


def to_client(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """The replica's end-to-end headers. The caller adds Content-Length when it knows the body."""
    passed: RawHeaders = []
    nominated: frozenset[bytes] = frozenset()
    for pair in headers:
        if pair[0] not in NOT_TO_CLIENT:
            passed.append(pair)
        elif pair[0] == b"connection":
            nominated |= _named(pair[1])
    return [pair for pair in passed if pair[0] not in nominated] if nominated else passed


def _named(connection: bytes) -> frozenset[bytes]:
    """The header names that a Connection header makes hop-by-hop."""
    return frozenset(token.strip().lower() for token in connection.split(b","))


def first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of `name` (lower case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None
