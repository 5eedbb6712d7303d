"""How many bytes the knowledge of who holds what may take: one purse for the index and for the engines' block names.

The charges are estimates, constants per entry that the owners of the entries state and have measured; what is charged
for an entry is released when it goes, so an empty house owes exactly nothing. A charge is never refused: who adds asks
`room` first, who hides or moves what is already there must be able to.
"""

from __future__ import annotations


class Budget:
    """Mutable; changed only by those who own the entries it counts."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

    @property
    def room_bytes(self) -> int:
        """Bytes still free; negative when charges that could not be refused went over the limit."""
        return self.limit_bytes - self.used_bytes

    def charge(self, amount_bytes: int) -> None:
        self.used_bytes += amount_bytes

    def release(self, amount_bytes: int) -> None:
        self.used_bytes -= amount_bytes
