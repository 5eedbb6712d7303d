"""Examines one replica: each check builds on the last, and what cannot be asked any more is said to be skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

import httpx
import zmq.asyncio

from router.clock import Clock
from router.config import Config, TokenSetting
from router.doctor import cache, layout, pairs, probe, reach, stream, tokens
from router.doctor.ask import Answer, Asker, Silence, get_all
from router.doctor.conduct import conduct, make_question
from router.doctor.finding import UNREACHED, Check, Finding, ReplicaReport, Status, failed, in_order, skipped
from router.doctor.fleet import Known
from router.doctor.hear import Ear, Greeting, listening
from router.doctor.homing import Entry, judge_homing
from router.doctor.read import Local, Reading, Shelf, bare_texts, worded
from router.doctor.trial import Trial, stored_runs
from router.engines.base import Dialect
from router.fleet.replica import EventAddress, Facts, Replica, ServedModel
from router.prompt.probes import PROBES
from router.prompt.source import NotLocal

TIMES_ASKED = 3  # who answers: a load balancer over two engines hides from three questions once in four


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is the same for all replicas."""

    config: Config
    dialects: Sequence[Dialect]
    http: httpx.AsyncClient
    context: zmq.asyncio.Context
    clock: Clock
    shelf: Shelf
    timeout_seconds: float
    probing: bool  # whether prompts may be sent
    homing: str | None = None  # the admin address of a running Homing
    entries: Sequence[Entry] | None = None  # what it told


@dataclass(slots=True)
class Examination:
    """One replica under examination. `run` is its only writer."""

    replica: Replica
    around: Surroundings
    findings: list[Finding] = field(default_factory=list)
    known: Known | None = None  # for the checks over several replicas
    side: pairs.Side | None = None

    async def run(self) -> ReplicaReport:
        engine: str | None = None
        try:
            engine = await self._run()
        except Exception as bug:  # a fault of ours in one replica's examination must not hide the others'
            told = f"the doctor itself failed: {bug!r}"
            self.findings.append(failed(Check.ENGINE, told, "Report it, with what this replica answers."))
        if self.around.homing is not None:
            where = self.around.homing
            self.findings.append(judge_homing(engine, self.replica.url, self.around.entries, where))
        return ReplicaReport(self.replica.id, self.replica.url, engine, in_order(self._filled()))

    def _filled(self) -> list[Finding]:
        """With every check of a replica that was not reached."""
        made = {finding.check for finding in self.findings}
        of_fleet = (
            Check.POLICY,
            Check.SHARED,
            Check.SAME_MODEL,
            Check.SAME_VERSION,
            Check.SAME_BLOCK_SIZE,
            Check.DISTINCT,
            Check.PAIRS,
        )
        missing = [check for check in Check if check not in made and check not in (*of_fleet, Check.HOMING)]
        return [*self.findings, *(skipped(check, UNREACHED) for check in missing)]

    async def _run(self) -> str | None:
        around = self.around
        asker = Asker(around.http, self.replica.url, around.clock, around.timeout_seconds)
        connected = await asker.connect()
        if isinstance(connected, Silence):
            self.findings.append(reach.judge_connection(connected, {}))
            return None
        paths = tuple(dict.fromkeys((*(path for d in around.dialects for path in d.paths), *layout.PATHS)))
        asked = await ask_twice(asker, paths)
        self.findings.append(reached := reach.judge_connection(connected, asked))
        if reached.mend is not None:
            return None
        self.findings.append(key := reach.judge_key(asked, have_key=around.config.auth.replica_api_key() is not None))
        if key.mend is not None:
            return None
        answers = bodies(asked)
        dialect = next((d for d in around.dialects if d.recognises(answers)), None)
        self.findings.append(self._judge_engine(dialect))
        if dialect is None:
            return None
        health = reach.judge_health(dialect.health_path, await asker.get(dialect.health_path))
        if health is not None:
            self.findings[0] = health
            return dialect.name
        await self._examine(asker, dialect, connected, asked, answers)
        return dialect.name

    def _judge_engine(self, dialect: Dialect | None) -> Finding:
        wanted = self.replica.engine
        if dialect is not None and wanted is not None and wanted != dialect.name:
            return failed(
                Check.ENGINE,
                f"configured as {wanted}, and its answers are those of {dialect.name}",
                f"Set replicas[].engine to {dialect.name}, or leave it out.",
            )
        return reach.judge_engine(None if dialect is None else dialect.name, [d.name for d in self.around.dialects])

    async def _examine(
        self,
        asker: Asker,
        dialect: Dialect,
        addresses: Sequence[str],
        asked: Mapping[str, Answer | Silence],
        answers: Mapping[str, bytes],
    ) -> None:
        """A replica that answers, and whose language is known."""
        around, engine, add = self.around, dialect.name, self.findings.append
        facts, _ = dialect.learned(self.replica.url, answers)
        add(reach.judge_version(engine, facts.version))
        add(reach.judge_models(facts.models))
        again = await self._again(asker, dialect)
        add(reach.judge_one_process([facts, *(dialect.learned(self.replica.url, told)[0] for told in again)]))
        ranks = layout.published(answers)
        add(layout.judge_ranks(facts.ranks, ranks))
        add(layout.judge_disaggregation(engine, answers))
        found = await stream.find(self.replica, dialect, answers, facts, ranks, around.timeout_seconds)
        self.findings += found.findings
        model = next((model for model in facts.models if model.adapter is None), None)
        if model is None:
            return
        local = await self._tokens(asker, dialect, model)
        reading = Reading(asker, dialect, model, local if self._parity_holds() else None)
        texts = bare_texts if local is None else local.texts
        trial, ear = await self._trial(
            asker, dialect, reading, model, facts, found.address, half=layout.is_half(answers)
        )
        heard = ear.heard if ear is not None else ()
        carried = [run.block_size_tokens for run in stored_runs(heard)]
        add(cache.judge_block_size(engine, facts, carried))
        self._judge_trial(dialect, facts, trial, texts)
        hearing = stream.Hearing(around.context, dialect, around.clock, around.timeout_seconds)
        self.findings += await hearing.judge(found, ear, trial)
        skews = [m.batch.time_seconds - m.wall_seconds for m in heard if m.batch is not None]
        add(reach.judge_clock(asked, skews))
        port_number = None if found.address is None else urlsplit(found.address.endpoint).port
        self.known = Known(
            self.replica.id,
            engine,
            facts,
            frozenset((address, port_number) for address in addresses if port_number is not None),
            frozenset((message.sequence, message.payload) for message in heard),
        )
        given = None
        if around.probing and pairs.gives(self.replica, self.known):
            given = await pairs.asked_for_kv(asker, self.known, around.timeout_seconds)
        self.side = pairs.Side(self.replica, self.known, given)

    async def _again(self, asker: Asker, dialect: Dialect) -> Sequence[Mapping[str, bytes]]:
        """The same questions again. Each path several times in a row: whoever takes turns takes one between."""
        told: list[dict[str, Answer | Silence]] = [{} for _ in range(TIMES_ASKED - 1)]
        for path in dialect.paths:
            for one in told:
                one[path] = await asker.get(path)
        return [bodies(one) for one in told]

    async def _tokens(self, asker: Asker, dialect: Dialect, model: ServedModel) -> Local | None:
        """Judges the token source and its parity; the local source, whether it holds or not."""
        source = self.around.config.tokens.source
        found: Local | NotLocal | None = None
        if source is TokenSetting.AUTO:
            found = await self.around.shelf.find(model)
        local = found if isinstance(found, Local) else None
        reading = Reading(asker, dialect, model, local)
        reads = await reading.engine_reads()
        compared = await reading.compare() if reads.text or reads.chat else None
        note = found.tokens.note if isinstance(found, Local) else found
        add, engine = self.findings.append, dialect.name
        add(tokens.judge_source(note, reads, wanted=source.value, compared=compared))
        why_not = "there is no local token source to compare" if local is None else f"{reads.path} does not answer"
        texts = theirs = bare_texts if local is None else local.texts
        if compared is not None and compared.divergences:
            words = await reading.engine_words(tokens.first_shown(compared).theirs)
            theirs = partial(worded, words=words) if words else texts
        add(tokens.judge_parity(engine, compared, texts, theirs, why_not))
        if compared is not None and compared.asked < len(PROBES):
            self.findings[-1] = skipped(Check.PARITY, f"{reads.path} fell silent after {compared.asked} probes")
        return local

    def _parity_holds(self) -> bool:
        return not any(f.check is Check.PARITY and f.status is Status.FAIL for f in self.findings)

    async def _trial(
        self,
        asker: Asker,
        dialect: Dialect,
        reading: Reading,
        model: ServedModel,
        facts: Facts,
        address: EventAddress | None,
        *,
        half: bool,
    ) -> tuple[Trial | None, Ear | None]:
        """The live probe with an ear on the events; without a probe, the ear alone."""
        around = self.around
        async with AsyncExitStack() as stack:
            ear: Ear | None = None
            if address is not None:
                ear = await stack.enter_async_context(
                    listening(around.context, address.endpoint, dialect.wire, around.clock, around.timeout_seconds)
                )
            if not around.probing or half:
                return None, ear
            question = await make_question(reading, model, facts.block_size_tokens)
            headers = dialect.rank_headers(0) if (facts.ranks or 1) > 1 else ()
            hash_seed = around.config.tokens.hash_seed
            met = ear if ear is not None and ear.greeting is Greeting.MET else None
            return await conduct(asker, question, model, met, headers, hash_seed), ear

    def _judge_trial(self, dialect: Dialect, facts: Facts, trial: Trial | None, texts: probe.Texts) -> None:
        add, engine = self.findings.append, dialect.name
        if trial is None:
            why = "no probe was sent"
            add(cache.judge_caching(engine, facts, None))
            for check in (Check.USAGE, Check.PROBE_TOKENS, Check.PROBE_HIT, Check.SALT):
                add(skipped(check, why))
            return
        placed, salted = probe.placed_plain(trial), probe.placed_salted(trial)
        add(cache.judge_caching(engine, facts, trial.second.cached_tokens))
        if trial.first.fault is None:
            add(
                cache.judge_usage(
                    engine, trial.first.prompt_tokens, trial.first.cached_tokens, trial.second.cached_tokens
                )
            )
        else:
            add(skipped(Check.USAGE, f"the probe was not answered: {trial.first.fault}"))
        add(probe.judge_tokens(engine, trial, placed, texts))
        add(probe.judge_hit(trial, placed))
        add(probe.judge_salt(engine, trial, placed, salted))


async def ask_twice(asker: Asker, paths: Sequence[str]) -> Mapping[str, Answer | Silence]:
    """Every path; those silent where others answered once more: a busy API server can be slow for one question."""
    asked = await get_all(asker, paths)
    silent = [path for path, answer in asked.items() if isinstance(answer, Silence)]
    return asked if len(silent) == len(paths) else {**asked, **await get_all(asker, silent)}


def bodies(asked: Mapping[str, Answer | Silence]) -> dict[str, bytes]:
    """The answers with status 200, as dialects take them."""
    return {path: a.body for path, a in asked.items() if isinstance(a, Answer) and a.status == 200}
