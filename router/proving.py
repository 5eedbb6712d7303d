"""Finds each model's token source when its first replica tells of it, and proves it against the engine (R 3.1, R 3.2).

Until that is done the engine itself is asked, so no request waits for it.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor

from router.clock import Clock
from router.config import Config, TokenSetting
from router.errors import HomingError, NoReplica
from router.fleet.health import Health
from router.fleet.replica import Seat, ServedModel
from router.fleet.roster import Roster
from router.gateway.readers import Readers
from router.gateway.upstream import Upstream
from router.prompt.blocks import BlockHasher
from router.prompt.engine import EngineTokens
from router.prompt.local import LocalTokens
from router.prompt.parity import Verdict
from router.prompt.read import PromptReader
from router.prompt.source import NotLocal, find_tokenizer, load_local

RETRY_SECONDS = 2.0  # between two attempts at a probe whose engine did not answer
JSON = [(b"content-type", b"application/json")]


class Proving:
    """One task per base model: find, load, prove, then hand the reader over."""

    def __init__(
        self,
        config: Config,
        *,
        roster: Roster,
        health: Health,
        upstreams: Mapping[Seat, Upstream],
        readers: Readers,
        read_tokens: Callable[[bytes], Sequence[int]],
        tokenize_path: str,
        executor: Executor,
        clock: Clock,
        tasks: asyncio.TaskGroup,
        credentials: Sequence[tuple[bytes, bytes]],
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._roster = roster
        self._health = health
        self._upstreams = upstreams
        self._readers = readers
        self._read_tokens = read_tokens
        self._tokenize_path = tokenize_path
        self._executor = executor
        self._clock = clock
        self._tasks = tasks
        self._headers = [*JSON, *credentials]
        self._say = say
        self._hasher = BlockHasher(config.tokens.cache_megabytes * 2**20 // 4)
        self._asked = 0
        self._proving: dict[str, asyncio.Task[None]] = {}

    def model_found(self, model: ServedModel, _seat: Seat) -> None:
        """A replica serves this base model: see to its token source, once."""
        if model.base not in self._proving:
            self._proving[model.base] = self._tasks.create_task(self._prove(model), name=f"tokens of {model.base}")

    def close(self) -> None:
        for task in self._proving.values():
            task.cancel()

    def reader(self, local: LocalTokens | None, engine: EngineTokens | None) -> PromptReader:
        return PromptReader(
            local=local,
            engine=engine,
            hasher=self._hasher,
            hash_seed=self._config.tokens.hash_seed,
            executor=self._executor,
        )

    async def _prove(self, model: ServedModel) -> None:
        try:
            await self._find_and_compare(model)
        except Exception as bug:  # a strange tokenizer file must not end the house; the engine is asked meanwhile
            traceback.print_exc()
            self._say(f"{model.base}: its tokenizer cannot be used ({bug!r}); tokens from the engine")

    async def _find_and_compare(self, model: ServedModel) -> None:
        source = self._config.tokens.source
        if source is TokenSetting.NONE:
            self._readers.put(model.base, self.reader(None, None))
            self._say(f"{model.base}: tokens none (configured): routing by load and session")
            return
        engine = EngineTokens(lambda body: self._tokenize(model.name, body))
        self._readers.put(model.base, self.reader(None, engine))
        if source is TokenSetting.ENGINE:
            self._say(f"{model.base}: tokens from the engine (configured)")
            return
        found = await asyncio.get_running_loop().run_in_executor(self._executor, self._load, model)
        if isinstance(found, NotLocal):
            self._say(f"{model.base}: tokens from the engine: {found.reason}")
            return
        self._readers.put(model.base, self.reader(found, engine))
        await self._compare(model, found)
        parity = found.parity
        if parity.verdict is Verdict.FAILED:
            why = "; ".join(str(divergence) for divergence in parity.divergences[:2])
            self._say(f"{model.base}: tokens from the engine: the local tokenizer ({found.note}) differs: {why}")
            return
        apart = ", ".join(sorted(feature.value for feature in parity.broken))
        self._say(
            f"{model.base}: tokens local, proven on {len(parity.probes)} probes ({found.note})"
            + (f"; left to the engine: {apart}" if apart else "")
        )

    def _load(self, model: ServedModel) -> LocalTokens | NotLocal:
        """In a thread: takes seconds."""
        setting = next((m.tokenizer for m in self._config.models if m.name == model.name and m.tokenizer), None)
        folder = find_tokenizer(setting or self._config.tokens.tokenizer, model.root)
        if isinstance(folder, NotLocal):
            return folder
        return load_local(folder, self._clock.wall, cache_bytes=self._config.tokens.cache_megabytes * 2**20 * 3 // 4)

    async def _compare(self, model: ServedModel, local: LocalTokens) -> None:
        """Every probe, on both sides. One that the engine does not answer is asked again until it does."""
        for probe in local.parity.probes:
            while True:
                try:
                    theirs: Sequence[int] | None = await self._tokenize(model.name, probe.tokenize_body(model.name))
                except Refused:
                    theirs = None
                except HomingError:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                break
            local.judge(probe, theirs)

    async def _tokenize(self, model: str, body: bytes) -> Sequence[int]:
        """Token ids from any healthy replica of the model. Raises Refused for a 4xx, another HomingError otherwise."""
        seats = self._roster.serving(model)
        healthy = seats[self._health.allowed(seats, self._clock.now())]
        if not len(healthy):
            raise NoReplica(f"no healthy replica of {model} to ask for tokens")
        self._asked += 1  # in turn: one replica must not read the prompts of all
        upstream = self._upstreams[Seat(int(healthy[self._asked % len(healthy)]))]
        with await upstream.request("POST", self._tokenize_path, self._headers, (body,)) as response:
            answer = await response.read()
        if response.status == 200:
            return self._read_tokens(answer)
        if 400 <= response.status < 500:
            raise Refused(f"{self._tokenize_path} answered {response.status}")
        raise NoReplica(f"{self._tokenize_path} answered {response.status}")


class Refused(HomingError):
    """The engine will not tokenize this."""
