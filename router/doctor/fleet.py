"""Checks over several replicas, and of the policy that chooses among them. Judging only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from router.doctor.finding import Check, Finding, failed, passed, skipped, warned
from router.errors import ConfigError
from router.fleet.replica import Facts


@dataclass(frozen=True, slots=True)
class Known:
    """What the examination of one reachable replica brought that concerns others.

    `hears`: the machine addresses and port at which its events are published; `batches`: (sequence, payload) heard.
    """

    replica: str
    engine: str
    facts: Facts
    hears: frozenset[tuple[str, int]] = frozenset()
    batches: frozenset[tuple[int, bytes]] = frozenset()


def judge_fleet(known: Sequence[Known]) -> tuple[Finding, ...]:
    checks = (Check.SAME_MODEL, Check.SAME_VERSION, Check.SAME_BLOCK_SIZE, Check.DISTINCT)
    if len(known) < 2:
        return tuple(skipped(check, "fewer than two replicas answer") for check in checks)
    return (_same_model(known), _same_version(known), _same_block_size(known), _distinct(known))


def judge_policy(name: str, load: Callable[[str], object]) -> Finding:
    try:
        load(name)
    except ConfigError as fault:
        return failed(Check.POLICY, fault.message, "Name a policy of `homing policies`, or mend the file.")
    return passed(Check.POLICY, f"{name} loads")


def _same_model(known: Sequence[Known]) -> Finding:
    roots: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for one in known:
        for model in one.facts.models:
            if model.adapter is None and model.root is not None:
                roots[model.name][model.root].append(one.replica)
    for name, by_root in sorted(roots.items()):
        if len(by_root) > 1:
            return warned(
                Check.SAME_MODEL,
                f"{name} is {_told(by_root)}: an answer depends on where the request goes",
                "Start all replicas of one name with the same --model, or give other weights another "
                "--served-model-name.",
            )
    return passed(Check.SAME_MODEL, f"one root for each of {', '.join(sorted(roots)) or 'the models'}")


def _same_version(known: Sequence[Known]) -> Finding:
    versions = _grouped(known, lambda one: f"{one.engine} {one.facts.version}" if one.facts.version else None)
    if len(versions) > 1:
        return warned(
            Check.SAME_VERSION,
            f"releases differ: {_told(versions)}",
            "Roll all replicas to one release; P/D pairs refuse each other otherwise.",
        )
    return passed(Check.SAME_VERSION, next(iter(versions), "not told"))


def _same_block_size(known: Sequence[Known]) -> Finding:
    by_model: dict[str, list[Known]] = defaultdict(list)
    for one in known:
        for model in one.facts.models:
            if model.adapter is None:
                by_model[model.base].append(one)
    for name, serving in sorted(by_model.items()):
        size = _grouped(serving, lambda one: str(one.facts.block_size_tokens) if one.facts.block_size_tokens else None)
        if len(size) > 1:
            return warned(
                Check.SAME_BLOCK_SIZE,
                f"{name} has blocks of {_told(size)}: every prompt is hashed once for each size",
                "Start all replicas of a model with the same --block-size (SGLang: --page-size).",
            )
    sizes = _grouped(known, lambda one: str(one.facts.block_size_tokens) if one.facts.block_size_tokens else None)
    return passed(Check.SAME_BLOCK_SIZE, f"{' and '.join(sizes)} tokens" if sizes else "not told")


def _distinct(known: Sequence[Known]) -> Finding:
    """Two names for one process: the same start and publisher, or the very same event batches."""
    for number, one in enumerate(known):
        for other in known[:number]:
            started = one.facts.process_start_time
            same_start = started is not None and started == other.facts.process_start_time
            if (same_start and one.hears & other.hears) or one.batches & other.batches:
                return failed(
                    Check.DISTINCT,
                    f"{other.replica} and {one.replica} are one process: its cache counts twice, its load half",
                    f"Take {one.replica} out of replicas, or give its events the address of its own publisher.",
                )
    return passed(Check.DISTINCT, "no two are one process")


def _grouped(known: Sequence[Known], of: Callable[[Known], Hashable | None]) -> Mapping[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for one in known:
        value = of(one)
        if value is not None:
            groups[str(value)].append(one.replica)
    return groups


def _told(groups: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{value} at {' and '.join(sorted(set(replicas)))}" for value, replicas in sorted(groups.items()))
