"""Which prompts are in flight where: a request beside an identical one cannot be judged (R 5.1)."""

from __future__ import annotations

from router.fleet.replica import Seat


class InFlight:
    """Which prompts are in flight where, to tell identical siblings. Changed at decide and at close, by the account.

    For seats whose index is a guess: there a sibling's blocks are in the guess already, so `expected` does not show it.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[Seat, int], int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, seat: Seat, prompt_key: int) -> bool:
        """Count the prompt in (`prompt_key`: its last block's hash). Whether an identical one was there already."""
        key = (seat, prompt_key)
        before = self._open.get(key, 0)
        self._open[key] = before + 1
        return before > 0

    def leave(self, seat: Seat, prompt_key: int) -> None:
        """Undo one `enter`."""
        key = (seat, prompt_key)
        left = self._open[key] - 1
        if left:
            self._open[key] = left
        else:
            del self._open[key]
