"""Reads prompts as Homing would: finds each model's tokenizer once, and asks the engine's own tokenizing endpoint."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import tokenizers

from router.config import Config
from router.doctor.ask import Answer, Asker
from router.doctor.tokens import Compared, EngineReads
from router.engines.base import Dialect
from router.events.kinds import WireFault
from router.fleet.replica import ServedModel
from router.prompt.blocks import TokenIds, pack_tokens
from router.prompt.local import LocalTokens
from router.prompt.parity import Parity
from router.prompt.probes import PROBES, Probe
from router.prompt.prompt import Tokenized
from router.prompt.request import InferenceRequest
from router.prompt.source import NotLocal, find_tokenizer, load_local

DETOKENIZE_PATH = "/detokenize"  # of both engines


class _Detokenized(msgspec.Struct):
    prompt: str = ""  # vLLM
    text: str = ""  # SGLang


@dataclass(frozen=True, slots=True)
class Local:
    """A local token source and the words of its ids."""

    tokens: LocalTokens
    vocabulary: tokenizers.Tokenizer

    def texts(self, ids: Sequence[int]) -> str:
        """Ids in words: `[151644 '<|im_start|>', 872 'user']`."""
        return _listed(ids, lambda number: self.vocabulary.id_to_token(number))


def worded(ids: Sequence[int], words: Mapping[int, str]) -> str:
    """Ids in the engine's own words."""
    return _listed(ids, words.get)


def bare_texts(ids: Sequence[int]) -> str:
    """Ids where no vocabulary is at hand."""
    return _listed(ids, lambda _number: None)


def _listed(ids: Sequence[int], word: Callable[[int], str | None]) -> str:
    told = ((number, word(number)) for number in ids)
    return "[" + ", ".join(str(number) if text is None else f"{number} {text!r}" for number, text in told) + "]"


class Shelf:
    """The tokenizers of all models asked about, each loaded once, in a thread. Used from one event loop."""

    def __init__(self, config: Config, wall_seconds: Callable[[], float]) -> None:
        self._config = config
        self._wall_seconds = wall_seconds
        self._loaded: dict[tuple[str, str | None], Local | NotLocal] = {}
        self._lock = asyncio.Lock()  # one at a time: loading takes all of a core anyway

    async def find(self, model: ServedModel) -> Local | NotLocal:
        named = next((m.tokenizer for m in self._config.models if m.name == model.name and m.tokenizer), None)
        setting = named or self._config.tokens.tokenizer
        key = (setting, model.root if setting == "auto" else None)
        async with self._lock:
            if key not in self._loaded:
                self._loaded[key] = await asyncio.to_thread(self._load, setting, model.root)
            return self._loaded[key]

    def _load(self, setting: str, root: str | None) -> Local | NotLocal:
        folder = find_tokenizer(setting, root)
        if isinstance(folder, NotLocal):
            return folder
        try:
            found = load_local(folder, self._wall_seconds, cache_bytes=8 << 20)
            return found if isinstance(found, NotLocal) else Local(found, _vocabulary(folder))
        except Exception as bug:  # a strange tokenizer file must not end the examination of the rest
            return NotLocal(f"{folder} cannot be used ({bug!r})")


def _vocabulary(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


class Reading:
    """One replica's prompts, read by `local` and by the engine."""

    def __init__(self, asker: Asker, dialect: Dialect, model: ServedModel, local: Local | None) -> None:
        self._asker = asker
        self._dialect = dialect
        self._model = model
        self.local = local

    async def compare(self) -> Compared | None:
        """Every parity probe on both sides, until the engine falls silent; None without a local source."""
        if self.local is None:
            return None
        source = replace(self.local.tokens, parity=Parity())
        asked = 0
        for probe in PROBES:
            answer = await self._ask(self._body(probe))
            if answer is None:
                break
            source.judge(probe, None if isinstance(answer, int) else answer)
            asked += 1
        return Compared(source.parity.divergences, asked)

    async def engine_words(self, ids: Sequence[int]) -> Mapping[int, str]:
        """What each id stands for, as the engine tells; without those it does not."""
        words = {}
        for number in ids:
            body = msgspec.json.encode({"model": self._model.name, "tokens": [number]})
            answer = await self._asker.post(DETOKENIZE_PATH, body)
            if not isinstance(answer, Answer) or answer.status != 200:
                break
            with contextlib.suppress(msgspec.MsgspecError):
                told = msgspec.json.decode(answer.body, type=_Detokenized)
                words[number] = told.prompt or told.text
        return words

    async def engine_reads(self) -> EngineReads:
        """What the engine's own endpoint takes: a text, a chat."""
        chat, text = PROBES[0], next(probe for probe in PROBES if probe.name == "completion")
        answers = [await self._ask(self._body(probe)) for probe in (text, chat)]
        told = [isinstance(answer, list) for answer in answers]
        return EngineReads(text=told[0], chat=told[1], path=self._dialect.tokenize_path)

    def here(self, request: InferenceRequest) -> TokenIds | None:
        """As our own tokenizer reads it."""
        if self.local is None:
            return None
        read = self.local.tokens.read(request)
        return read.tokens if isinstance(read, Tokenized) else None

    async def there(self, request: InferenceRequest, prompt: str | None) -> TokenIds | None:
        """As the engine's own endpoint reads it; `prompt` is the text of a completion."""
        answer = await self._ask(self._dialect.tokenize_body(request, prompt))
        return pack_tokens(answer) if isinstance(answer, list) else None

    def _body(self, probe: Probe) -> bytes:
        prompt = probe.fields.get("prompt")
        return self._dialect.tokenize_body(probe.request(self._model.name), prompt)

    async def _ask(self, body: bytes) -> list[int] | int | None:
        """Token ids, the status of a refusal, or None where the engine did not answer."""
        answer = await self._asker.post(self._dialect.tokenize_path, body)
        if not isinstance(answer, Answer) or answer.status >= 500:
            return None
        if answer.status != 200:
            return answer.status
        try:
            return self._dialect.tokens(answer.body)
        except WireFault:
            return answer.status
