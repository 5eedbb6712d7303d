"""Addresses as people write them in a configuration: what each must look like, and what to write instead."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

AUTHORITY = re.compile(r"[A-Za-z0-9._:\[\]-]+")  # what may stand in a Host header line as it is


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is not an address; write http://HOST:PORT")
    if parts.username or parts.password:
        raise ValueError(f"{value!r} has a user or password; name the key's variable in auth.replica_api_key_env")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{value!r} has a path; give only http://HOST:PORT, Homing adds /v1/... itself")
    if not AUTHORITY.fullmatch(parts.netloc) or parts.port == 0:  # reading it raises beyond 65535
        raise ValueError(f"{value!r} has no host and port that can be called; write http://HOST:PORT")
    return value.rstrip("/")


def _zmq_endpoint(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if scheme != "tcp" or not separator or not rest.rpartition(":")[2].isdecimal():
        raise ValueError(f"{value!r} is not an address to subscribe to; write tcp://HOST:PORT")
    return value


def _redis_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("redis", "rediss", "unix") or not (
        parts.path if parts.scheme == "unix" else parts.hostname
    ):
        raise ValueError(f"{value!r} is not a Redis address; write redis://HOST:6379/0, rediss:// for TLS")
    if parts.password:
        shown = value.replace(f":{parts.password}@", ":...@")
        raise ValueError(f"{shown!r} has a password; name its variable in shared.password_env")
    return value


HttpUrl = Annotated[str, AfterValidator(_http_url)]
ZmqEndpoint = Annotated[str, AfterValidator(_zmq_endpoint)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
