"""The report on the terminal and as JSON.

The JSON form, whose names are kept from release to release:

    {"ok": bool, "counts": {"pass": n, "warn": n, "fail": n, "skipped": n},
     "replicas": [{"replica": str, "url": str, "engine": str | null, "findings": [FINDING, ...]}, ...],
     "fleet": [FINDING, ...]}
    FINDING: {"check": one of `finding.Check`, "status": "pass" | "warn" | "fail" | "skipped", "found": str,
              "mend": str | null}

`ok` is false where any check failed.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from router.doctor.finding import UNREACHED, Finding, Report, Status

_STYLES = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.SKIPPED: "dim"}


def as_json(report: Report) -> dict[str, object]:
    return {
        "ok": not report.count(Status.FAIL),
        "counts": {status.value: report.count(status) for status in Status},
        "replicas": [
            {
                "replica": replica.replica,
                "url": replica.url,
                "engine": replica.engine,
                "findings": [_finding(finding) for finding in replica.findings],
            }
            for replica in report.replicas
        ],
        "fleet": [_finding(finding) for finding in report.fleet],
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "check": finding.check.value,
        "status": finding.status.value,
        "found": finding.found,
        "mend": finding.mend,
    }


def show(report: Report, console: Console) -> None:
    """Print the report: a table for each replica, beneath it what mends what, each on one line to be copied whole."""
    for replica in report.replicas:
        engine = f"  {replica.engine}" if replica.engine else ""
        _show(f"{replica.replica}  {replica.url}{engine}", replica.findings, console)
    _show("fleet", report.fleet, console)
    console.print(summary(report))


def summary(report: Report) -> str:
    counts = {status: report.count(status) for status in Status}
    if counts[Status.FAIL]:
        verdict = "[bold red]Something needs mending.[/]"
    elif counts[Status.WARN]:
        verdict = "[yellow]Works; could be better.[/]"
    else:
        verdict = "[green]All is well.[/]"
    many = len(report.replicas)
    told = ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])
    return f"{verdict} {many} replica{'s' if many != 1 else ''}: {told}."


def _show(title: str, findings: Sequence[Finding], console: Console) -> None:
    if not findings:
        return
    table = Table(box=None, pad_edge=False, show_header=False, title=f"[bold]{escape(title)}[/]", title_justify="left")
    table.add_column("check", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("found", overflow="fold")
    shown = [finding for finding in findings if finding.found != UNREACHED]
    for finding in shown:
        style = _STYLES[finding.status]
        table.add_row(
            finding.check.value.replace("_", " "), f"[{style}]{finding.status.value}[/]", escape(finding.found)
        )
    if len(shown) < len(findings):
        table.add_row(f"{len(findings) - len(shown)} more", "[dim]skipped[/]", UNREACHED)
    console.print(table, highlight=False)
    for finding in findings:
        if finding.mend is not None:
            line = f"  [bold]{finding.check.value.replace('_', ' ')}:[/] {escape(finding.mend)}"
            console.print(line, highlight=False, soft_wrap=True)
    console.print()
