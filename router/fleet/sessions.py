"""Which replica each conversation lives on (R 6.1): a bounded table from session key to seat.

A binding says where the session's last request was served, so it is made after a successful dispatch, never at decide.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import xxhash

from router.fleet.replica import Seat

IDLE_SECONDS = 3600.0
CAPACITY = 100_000  # sessions; about 30 MB

# The header names tried when none are configured, in this order. Lower case.
SESSION_HEADERS = (
    "x-session-affinity",
    "x-session-id",
    "session-id",
    "x-claude-code-session-id",
    "x-dynamo-session-id",
)

# Clients choose these values. A longer one is kept as its digest: the table's bound in entries then bounds its bytes.
LONGEST_KEPT = 64

# Expired bindings dropped per bind: more than one, so the table shrinks under load, and few, so no bind is slow.
EXPIRED_PER_BIND = 4


def session_key(
    header: Callable[[str], str | None],
    *,
    model: str,
    prompt_cache_key: str | None,
    user: str | None,
    opening: bytes | None,
    header_names: Sequence[str] = SESSION_HEADERS,
) -> str | None:
    """The session a request belongs to: the first of the named headers, `prompt_cache_key`, `user`, else a digest of
    `opening` (its first two messages, as bytes). Empty values do not count. None when there is nothing to go by.

    The key carries its source and the model: equal values from different places are different sessions, and a client
    that talks to two models in one session has a home on each.
    """
    for name in header_names:
        value = header(name)
        if value:
            return _key(model, name, value)
    if prompt_cache_key:
        return _key(model, "prompt_cache_key", prompt_cache_key)
    if user:
        return _key(model, "user", user)
    if opening:
        return f"{model}|opening|{xxhash.xxh3_128_hexdigest(opening)}"
    return None


class Sessions:
    """The table. Only the account of a request binds; only the roster's driver forgets."""

    def __init__(self, capacity: int = CAPACITY, idle_seconds: float = IDLE_SECONDS) -> None:
        self._capacity = capacity
        self._idle_seconds = idle_seconds
        self._bindings: OrderedDict[str, tuple[Seat, float, int]] = OrderedDict()  # least recently bound first
        # Forgetting a seat must not walk the table: a binding older than the seat's last forgetting is void.
        self._forgettings = 0
        self._forgotten: dict[Seat, int] = {}

    def heed(self, capacity: int, idle_seconds: float) -> None:
        """Other bounds from now on. What is too much goes with the next bindings, some with each."""
        self._capacity = capacity
        self._idle_seconds = idle_seconds

    def __len__(self) -> int:
        return len(self._bindings)

    def get(self, key: str, now_seconds: float) -> Seat | None:
        """The seat the session is bound to; None when unknown, idle too long, or its seat was forgotten."""
        binding = self._bindings.get(key)
        if binding is None or not self._is_valid(binding, now_seconds):
            return None
        return binding[0]

    def bind(self, key: str, seat: Seat, now_seconds: float) -> None:
        """The session's request was served at the seat. Starts its idle time anew."""
        self._bindings[key] = (seat, now_seconds, self._forgettings)
        self._bindings.move_to_end(key)
        for _ in range(EXPIRED_PER_BIND):
            oldest = next(iter(self._bindings.values()))
            if len(self._bindings) <= self._capacity and self._is_valid(oldest, now_seconds):
                break
            self._bindings.popitem(last=False)

    def forget(self, seat: Seat) -> None:
        """The replica left or restarted: no session lives there any more."""
        self._forgettings += 1
        self._forgotten[seat] = self._forgettings

    def _is_valid(self, binding: tuple[Seat, float, int], now_seconds: float) -> bool:
        seat, bound_at_seconds, forgettings = binding
        return now_seconds - bound_at_seconds <= self._idle_seconds and forgettings >= self._forgotten.get(seat, 0)


def _key(model: str, source: str, value: str) -> str:
    if len(value) > LONGEST_KEPT:
        value = xxhash.xxh3_128_hexdigest(value.encode("utf-8", "surrogatepass"))
    return f"{model}|{source}|{value}"
