"""What the lab found, as results.json, summary.md and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from loadtest.notebook import ORACLE, Record
from router.lab.capacity import Sustained
from router.lab.over_time import OverTime
from router.lab.pairs import Difference, difference
from router.lab.pictures import first_tokens, hits_over_time, load_over_time, sustainable

Place = tuple[str, float, str, int]  # cell, share, policy, seed

SECONDS = ("ttft_mean_seconds", "ttft_p50_seconds", "ttft_p90_seconds", "ttft_p99_seconds")
FIGURES = ("hit_ratio", *SECONDS, "inter_token_p99_seconds", "answer_tokens_per_second", "imbalance")
PICTURED_SHARE = 0.95
SHIPPED = "as it ships"


@dataclass(frozen=True, slots=True)
class Found:
    """Names throughout; the first policy is ours. The oracle stands among the runs."""

    cells: Mapping[str, str]  # and the unit of load
    policies: Sequence[str]
    settings: Mapping[tuple[str, str], str]  # by cell and policy; empty: as published
    tried: Mapping[tuple[str, str, str], float]  # by cell, policy and settings: TTFT p90 in seconds on the first half
    rates: Mapping[tuple[str, str], Sustained]
    hard: Mapping[tuple[str, str, str], Sustained]  # by cell, hardship and policy
    runs: Mapping[Place, Record]


def write(folder: Path, about: Record, found: Found) -> None:
    shares: list[float] = about["shares"]
    seeds = range(1, int(about["seeds"]) + 1)
    means = {
        (cell, share, policy): _mean([found.runs[cell, share, policy, seed]["outcome"] for seed in seeds])
        for cell in found.cells
        for share in shares
        for policy in (*found.policies, ORACLE)
    }
    differences = {
        (cell, share, rival): _difference(found, cell, share, rival, seeds)
        for cell in found.cells
        for share in shares
        for rival in found.policies[1:]
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(_figures(about, found, means, differences), indent=1) + "\n")
    pictures = dict(_pictures(found, shares))
    for name, svg in pictures.items():
        (folder / name).write_text(svg)
    (folder / "summary.md").write_text("\n".join(_page(about, found, means, differences, list(pictures))) + "\n")


def _mean(outcomes: Sequence[Record]) -> Record:
    """Over the seeds, of the figures that all of them have."""
    names = ("rate_per_second", "sessions", "requests", *FIGURES)
    shared = [name for name in names if all(one.get(name) is not None for one in outcomes)]
    return {name: fmean(one[name] for one in outcomes) for name in shared}


def _difference(found: Found, cell: str, share: float, rival: str, seeds: Sequence[int]) -> Difference | None:
    """In TTFT, ours less the rival's; None where too few requests were played."""
    both = [[found.runs[cell, share, policy, seed]["ttft"] for seed in seeds] for policy in (found.policies[0], rival)]
    try:
        return difference(*both)
    except ValueError:
        return None


def _figures(
    about: Record,
    found: Found,
    means: Mapping[tuple[str, float, str], Record],
    differences: Mapping[tuple[str, float, str], Difference | None],
) -> Record:
    return {
        "about": about,
        "settings": [
            {"cell": cell, "policy": policy, "settings": one} for (cell, policy), one in found.settings.items()
        ],
        "tried": [
            {"cell": cell, "policy": policy, "settings": one, "ttft_p90_seconds": p90}
            for (cell, policy, one), p90 in found.tried.items()
        ],
        "sustained": [{"cell": cell, "policy": policy} | asdict(one) for (cell, policy), one in found.rates.items()],
        "hardships": [
            {"cell": cell, "hardship": hardship, "policy": policy, "kept": one.load / found.rates[cell, policy].load}
            | asdict(one)
            for (cell, hardship, policy), one in found.hard.items()
        ],
        "runs": [
            {"cell": cell, "share": share, "policy": policy} | mean for (cell, share, policy), mean in means.items()
        ],
        "differences": [
            {"cell": cell, "share": share, "ours": found.policies[0], "rival": rival, "figure": "ttft_seconds"}
            | (asdict(one) | {"verdict": one.verdict} if one else {"verdict": "too few requests"})
            for (cell, share, rival), one in differences.items()
        ],
    }


def _pictures(found: Found, shares: Sequence[float]) -> Iterator[tuple[str, str]]:
    """Of seed 1 at the share nearest to PICTURED_SHARE, and what is sustained."""
    share = min(shares, key=lambda one: abs(one - PICTURED_SHARE))
    for cell, unit in found.cells.items():
        at = {policy: found.runs[cell, share, policy, 1] for policy in (*found.policies, ORACLE)}
        title = f"{cell}, {share:.0%} of what the best rival sustains"
        ttft = {name: list(one["ttft"].values()) for name, one in at.items()}
        yield f"{cell}-ttft.svg", first_tokens(title, ttft)
        runs = {name: OverTime(**one["over_time"]) for name, one in at.items() if name != ORACLE}
        yield f"{cell}-hits.svg", hits_over_time(title, runs)
        yield f"{cell}-load.svg", load_over_time(title, runs)
        rates = {policy: found.rates[cell, policy].load for policy in found.policies}
        yield f"{cell}-sustained.svg", sustainable(cell, f"{unit} sustained", rates)


def _page(
    about: Record,
    found: Found,
    means: Mapping[tuple[str, float, str], Record],
    differences: Mapping[tuple[str, float, str], Difference | None],
    pictures: Sequence[str],
) -> Iterator[str]:
    ours = found.policies[0]
    yield f"# {about['title'].capitalize()}"
    yield ""
    yield f"{about['machine']}, commit {about['commit']}, {about['wall_seconds']:,.0f} s: `{about['command']}`"
    yield ""
    yield (
        f"{about['requests']:,} requests a run, {about['seeds']} seeds, means over them; the second half of each "
        "workload, after settings were chosen on the first."
    )
    yield ""
    yield (
        "A load is sustained while the TTFT p90 stays under 1 s, or 3 times what the best policy has at a fifth of "
        "full load (all prompts computed anew), whichever is more. It lies between two loads that were played and are "
        f"{about['within']:.0%} apart, where a line between their p90s crosses that bound."
    )
    yield ""
    yield (
        f"Differences are the TTFT of {ours} less the policy's, paired by request and seed, with the 95 % interval of "
        "batch means: a negative one is a win. The oracle has one cache that all replicas share and that never evicts, "
        "and one queue."
    )
    yield from _rates(found)
    yield from _verdicts(found, about["shares"], differences)
    yield from _hard(found)
    yield from _settings(found)
    for cell, unit in found.cells.items():
        yield from ("", f"## {cell}", "")
        yield " ".join(f"![{name}]({name})" for name in pictures if name.startswith(f"{cell}-"))
        for share in about["shares"]:
            load = means[cell, share, ours]["sessions" if "sessions" in unit else "rate_per_second"]
            yield from ("", f"{share:.0%} of the best rival: {load:.1f} {unit}", "")
            headings = ("policy", "hit", "TTFT mean", "p50", "p90", "p99", "inter-token p99", "tokens/s", "imbalance")
            yield from _table((*headings, f"{ours} less it"))
            for policy in sorted((*found.policies, ORACLE), key=lambda one: means[cell, share, one][SECONDS[0]]):
                yield _row(policy, means[cell, share, policy], differences.get((cell, share, policy)))


def _rates(found: Found) -> Iterator[str]:
    yield from ("", "## Sustainable load", "")
    yield from _table(("policy", *(f"{cell}, {unit}" for cell, unit in found.cells.items())))
    best = {cell: max(found.rates[cell, policy].load for policy in found.policies) for cell in found.cells}
    for policy in found.policies:
        loads = [(found.rates[cell, policy].load, best[cell]) for cell in found.cells]
        yield _cells(policy, *(f"**{load:.1f}**" if load == most else f"{load:.1f}" for load, most in loads))
    rivals = found.policies[1:]
    if rivals:
        beyond = [
            found.rates[cell, found.policies[0]].load / max(found.rates[cell, rival].load for rival in rivals) - 1
            for cell in found.cells
        ]
        yield _cells(f"{found.policies[0]} beyond the best other", *(f"{one:+.1%}" for one in beyond))


def _verdicts(
    found: Found, shares: Sequence[float], differences: Mapping[tuple[str, float, str], Difference | None]
) -> Iterator[str]:
    """How often ours was better, worse, or neither, in TTFT."""
    yield from ("", f"## {found.policies[0]} against each, TTFT: better, inconclusive, worse", "")
    yield from _table(("policy", *found.cells))
    for rival in found.policies[1:]:
        counts = []
        for cell in found.cells:
            said = [one.verdict for share in shares if (one := differences[cell, share, rival]) is not None]
            counts.append(" / ".join(str(said.count(verdict)) for verdict in ("better", "inconclusive", "worse")))
        yield _cells(rival, *counts)


def _hard(found: Found) -> Iterator[str]:
    """What is left of each policy's sustainable load when things go wrong."""
    for cell in dict.fromkeys(cell for cell, _, _ in found.hard):
        policies = list(dict.fromkeys(policy for other, _, policy in found.hard if other == cell))
        yield from ("", f"## {cell} under hardship: load sustained, share of its own kept", "")
        yield from _table(("", *policies))
        yield _cells("none", *(f"{found.rates[cell, policy].load:.1f}" for policy in policies))
        for hardship in dict.fromkeys(name for other, name, _ in found.hard if other == cell):
            loads = [(found.hard[cell, hardship, one].load, found.rates[cell, one].load) for one in policies]
            yield _cells(hardship, *(f"{load:.1f} ({load / plain:.0%})" for load, plain in loads))


def _settings(found: Found) -> Iterator[str]:
    """What each policy plays with, and all that were tried. Those without a grid play as they ship."""
    tunable = list(dict.fromkeys(policy for _, policy, _ in found.tried))
    if not tunable:
        return
    yield from ("", "## Settings chosen on the first half", "")
    yield from _table(("policy", *found.cells))
    for policy in tunable:
        yield _cells(policy, *(found.settings[cell, policy] or SHIPPED for cell in found.cells))
    yield from ("", "Tried in every cell, by the TTFT p90 they had there (results.json):", "")
    for policy in tunable:
        tried = dict.fromkeys(settings or SHIPPED for _, other, settings in found.tried if other == policy)
        yield f"- {policy}: {'; '.join(tried)}"


def _row(policy: str, mean: Record, less: Difference | None) -> str:
    cells = [policy, f"{mean['hit_ratio']:.1%}", *(f"{mean[name]:.2f} s" for name in SECONDS)]
    if "imbalance" in mean:
        cells.append(f"{1000 * mean['inter_token_p99_seconds']:.0f} ms")
        cells += [f"{mean['answer_tokens_per_second']:,.0f}", f"{mean['imbalance']:.2f}"]
    else:
        cells += [""] * 3
    told = f"{less.mean:+.3f} s [{less.low:+.3f}, {less.high:+.3f}] {less.verdict}" if less else ""
    return _cells(*cells, told)


def _table(headings: Sequence[str]) -> Iterator[str]:
    yield _cells(*headings)
    yield "| --- |" + " ---: |" * (len(headings) - 1)


def _cells(*texts: str) -> str:
    return "| " + " | ".join(texts) + " |"
