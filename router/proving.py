"""Finds each model's token source, and proves it against the engines, replica by replica (R 3.1, R 3.2).

Per model: the tokenizer is looked for when its first replica tells of it. The first replica whose own ids equal ours on
the whole probe set proves it; until one has, and where none does, the engine is asked for tokens, so no request waits.

Per replica: until its ids are compared on a handful of probes, its trust is capped at GUESSED (`unproven`), after each
restart anew. They are compared with ours where our source is proven, else with those of a replica that counts as
proven. A replica whose ids differ, twice, reads prompts in another way than the rest of the model's replicas, so
nothing foretold for it holds: LOAD_ONLY, `template_drift`. When not one replica is left that agrees, the model itself
has changed: the tokenizer is looked for again, and the first to be compared is the measure.

Replicas of one model are compared one after another. Ids are always compared with ids of this moment, never remembered
ones: some templates write the date.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from router.clock import Clock
from router.config import Config, TokenSetting
from router.engines.base import Dialect
from router.errors import HomingError, NoReplica
from router.fleet.health import Health, State
from router.fleet.replica import Seat, ServedModel
from router.fleet.roster import Roster
from router.gateway.readers import Readers
from router.gateway.trust import EffectiveTrust
from router.gateway.upstream import Upstream
from router.index.base import Trust
from router.prompt.blocks import BlockHasher, pack_tokens
from router.prompt.engine import EngineTokens
from router.prompt.local import LocalTokens
from router.prompt.parity import Divergence, Verdict, compare
from router.prompt.probes import PROBES, Probe
from router.prompt.read import PromptReader
from router.prompt.source import NotLocal, find_tokenizer, load_local

RETRY_SECONDS = 2.0  # between two attempts at a replica that did not answer
ANSWER_SECONDS = 10.0  # for one probe: a hung replica must not keep the others of its model waiting
JSON = [(b"content-type", b"application/json")]
UNPROVEN, DRIFT = "unproven", "template_drift"
# What most templates and most mistakes show in: roles and generation prompt, odd text, tools, BOS.
HANDFUL = frozenset(
    ("system and turns", "unicode", "thinking in text", "tools", "tool calls", "completion of awkward text")
)


@dataclass(slots=True)
class _Model:
    """What is known of one base model's tokens. Changed under its lock only."""

    dialect: Dialect  # of the replica that told of it first
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    sought: bool = False
    local: LocalTokens | None = None
    proven: set[Seat] = field(default_factory=set)  # replicas that agree: with our ids, or with each other

    @property
    def is_local(self) -> bool:
        return self.local is not None and self.local.parity.verdict is Verdict.PASSED


class Proving:
    """One task per replica and base model, until it is proven."""

    def __init__(
        self,
        config: Config,
        *,
        roster: Roster,
        health: Health,
        trust: EffectiveTrust,
        upstreams: Mapping[Seat, Upstream],
        readers: Readers,
        executor: Executor,
        clock: Clock,
        tasks: asyncio.TaskGroup,
        credentials: Sequence[tuple[bytes, bytes]],
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._roster = roster
        self._health = health
        self._trust = trust
        self._upstreams = upstreams
        self._readers = readers
        self._executor = executor
        self._clock = clock
        self._tasks = tasks
        self._headers = [*JSON, *credentials]
        self._say = say
        self._hasher = BlockHasher(config.tokens.cache_megabytes * 2**20 // 4)
        self._asked = 0
        self._models: dict[str, _Model] = {}
        self._found: dict[Seat, dict[str, tuple[ServedModel, Dialect]]] = {}
        self._proving: dict[tuple[Seat, str], asyncio.Task[None]] = {}
        self.divergences: dict[Seat, Divergence] = {}  # of the replicas that drifted, the first

    # What the keeper tells

    def joined(self, seat: Seat) -> None:
        if self._config.tokens.source is not TokenSetting.NONE:
            self._trust.cap(seat, UNPROVEN, Trust.GUESSED)

    def found(self, model: ServedModel, seat: Seat, dialect: Dialect) -> None:
        """The replica tells that it serves this base model."""
        self._found.setdefault(seat, {})[model.base] = model, dialect
        self._models.setdefault(model.base, _Model(dialect))
        self._begin(seat, model.base)

    def restarted(self, seat: Seat) -> None:
        self._forget(seat)
        self.joined(seat)
        for base in self._found.get(seat, {}):
            self._begin(seat, base)

    def left(self, seat: Seat) -> None:
        self._forget(seat)
        for base in self._found.pop(seat, {}):
            task = self._proving.pop((seat, base), None)
            if task is not None:
                task.cancel()

    def close(self) -> None:
        for task in self._proving.values():
            task.cancel()

    # The proof

    def _begin(self, seat: Seat, base: str) -> None:
        before = self._proving.get((seat, base))
        if before is not None:
            before.cancel()
        name = f"tokens of {base} at {self._name(seat)}"
        self._proving[seat, base] = self._tasks.create_task(self._prove(seat, base), name=name)

    def _forget(self, seat: Seat) -> None:
        for model in self._models.values():
            model.proven.discard(seat)
        if self.divergences.pop(seat, None) is not None:
            self._trust.cap(seat, DRIFT, None)

    async def _prove(self, seat: Seat, base: str) -> None:
        model = self._models[base]
        served, dialect = self._found[seat][base]
        is_usable = True
        while True:
            try:
                async with model.lock:
                    if not model.sought:
                        await self._seek(model, served)
                    await self._hold_against(model, served, seat, dialect)
            except (HomingError, TimeoutError):
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except Exception as bug:  # a strange tokenizer file must not end the house; the engine is asked meanwhile
                traceback.print_exc()
                self._say(f"{base}: its tokenizer cannot be used ({bug!r}); tokens from the engine")
                model.sought, model.local = True, None
                if is_usable:
                    is_usable = False
                    continue  # then the engines among themselves
            return

    async def _seek(self, model: _Model, served: ServedModel) -> None:
        """Find the model's tokenizer. Until it is proven the engine reads."""
        source, base = self._config.tokens.source, served.base
        if source is TokenSetting.NONE:
            self._readers.put(base, self.reader(None, None))
            self._say(f"{base}: tokens none (configured): routing by load and session")
        else:
            engine = self._engine(model, served)
            self._readers.put(base, self.reader(None, engine))
            if source is TokenSetting.ENGINE:
                self._say(f"{base}: tokens from the engine (configured)")
            else:
                found = await asyncio.get_running_loop().run_in_executor(self._executor, self._load, served)
                if isinstance(found, NotLocal):
                    self._say(f"{base}: tokens from the engine: {found.reason}")
                else:
                    model.local = found
                    self._readers.put(base, self.reader(found, engine))
        model.sought = True

    async def _hold_against(self, model: _Model, served: ServedModel, seat: Seat, dialect: Dialect) -> None:
        """Compare the replica's ids with whatever is the measure. Raises HomingError where it does not answer."""
        local = model.local
        if self._config.tokens.source is TokenSetting.NONE:
            return
        if local is not None and not model.is_local:
            await self._prove_whole(local, served, seat, dialect)
            if model.is_local:
                others, model.proven = model.proven - {seat}, set()
                self._agrees(model, seat)
                for other in others:  # they agreed with each other, which is not worth as much
                    self._begin(other, served.base)
                return
        divergence = await self._difference(model, served, seat, dialect)
        if divergence is not None:  # once more: the date in a template may have changed between the two
            divergence = await self._difference(model, served, seat, dialect)
        if divergence is None:
            self._agrees(model, seat)
            return
        if not model.proven:
            self._say(f"{served.base}: {self._name(seat)} reads it in another way than before ({divergence})")
            model.sought, model.local, model.dialect = False, None, dialect
            await self._seek(model, served)
            await self._hold_against(model, served, seat, dialect)
            return
        model.proven.discard(seat)
        self.divergences[seat] = divergence
        self._trust.cap(seat, DRIFT, Trust.LOAD_ONLY)
        self._trust.cap(seat, UNPROVEN, None)
        self._say(f"{self._name(seat)}: {DRIFT}: it does not read prompts as {served.base} is read here ({divergence})")

    def _agrees(self, model: _Model, seat: Seat) -> None:
        model.proven.add(seat)
        self._trust.cap(seat, UNPROVEN, None)

    async def _prove_whole(self, local: LocalTokens, served: ServedModel, seat: Seat, dialect: Dialect) -> None:
        """The whole probe set at one replica."""
        tried = local.parity.verdict is Verdict.FAILED
        answers = [(probe, await self._ids(served, seat, dialect, probe)) for probe in local.parity.probes]
        local.parity.restart()
        for probe, theirs in answers:
            local.judge(probe, theirs)
        parity, note = local.parity, local.note
        if parity.verdict is Verdict.PASSED:
            apart = ", ".join(sorted(feature.value for feature in parity.broken))
            self._say(
                f"{served.base}: tokens local, proven on {len(parity.probes)} probes ({note})"
                + (f"; left to the engine: {apart}" if apart else "")
            )
        elif not tried:
            why = "; ".join(str(divergence) for divergence in parity.divergences[:2])
            self._say(f"{served.base}: tokens from the engine: the local tokenizer ({note}) differs: {why}")

    async def _difference(self, model: _Model, served: ServedModel, seat: Seat, dialect: Dialect) -> Divergence | None:
        """The first probe of a handful on which the replica differs from the measure."""
        local = model.local if model.is_local else None
        apart = {divergence.probe for divergence in local.parity.divergences} if local is not None else set()
        measure = next((one for one in sorted(model.proven) if one != seat and self._answers(one)), None)
        for probe in PROBES:
            if probe.name not in HANDFUL or probe.name in apart:
                continue
            if probe.feature is not None and dialect.name != model.dialect.name:
                continue  # engines differ in odd corners without reading plain chats apart
            if local is not None:
                ours = local.ids(probe)
            elif measure is not None:
                other = self._found[measure][served.base]
                theirs = await self._ids(other[0], measure, other[1], probe)
                ours = None if theirs is None else pack_tokens(theirs)
            else:
                return None  # nobody to differ from
            divergence = compare(probe.name, ours, await self._ids(served, seat, dialect, probe))
            if divergence is not None:
                return divergence
        return None

    # Tokens from engines

    def reader(self, local: LocalTokens | None, engine: EngineTokens | None) -> PromptReader:
        return PromptReader(
            local=local,
            engine=engine,
            hasher=self._hasher,
            hash_seed=self._config.tokens.hash_seed,
            executor=self._executor,
        )

    def _engine(self, model: _Model, served: ServedModel) -> EngineTokens:
        return EngineTokens(lambda body: self._tokenize(model, served.name, body), body=model.dialect.tokenize_body)

    def _load(self, model: ServedModel) -> LocalTokens | NotLocal:
        """In a thread: takes seconds."""
        setting = next((m.tokenizer for m in self._config.models if m.name == model.name and m.tokenizer), None)
        folder = find_tokenizer(setting or self._config.tokens.tokenizer, model.root)
        if isinstance(folder, NotLocal):
            return folder
        return load_local(folder, self._clock.wall, cache_bytes=self._config.tokens.cache_megabytes * 2**20 * 3 // 4)

    async def _ids(self, served: ServedModel, seat: Seat, dialect: Dialect, probe: Probe) -> Sequence[int] | None:
        """The replica's own ids for a probe; None: it refuses it."""
        prompt = probe.fields.get("prompt")
        body = dialect.tokenize_body(probe.request(served.name), prompt)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._ask(seat, dialect, body)
        except Refused:
            return None

    async def _tokenize(self, model: _Model, name: str, body: bytes) -> Sequence[int]:
        """Token ids from a healthy replica of the model that agrees with the others, else from any healthy one.

        Raises Refused for a 4xx, another HomingError otherwise.
        """
        seats = self._roster.serving(name)
        healthy = [Seat(seat) for seat in seats[self._health.allowed(seats, self._clock.now())].tolist()]
        like = [seat for seat in healthy if self._speaks(seat, model.dialect)]
        asked = [seat for seat in like if seat in model.proven] or like
        if not asked:
            raise NoReplica(f"no healthy replica of {name} to ask for tokens")
        self._asked += 1  # in turn: one replica must not read the prompts of all
        return await self._ask(asked[self._asked % len(asked)], model.dialect, body)

    async def _ask(self, seat: Seat, dialect: Dialect, body: bytes) -> Sequence[int]:
        upstream = self._upstreams.get(seat)
        if upstream is None:
            raise NoReplica(f"{self._name(seat)} has left")
        path = dialect.tokenize_path
        with await upstream.request("POST", path, self._headers, (body,)) as response:
            answer = await response.read()
        if response.status == 200:
            return dialect.tokens(answer)
        if 400 <= response.status < 500:
            raise Refused(f"{path} answered {response.status}")
        raise NoReplica(f"{path} answered {response.status}")

    def _speaks(self, seat: Seat, dialect: Dialect) -> bool:
        return any(one.name == dialect.name for _, one in self._found.get(seat, {}).values())

    def _answers(self, seat: Seat) -> bool:
        return seat in self._found and self._health.state(seat, self._clock.now()) is not State.OPEN

    def _name(self, seat: Seat) -> str:
        return self._roster.replica(seat).id


class Refused(HomingError):
    """The engine will not tokenize this."""
