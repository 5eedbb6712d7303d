"""One restart, of which several tell: the event stream by its numbering, the probe by what the process says of itself.

Any of them may be first, and any may be alone. Each tells of a restart once: what another one tells soon after is the
same restart, what the same one tells again is the next. An engine may be down for minutes between its end and its new
beginning, so what is told soon after it answers again is still the same restart.
"""

from __future__ import annotations

# Longer than the slowest takes: some probe rounds, or as long as a stream takes to connect again.
SAME_RESTART_SECONDS = 30.0


class Restarts:
    """Of one replica. Told by the keeper."""

    def __init__(self) -> None:
        self._tellers: set[str] = set()  # of the last restart
        self._told_at_seconds = 0.0  # by the first of them, or when it answered again

    def news(self, teller: str, now_seconds: float) -> bool:
        """`teller` says that the replica restarted. Whether that is new."""
        is_recent = bool(self._tellers) and now_seconds - self._told_at_seconds < SAME_RESTART_SECONDS
        if is_recent and teller not in self._tellers:
            self._tellers.add(teller)
            return False
        self._tellers, self._told_at_seconds = {teller}, now_seconds
        return True

    def answers_again(self, now_seconds: float) -> None:
        """After a silence the replica answers: whoever told of its restart before may not have been the last."""
        self._told_at_seconds = now_seconds
