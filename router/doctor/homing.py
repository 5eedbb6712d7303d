"""What a running Homing has seen of a replica, judged: GET /homing/replicas. It sees what a single probe may miss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.doctor.finding import Check, Finding, failed, passed, warned
from router.doctor.flags import flags_of

PATH = "/homing/replicas"
LEAST_JUDGED = 20  # fewer say nothing about a share
LEAST_EXACT_RATIO = 0.95

Entry = Mapping[str, Any]  # Any: one replica's JSON as some release of Homing tells it

# Cause of a misprediction, as Homing names it: what it means, and what mends it. {0} is the engine, {1} a flag of it.
_EVENTS_LOST = (
    "event batches are lost",
    'Configure "replay_endpoint" and raise "hwm" in --kv-events-config; see numbering and replay.',
)
_TEMPLATE = (
    "it reads prompts otherwise than our template or tokenizer",
    "Let tokens.tokenizer (or models[].tokenizer) name what the engine runs with; see parity and probe_tokens.",
)
CAUSES: Mapping[str, tuple[str, str]] = {
    "event_loss": _EVENTS_LOST,
    "silent_publisher": ("its publisher fell silent", "Restart the engine; see flow."),
    "restart": ("it restarts, and its cache with it", "Look in the engine's log for why it restarts."),
    "eviction_race": (
        "blocks are evicted before they are used again",
        "Give it more cache (vLLM --gpu-memory-utilization, SGLang --mem-fraction-static), or fewer sessions.",
    ),
    "event_in_flight": (
        "requests follow each other faster than events come",
        "Nothing is wrong: turns a few hundred milliseconds apart are exact.",
    ),
    "block_size": (
        "its block size is not the one it tells",
        "Let events and HTTP come from one engine; see block_size.",
    ),
    "template_drift": _TEMPLATE,
    "tokenizer_drift": _TEMPLATE,
    "salt": (
        "salted requests whose events do not show the salt",
        "Send no cache_salt to this engine, or run a release whose events tell it; see salt.",
    ),
    "engine_habit": (
        "a constant difference of a block, as speculative decoding makes",
        "Nothing needs doing: Homing has learned it.",
    ),
    "unreported": ("answers without cached_tokens", "Start {0} with {1}."),
    "unproven": ("its tokens are not proven yet", "Wait for the parity probes; see parity."),
    "foreign": (
        "another engine answers at its address, or another router sends to it",
        "Give each engine's own address in replicas[].url; see one_process.",
    ),
}
# Causes that may stand in a list without anything being wrong; as a suspicion they lower trust all the same.
_HARMLESS = frozenset({"event_in_flight", "engine_habit", "eviction_race", "unproven"})


def judge_homing(engine: str | None, url: str, entries: Sequence[Entry] | None, where: str) -> Finding:
    """`entries`: what GET /homing/replicas told, None where it did not answer."""
    if entries is None:
        return failed(
            Check.HOMING, f"no Homing answers at {where}", "Give its admin address: --homing http://HOST:8081."
        )
    own = [entry for entry in entries if str(entry.get("url", "")).rstrip("/") == url]
    if not own:
        told = ", ".join(str(entry.get("url")) for entry in entries) or "none"
        return warned(Check.HOMING, f"not among its replicas ({told})", "Add it to the replicas of that Homing.")
    findings = [_judge(engine, entry, ranks=len(own) > 1) for entry in own]
    return min(findings, key=lambda finding: ("fail", "warn", "pass").index(finding.status.value))


def _judge(engine: str | None, entry: Entry, *, ranks: bool) -> Finding:
    name = f"{entry.get('replica')}: " if ranks else ""
    if entry.get("silence"):
        return failed(
            Check.HOMING, f"{name}it hears nothing from it: {entry['silence']}", "See reachable, and its network."
        )
    trust = str(entry.get("trust", "")).upper()
    judged, exact = _count(entry.get("judged")), _count(entry.get("exact"))
    told = f"{name}trust {trust or 'not told'}, {exact} of {judged} judged requests exact"
    causes = named_causes(entry)
    if causes:
        flags, spelled = flags_of(engine), [cause.replace("_", " ") for cause in causes]
        meaning, mend = CAUSES.get(causes[0], (spelled[0], "Ask `homing explain` for a request that missed."))
        says = entry["suspicion"].get("says") if isinstance(entry.get("suspicion"), Mapping) else None
        more = f" (also {', '.join(spelled[1:])})" if spelled[1:] else ""
        found = f"{told}; suspects {spelled[0]}: {says or meaning}{more}"
        return failed(Check.HOMING, found, mend.format(flags.title, flags.usage))
    if trust == "EXACT":
        if judged >= LEAST_JUDGED and exact < LEAST_EXACT_RATIO * judged:
            return warned(Check.HOMING, told, "Ask homing explain for a request that missed; see the checks above.")
        return passed(Check.HOMING, told)
    remarks = "; ".join(str(remark) for remark in entry.get("remarks") or ())
    why = f": {remarks}" if remarks else ""
    if trust == "CATCHING_UP":
        return warned(
            Check.HOMING, told + why, "Let traffic come: it learns what it missed; a replay makes it quicker."
        )
    return warned(Check.HOMING, told + why, "See the checks above that failed; Homing trusts it again by itself.")


def named_causes(entry: Entry) -> tuple[str, ...]:
    """Every cause an entry names, the suspicion first. Whatever has another shape than we know is passed over."""
    suspicion, causes = entry.get("suspicion"), entry.get("causes")
    named = [suspicion.get("cause")] if isinstance(suspicion, Mapping) else [suspicion]
    if isinstance(causes, Sequence) and not isinstance(causes, str):
        named += [cause for cause in causes if cause not in _HARMLESS]
    return tuple(dict.fromkeys(name.strip().lower().replace(" ", "_") for name in named if isinstance(name, str)))


def _count(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0
