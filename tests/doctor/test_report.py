from __future__ import annotations

import io

from rich.console import Console

from router.doctor.finding import UNREACHED, Check, Finding, ReplicaReport, Report, failed, passed, skipped, warned
from router.doctor.report import as_json, show, summary


def shown(*findings: Finding) -> str:
    out = io.StringIO()
    report = Report((ReplicaReport("r0", "http://a:8000", "vllm", findings),), ())
    show(report, Console(file=out, width=60))
    return out.getvalue()


def test_a_remedy_stays_on_one_line_however_narrow_the_terminal_and_keeps_its_brackets() -> None:
    mend = "Set replicas[].topic to 'kv', and start it with " + "--flag " * 20
    assert f"  topic: {mend}\n" in shown(failed(Check.TOPIC, "publishes under 'kv'", mend))


def test_what_was_not_reached_is_one_line_on_the_terminal_and_whole_in_json() -> None:
    findings = (failed(Check.REACHABLE, "refused", "Start it."), *(skipped(c, UNREACHED) for c in list(Check)[1:6]))
    told = shown(*findings)
    assert told.count(UNREACHED) == 1
    assert "5 more" in told
    report = Report((ReplicaReport("r0", "http://a:8000", None, findings),), ())
    assert as_json(report)["counts"] == {"pass": 0, "warn": 0, "fail": 1, "skipped": 5}


def test_the_summary_says_how_it_went() -> None:
    def of(*findings: Finding) -> str:
        return summary(Report((ReplicaReport("r0", "u", None, findings),), ()))

    good, fair, bad = passed(Check.FLOW, ""), warned(Check.CLOCK, "", "m"), failed(Check.USAGE, "", "m")
    assert "All is well" in of(good)
    assert "could be better" in of(good, fair)
    assert "needs mending" in of(good, fair, bad)
    assert "1 replica: 1 pass, 1 warn, 1 fail." in of(good, fair, bad)
