"""Is anybody there, who is it, and is its clock ours? Judged from answers; asks nothing itself."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from email.utils import parsedate_to_datetime

from router.doctor.ask import Answer, Ending, Silence
from router.doctor.finding import Check, Finding, failed, passed, warned
from router.doctor.flags import flags_of
from router.fleet.replica import Facts, ServedModel

MAX_SKEW_SECONDS = 2.0
DATE_STEP_SECONDS = 1.0  # the header has no fractions

_MEND_REACH = {
    Ending.NO_NAME: "Correct the host in replicas[].url, or give this machine a DNS server that knows it.",
    Ending.REFUSED: "Start the engine, or correct the port in replicas[].url; "
    "an engine that listens on loopback only needs --host 0.0.0.0.",
    Ending.TIMED_OUT: "Open the port in the firewall or network policy between here and there.",
    Ending.NO_ROUTE: "Correct the address in replicas[].url, or the route there.",
    Ending.TLS: "Write http:// in replicas[].url if the replica speaks plain HTTP; "
    "else let SSL_CERT_FILE name the authority of its certificate.",
    Ending.HUNG: "Restart the engine; its log tells what it waits for.",
    Ending.NOT_HTTP: "Correct the port in replicas[].url: it is the engine's HTTP port; https:// if it speaks TLS.",
}
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


def judge_connection(connected: Silence | Collection[str], answers: Mapping[str, Answer | Silence]) -> Finding:
    """DNS, port, TLS, HTTP told apart."""
    if isinstance(connected, Silence):
        return _unreachable(connected)
    answered = [answer for answer in answers.values() if isinstance(answer, Answer)]
    if not answered:
        return _unreachable(next(a for a in answers.values() if isinstance(a, Silence)))
    fastest = min(answer.seconds for answer in answered)
    return passed(Check.REACHABLE, f"answers HTTP in {1000 * fastest:.0f} ms")


def judge_health(path: str, health: Answer | Silence) -> Finding | None:
    """None where the engine says it is well."""
    if isinstance(health, Silence):
        return _unreachable(health)
    if health.status in (200, 404):  # a release without the path: whatever else it answered shows that it lives
        return None
    return failed(
        Check.REACHABLE,
        f"{path} answers {health.status}: Homing sends it no requests",
        "Restart the engine, or wait until it has loaded its model; its log tells which.",
    )


def _unreachable(silence: Silence) -> Finding:
    detail = f" ({silence.detail})" if silence.detail else ""
    return failed(Check.REACHABLE, f"{silence.ending.value}{detail}", _MEND_REACH[silence.ending])


def judge_key(answers: Mapping[str, Answer | Silence], *, have_key: bool) -> Finding:
    statuses = [answer.status for answer in answers.values() if isinstance(answer, Answer)]
    if not any(status in (401, 403) for status in statuses):
        return passed(Check.API_KEY, "our key is taken" if have_key else "asks for no key")
    if have_key:
        return failed(
            Check.API_KEY,
            "refuses our key",
            "Put the engine's --api-key into the variable that auth.replica_api_key_env names.",
        )
    return failed(
        Check.API_KEY,
        "asks for a key and we have none",
        "Name the variable that holds the engine's --api-key in auth.replica_api_key_env (here: --api-key-env NAME).",
    )


def judge_engine(engine: str | None, known: Sequence[str]) -> Finding:
    if engine is not None:
        return passed(Check.ENGINE, flags_of(engine).title)
    names = " or ".join(flags_of(name).title for name in known)
    return failed(
        Check.ENGINE,
        f"its answers are not those of {names}",
        f"Let replicas[].url point at the API server of {names} itself, not at a proxy that hides its other paths.",
    )


def judge_version(engine: str, version: str | None) -> Finding:
    flags = flags_of(engine)
    oldest, newest = (".".join(map(str, bound)) for bound in flags.known)
    known = oldest if oldest == newest else f"{oldest} to {newest}"
    found = _VERSION.match(version or "")
    if version is None or found is None:
        return warned(
            Check.VERSION,
            "does not tell its version" if version is None else f"version {version!r} says nothing to us",
            f"Let GET /version and /server_info through; Homing knows {flags.title} {known}.",
        )
    numbers = tuple(int(part or 0) for part in found.groups())
    low, high = flags.known
    if low <= numbers[: len(low)] and numbers[: len(high)] <= high:
        return passed(Check.VERSION, f"{version}, known")
    age = "older" if numbers[: len(low)] < low else "newer"
    return warned(
        Check.VERSION,
        f"{version} is {age} than what this Homing was tried with ({known})",
        f"Run {flags.title} {newest}, or watch `exact` of `judged` in GET /homing/replicas for a day.",
    )


def judge_models(models: Sequence[ServedModel]) -> Finding:
    if not models:
        return failed(
            Check.MODELS,
            "GET /v1/models names no model: Homing sends it no requests",
            "Let /v1/models through to the engine, and wait until it has loaded its model.",
        )
    bases = [model for model in models if model.adapter is None]
    adapters = [model.name for model in models if model.adapter is not None]
    length = next((model.max_model_len for model in bases if model.max_model_len), None)
    told = f"{', '.join(model.name for model in bases)}"
    told += f", up to {length} tokens" if length else ", maximum length not told"
    return passed(Check.MODELS, told + (f"; LoRA: {', '.join(adapters)}" if adapters else ""))


def judge_one_process(asked: Sequence[Facts]) -> Finding:
    """The same questions, several times, each on a connection of its own."""
    starts = sorted({facts.process_start_time for facts in asked if facts.process_start_time is not None})
    versions = {facts.version for facts in asked if facts.version is not None}
    models = {tuple((m.name, m.root) for m in facts.models) for facts in asked if facts.models}
    if len(starts) <= 1 and len(versions) <= 1 and len(models) <= 1:
        count = len(asked)
        told = f"the same process answered {count} times" if starts else "does not tell its start; answers agree"
        return passed(Check.ONE_PROCESS, told)
    differs = "process start" if len(starts) > 1 else "version" if len(versions) > 1 else "model"
    return failed(
        Check.ONE_PROCESS,
        f"its {differs} changes from one answer to the next: another engine answers at the same address",
        "Give each engine's own address in replicas[].url, not that of a load balancer or Service; "
        "if it was just restarting, ask again.",
    )


def judge_clock(answers: Mapping[str, Answer | Silence], batch_skews_seconds: Sequence[float]) -> Finding:
    """`batch_skews_seconds`: time written in event batches, less our time when they came."""
    skews = [skew for answer in answers.values() if isinstance(answer, Answer) and (skew := _skew(answer)) is not None]
    # The finer clock first; the least skew, since delay on the way looks like a slow clock.
    candidates = list(batch_skews_seconds) or skews
    if not candidates:
        return passed(Check.CLOCK, "does not tell the time; nothing depends on it")
    skew = min(candidates, key=abs)
    slack = 0.0 if batch_skews_seconds else DATE_STEP_SECONDS
    if abs(skew) <= MAX_SKEW_SECONDS + slack:
        return passed(Check.CLOCK, f"within {max(abs(skew), 0.1):.1f} s of ours")
    return warned(
        Check.CLOCK,
        f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} ours: a restart may be seen late or where none was",
        "Run chrony or another NTP client on both machines.",
    )


def _skew(answer: Answer) -> float | None:
    if answer.date is None:
        return None
    try:
        told = parsedate_to_datetime(answer.date).timestamp()
    except ValueError:
        return None
    # The header is cut to whole seconds: half a second more on average.
    return told + DATE_STEP_SECONDS / 2 - (answer.asked_wall_seconds + answer.seconds / 2)
