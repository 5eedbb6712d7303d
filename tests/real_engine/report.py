"""What a run came to: Homing's receipts beside what the clients saw, as rows, and as the table that is printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any  # receipts are JSON

from tests.real_engine.traffic import Asked


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of Unix time in which misses are expected: a process was killed and came back."""

    begin: float
    end: float

    def holds(self, asked: Asked) -> bool:
        return asked.ended_at >= self.begin and asked.sent_at <= self.end


NEVER = Window(float("inf"), float("-inf"))


@dataclass(frozen=True, slots=True)
class Row:
    """One request with its receipt."""

    asked: Asked
    receipt: Mapping[str, Any] | None  # None: Homing has none

    @property
    def verdict(self) -> Mapping[str, Any]:
        return (self.receipt and self.receipt["verdict"]) or {}

    @property
    def judged(self) -> bool:
        return bool(self.verdict.get("judged"))

    @property
    def exact(self) -> bool:
        return bool(self.verdict.get("exact"))

    @property
    def cause(self) -> str:
        """Why it was not judged, or why it missed, as Homing names it."""
        if self.asked.fault is not None or self.receipt is None:
            return "no answer" if self.asked.status is None else "failed"
        return str(self.verdict.get("cause") or self.receipt["unpredicted"] or "unnamed")

    @property
    def strange(self) -> bool:
        """Worth a line: it missed or failed, other than for want of anybody to connect to."""
        return (self.judged and not self.exact) or (self.asked.fault is not None and self.asked.status is not None)

    def told(self) -> str:
        """One line about a request that did not go as predicted."""
        asked, receipt = self.asked, self.receipt
        line = f"{_clock(asked.sent_at)} {asked.tag} ({asked.kind}): {self.cause}"
        if receipt is None:
            return f"{line}; no receipt; {asked.fault}"
        tried = ", ".join(f"{one['replica']} {one['ending']}" for one in receipt["attempts"])
        if not self.judged:
            return f"{line}; {tried}" + (f"; {asked.fault}" if asked.fault else "")
        verdict, decision = self.verdict, receipt["decision"]
        chosen = decision["candidates"][0]
        return (
            f"{line}; predicted {verdict['predicted_cached_tokens']}, reported {verdict['reported_cached_tokens']} of "
            f"{receipt['prompt_tokens']}; {chosen['trust']} beside {chosen['open_requests']} others; {tried}"
        )


class Report:
    """The rows of one run. `window`: those within are shown apart."""

    def __init__(
        self, asked: Iterable[Asked], receipts: Mapping[str, Mapping[str, Any]], window: Window = NEVER
    ) -> None:
        rows = [Row(one, receipts.get(one.tag)) for one in asked]
        self.window = window
        self.inside = [row for row in rows if window.holds(row.asked)]
        self.outside = [row for row in rows if not window.holds(row.asked)]

    @property
    def missed(self) -> list[Row]:
        """Judged outside the window and not exact."""
        return [row for row in self.outside if row.judged and not row.exact]

    @property
    def lost(self) -> list[Row]:
        """Requests whose client did not get its answer, inside the window or not."""
        return [row for row in (*self.outside, *self.inside) if row.asked.fault is not None]

    def computed_tokens(self, replica: str) -> int:
        """Prompt tokens that the replica had not cached."""
        computed = 0
        for row in (*self.outside, *self.inside):
            if row.judged and row.receipt is not None and row.receipt["attempts"][-1]["replica"] == replica:
                computed += row.receipt["prompt_tokens"] - row.verdict["reported_cached_tokens"]
        return computed

    def judged_share(self) -> float:
        return _share(sum(row.judged for row in self.outside), len(self.outside))

    def exact_share(self) -> float:
        return 1 - _share(len(self.missed), sum(row.judged for row in self.outside))

    def table(self, title: str) -> str:
        lines = [f"{title}: judged {self.judged_share():.1%}, of those exact {self.exact_share():.1%}"]
        lines.append(f"  {'kind':<18}{'requests':>9}{'judged':>9}{'exact':>9}{'came 0':>9}  not judged")
        for kind in sorted({row.asked.kind for row in self.outside}):
            lines += [_line(kind, [row for row in self.outside if row.asked.kind == kind])]
        for name, stream in (("streamed", True), ("whole", False)):
            lines += [_line(name, [row for row in self.outside if row.asked.stream is stream])]
        lines.append(_line("all", self.outside))
        if self.inside:
            window = self.window
            lines.append(
                f"  in the restart window, {_clock(window.begin)} to {_clock(window.end)} "
                f"({window.end - window.begin:.1f} s):"
            )
            lines.append(_line("all", self.inside))
        lines += [f"  {row.told()}" for row in (*self.outside, *self.inside) if row.strange]
        return "\n".join(lines)


def _line(kind: str, rows: Sequence[Row]) -> str:
    judged = [row for row in rows if row.judged]
    cold = sum(row.verdict["reported_cached_tokens"] == 0 for row in judged)
    causes = Counter(row.cause for row in rows if not row.judged)
    told = ", ".join(f"{cause} {count}" for cause, count in causes.most_common())
    return f"  {kind:<18}{len(rows):>9}{len(judged):>9}{sum(row.exact for row in judged):>9}{cold:>9}  {told}".rstrip()


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _clock(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%H:%M:%S.%f")[:-3]
