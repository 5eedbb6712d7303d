"""What the lab found, as lab.json and lab.md: means over the seeds, paired differences, sustainable rates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from router.lab.capacity import Sustained
from router.lab.pairs import Difference, difference

Record = dict[str, Any]  # Any: a run's figures as they stand in the file, names and numbers
Place = tuple[str, float, str, int]  # cell, share, policy, seed

SECONDS = ("ttft_mean_seconds", "ttft_p50_seconds", "ttft_p90_seconds", "ttft_p99_seconds")
FIGURES = ("hit_ratio", *SECONDS, "inter_token_p99_seconds", "answer_tokens_per_second", "imbalance")
ORACLE = "oracle"


def write(
    folder: Path,
    about: Record,
    cells: Mapping[str, str],
    policies: Sequence[str],
    rates: Mapping[tuple[str, str], Sustained],
    places: Mapping[Place, Record],
) -> None:
    """`cells` are names and units of load. The first policy is ours: differences are its own less the others'."""
    shares: list[float] = about["shares"]
    seeds = range(1, int(about["seeds"]) + 1)
    means = {
        (cell, share, policy): _mean([places[cell, share, policy, seed]["outcome"] for seed in seeds])
        for cell in cells
        for share in shares
        for policy in (*policies, ORACLE)
    }
    differences = {
        (cell, share, rival): _difference(places, cell, share, policies[0], rival, seeds)
        for cell in cells
        for share in shares
        for rival in policies[1:]
    }
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "about": about,
        "sustained": [{"cell": cell, "policy": policy} | asdict(one) for (cell, policy), one in rates.items()],
        "runs": [
            {"cell": cell, "share": share, "policy": policy} | mean for (cell, share, policy), mean in means.items()
        ],
        "differences": [
            {"cell": cell, "share": share, "ours": policies[0], "rival": rival, "figure": "ttft_seconds"}
            | (asdict(one) | {"verdict": one.verdict} if one else {"verdict": "too few requests"})
            for (cell, share, rival), one in differences.items()
        ],
    }
    (folder / "lab.json").write_text(json.dumps(figures, indent=1) + "\n")
    text = "\n".join(_page(about, cells, policies, rates, means, differences))
    (folder / "lab.md").write_text(text + "\n")


def _mean(outcomes: Sequence[Record]) -> Record:
    """Over the seeds, of the figures that all of them have."""
    shared = [
        name for name in ("rate_per_second", "sessions", *FIGURES) if all(one.get(name) is not None for one in outcomes)
    ]
    return {name: fmean(one[name] for one in outcomes) for name in shared}


def _difference(
    places: Mapping[Place, Record], cell: str, share: float, ours: str, rival: str, seeds: Sequence[int]
) -> Difference | None:
    pairs = [(places[cell, share, ours, seed]["ttft"], places[cell, share, rival, seed]["ttft"]) for seed in seeds]
    try:
        return difference([one for one, _ in pairs], [other for _, other in pairs])
    except ValueError:
        return None


def _page(
    about: Record,
    cells: Mapping[str, str],
    policies: Sequence[str],
    rates: Mapping[tuple[str, str], Sustained],
    means: Mapping[tuple[str, float, str], Record],
    differences: Mapping[tuple[str, float, str], Difference | None],
) -> Iterator[str]:
    yield "# The policy lab"
    yield ""
    yield f"{about['machine']}, commit {about['commit']}, {about['wall_seconds']:,.0f} s: `{about['command']}`"
    yield ""
    yield (
        f"{about['requests']:,} requests a run, {about['seeds']} seeds, means over them. A load is sustained while the "
        "TTFT p90 stays under 1 s, or 3 times what the best policy has at a fifth of full load (all prompts computed "
        f"anew), whichever is more; it is known to {about['within']:.0%}. The last column is the TTFT of {policies[0]} "
        "less the policy's, paired by request and seed, with the 95 % interval of batch means: a negative one is a "
        "win. The oracle has one cache that all replicas share and that never evicts, and one queue."
    )
    for cell, unit in cells.items():
        yield ""
        yield f"## {cell}"
        yield ""
        yield f"| policy | sustained, {unit} |"
        yield "| --- | ---: |"
        for policy in sorted(policies, key=lambda policy: -rates[cell, policy].load):
            yield f"| {policy} | {rates[cell, policy].load:.1f} |"
        for share in about["shares"]:
            load = means[cell, share, policies[0]]["sessions" if "sessions" in unit else "rate_per_second"]
            yield ""
            yield f"{share:.0%} of the best rival: {load:.1f} {unit}"
            yield ""
            headings = ("policy", "hit", "TTFT mean", "p50", "p90", "p99", "inter-token p99", "tokens/s", "imbalance")
            yield "| " + " | ".join((*headings, f"{policies[0]} less it")) + " |"
            yield "| --- |" + " ---: |" * len(headings)
            for policy in sorted((*policies, ORACLE), key=lambda one: means[cell, share, one]["ttft_mean_seconds"]):
                yield _row(policy, means[cell, share, policy], differences.get((cell, share, policy)))


def _row(policy: str, mean: Record, less: Difference | None) -> str:
    cells = [policy, f"{mean['hit_ratio']:.1%}", *(f"{mean[name]:.2f} s" for name in SECONDS)]
    if "imbalance" in mean:
        cells.append(f"{1000 * mean['inter_token_p99_seconds']:.0f} ms")
        cells += [f"{mean['answer_tokens_per_second']:,.0f}", f"{mean['imbalance']:.2f}"]
    else:
        cells += [""] * 3
    told = f"{less.mean:+.3f} s [{less.low:+.3f}, {less.high:+.3f}] {less.verdict}" if less else ""
    return "| " + " | ".join((*cells, told)) + " |"
