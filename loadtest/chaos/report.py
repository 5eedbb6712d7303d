"""A run as text: the table of the issue, and everything that is against the rules. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from loadtest.chaos.judge import End
from loadtest.chaos.play import Run

MEGABYTE = 2**20


def title(run: Run) -> str:
    return f"seed {run.terms.seed}, {run.terms.seconds / 60:g} minutes"


def section(run: Run, about: str) -> str:
    """One run in Markdown, without its title."""
    terms, ends = run.terms, Counter(seen.end for seen in run.seen)
    redis = "a Redis between them" if run.with_redis else "no Redis (none is installed here)"
    struck = Counter(window.sort.name for window in run.windows)
    failed = Counter((finding.cause, finding.fault is None) for _, finding in run.findings)
    causes = [
        (f"failed: {cause}", f"{count}{'' if allowed else ' **against the rules**'}")
        for (cause, allowed), count in failed.most_common()
    ]
    calms = [
        (f"predictions of router {one.router}", f"{one.exact} exact of {one.judged} judged of {one.asked}")
        for one in run.calms
    ]
    away = [window.end_seconds - window.begin_seconds for window in run.windows if window.sort.takes_a_router_away]
    faults = run.faults()
    return "\n".join(
        (
            about,
            "",
            f"{terms.replicas} replicas and 2 routers, {redis}; {terms.per_second:g} requests/s, open loop; "
            f"{len(run.windows)} troubles.",
            "",
            *_table(("requests", ""), [
                ("sent", str(len(run.seen))),
                *((end.value, str(ends[end])) for end in (End.ANSWERED, End.HUNG_UP, End.TOLD_OFF)),
                *causes,
            ]),
            "",
            *_table(("afterwards", ""), [
                ("left open in routers and replicas (leases, places, loans, requests)", _left(run)),
                *calms,
                ("routers away, from the signal to /ready", f"{len(away)} times, {sum(away):.0f} s in all"),
                ("the machine's worst stall", f"{run.worst_stall_seconds:.1f} s"),
                *(
                    (
                        f"memory of router {one.router}, life {one.life}, {one.seconds:.0f} s",
                        f"{one.warm_bytes / MEGABYTE:.1f} MB warm, {one.last_bytes / MEGABYTE:.1f} MB at the end "
                        f"(less receipts and index; {one.resident_bytes / MEGABYTE:.0f} MB with them)",
                    )
                    for one in run.memories
                ),
            ]),
            "",
            "Troubles: " + ", ".join(f"{count} x {name}" for name, count in sorted(struck.items())) + ".",
            "",
            *([f"**Faults: {len(faults)}**", "", *(f"- {fault}" for fault in faults)] if faults else ["No fault."]),
            "",
        )
    )  # fmt: skip


def with_section(text: str, name: str, body: str, preface: str) -> str:
    """The page with this section in the place of an older one of its name, or at the end."""
    head, *sections = text.split("\n## ") if text else (preface,)
    kept = [one for one in sections if one.split("\n", 1)[0] != name]
    return "\n## ".join([head.rstrip() + "\n", *(one.rstrip() + "\n" for one in kept), f"{name}\n\n{body}"])


def _left(run: Run) -> str:
    return ", ".join(f"{name} {count:g}" for name, count in run.left.items()) or "0"


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "| --- | ---: |", *(f"| {name} | {told} |" for name, told in rows)]
