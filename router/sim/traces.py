"""Conversations from files: OpenAI messages, and the trace formats people publish.

A file is JSON lines (or one JSON array), each line one of
- OpenAI messages: `{"messages": [...], "tools": [...]}`, or a bare list of messages. Each assistant message is a turn,
  asked with all that stands before it; so is the end of a list that does not end with the assistant;
- an agent's log: `{"timestamp", "input", "output", "session_id"}`, microseconds, `input` the whole flattened prompt;
- Mooncake's: `{"timestamp", "input_length", "output_length", "hash_ids"}`, milliseconds, an id for each 512 tokens
  of prefix: prompts are made of token ids that are equal exactly where the ids are;
- lengths only: `{"timestamp", "input_length", "output_length"}`, milliseconds: prompts that share nothing;
- a recording of `homing record`: Mooncake's lines with `block_size` and `session_id`, after a line that tells the
  fleet. Its ids are large and name full blocks only: they are numbered anew; what follows is like nothing else.

A name ending in .zst is decompressed. Faults are ConfigError naming file and line.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
import zstandard

from router.errors import ConfigError
from router.sim.recording import FIRST_LINE, Became, Numbers, RecordedFleet, Recording, Truth
from router.sim.workload import Ask, Chat, Conversation, Text

MOONCAKE_BLOCK_TOKENS = 512

# Made-up prompts use ids that every vocabulary has and that no special token has.
FIRST_TOKEN_ID, TOKEN_IDS = 256, 4096

# Of output text, to tell how many tokens a recorded reply had: close enough to set max_tokens.
CHARACTERS_PER_TOKEN = 4

MAX_TOKENS_DEFAULT = 128


@dataclass(frozen=True, slots=True)
class TokenRuns:
    """A completion prompt of made-up token ids: a run for each block id, equal exactly where the ids are equal.

    Rendered when asked for, since a trace's prompts together have more tokens than fit in memory.
    """

    blocks: tuple[int, ...]
    count: int  # tokens: the last run may be cut
    block_tokens: int = MOONCAKE_BLOCK_TOKENS

    @property
    def path(self) -> str:
        return "/v1/completions"

    def members(self) -> list[bytes]:
        ids = [token for block in self.blocks for token in _run(block, self.block_tokens)][: self.count]
        return [b'"prompt":' + msgspec.json.encode(ids)]


def _run(block: int, tokens: int) -> list[int]:
    # The block's id in the first three tokens tells runs apart for certain; the step makes most of the rest differ too.
    head = [block // TOKEN_IDS**place % TOKEN_IDS for place in range(3)]
    step = 2 * (block % 997) + 1
    body = [(block + step * place) % TOKEN_IDS for place in range(tokens - len(head))]
    return [FIRST_TOKEN_ID + token for token in head + body]


class _Message(msgspec.Struct):
    role: str


class _Line(msgspec.Struct):
    """The union of the formats. Which one a line is, its members tell."""

    messages: list[msgspec.Raw] | None = None
    tools: msgspec.Raw = msgspec.Raw()
    timestamp: float | None = None
    input: str | None = None
    output: str | None = None
    session_id: str | None = None
    input_length: int | None = None
    output_length: int | None = None
    hash_ids: list[int] | None = None
    duration: float | None = None  # milliseconds until it was answered
    block_size: Annotated[int, msgspec.Meta(ge=3)] | None = None  # tokens; a run of fewer could not tell its block


class Call(msgspec.Struct, frozen=True):
    """One line of an agent's log."""

    timestamp: float  # microseconds
    input: str
    output: str
    session_id: str


def is_agents_log(path: Path) -> bool:
    """Whether the file's first line is a call of an agent. Raises ConfigError where it cannot be read."""
    try:
        return any(msgspec.json.decode(raw, type=Call) for raw in list(_lines(path))[:1])
    except msgspec.DecodeError:
        return False


def recorded_fleet(path: Path) -> RecordedFleet | None:
    """The fleet a recording was made before; None for any other file. Raises ConfigError where it cannot be read."""
    try:
        return next((msgspec.json.decode(raw, type=Recording).recording for raw in list(_all_lines(path))[:1]), None)
    except msgspec.DecodeError:
        return None


def recorded_truth(path: Path) -> Truth:
    """What became of the requests of a recording. Raises ConfigError where it cannot be read."""
    try:
        return Truth(tuple(msgspec.json.decode(line, type=Became) for line in _lines(path)))
    except msgspec.DecodeError as fault:
        raise ConfigError([f"{path}: is no recording: {fault}."]) from fault


def load_calls(path: Path) -> list[Call]:
    """An agent's log as it stands, texts unmeasured, in order of time. Raises ConfigError."""
    calls = []
    for number, raw in enumerate(_lines(path), start=1):
        try:
            calls.append(msgspec.json.decode(raw, type=Call))
        except msgspec.DecodeError as fault:
            raise ConfigError([f"{path}: line {number} is no call of an agent: {fault}."]) from fault
    return sorted(calls, key=lambda call: call.timestamp)


def load_conversations(path: Path, *, max_tokens: int = MAX_TOKENS_DEFAULT) -> tuple[Conversation, ...]:
    """The conversations of a file, in its order. `max_tokens` bounds each reply. Raises ConfigError."""
    sessions: dict[str, list[Ask]] = {}
    numbers = Numbers()
    for number, raw in enumerate(_lines(path), start=1):
        try:
            name, asks = _asks(_line(raw), number, max_tokens, numbers)
        except (msgspec.DecodeError, ValueError) as fault:
            known = "messages; or timestamp with input, or with input_length and output_length"
            raise ConfigError([f"{path}: line {number} is no conversation: {fault}. A line needs {known}."]) from fault
        sessions.setdefault(name, []).extend(asks)
    if not any(sessions.values()):
        raise ConfigError([f"{path}: holds no conversation with anything to ask. Is it empty?"])
    times = [ask.at_seconds for asks in sessions.values() for ask in asks if ask.at_seconds is not None]
    beginning = min(times, default=0.0)
    return tuple(Conversation(name, _from_zero(asks, beginning)) for name, asks in sessions.items() if asks)


def _from_zero(asks: Sequence[Ask], beginning_seconds: float) -> tuple[Ask, ...]:
    """Arrival times from the source's beginning: some give Unix time. In order of time: some tell what ended first."""
    asks = sorted(asks, key=lambda ask: ask.at_seconds or 0.0)
    return tuple(
        ask if ask.at_seconds is None else replace(ask, at_seconds=ask.at_seconds - beginning_seconds) for ask in asks
    )


def _asks(line: _Line, number: int, max_tokens: int, numbers: Numbers) -> tuple[str, list[Ask]]:
    """The session that a line belongs to, and what it asks."""
    if line.messages is not None:
        return f"line-{number}", list(_turns(line.messages, line.tools, max_tokens))
    if line.timestamp is None:
        raise ValueError("it has neither messages nor timestamp")
    if line.input is not None:
        reply = max(1, len(line.output or "") // CHARACTERS_PER_TOKEN)
        text = Text(msgspec.json.encode(line.input))
        return line.session_id or f"line-{number}", [Ask(text, min(reply, max_tokens), line.timestamp / 1e6)]
    if line.input_length is None or line.output_length is None:
        raise ValueError("it has a timestamp, but neither input nor both lengths")
    reply, at_seconds = min(max(1, line.output_length), max_tokens), line.timestamp / 1e3
    if line.block_size is not None:
        runs = numbers.runs(line.hash_ids or (), line.block_size, line.input_length)
        prompt = TokenRuns(runs, line.input_length, line.block_size)
        took_seconds = None if line.duration is None else line.duration / 1e3
        return line.session_id or f"line-{number}", [Ask(prompt, reply, at_seconds, took_seconds)]
    # Without ids, the line's number makes the prompt unlike any other from its first block on.
    blocks = line.hash_ids or [number] * (1 + line.input_length // MOONCAKE_BLOCK_TOKENS)
    prompt = TokenRuns(tuple(blocks), line.input_length)
    return f"line-{number}", [Ask(prompt, reply, at_seconds)]


def _turns(messages: Sequence[msgspec.Raw], tools: msgspec.Raw, max_tokens: int) -> Iterator[Ask]:
    encoded = tuple(bytes(message) for message in messages)
    tool_bytes = bytes(tools) or None
    roles = [msgspec.json.decode(message, type=_Message).role for message in encoded]
    for end, role in enumerate(roles):
        if role == "assistant" and end:
            reply = max(1, len(encoded[end]) // CHARACTERS_PER_TOKEN)
            yield Ask(Chat(encoded[:end], tool_bytes), min(reply, max_tokens))
    if roles and roles[-1] != "assistant":
        yield Ask(Chat(encoded, tool_bytes), max_tokens)


def _line(raw: bytes) -> _Line:
    return _Line(messages=msgspec.json.decode(raw, type=list[msgspec.Raw])) if raw.startswith(b"[") else _decode(raw)


def _decode(raw: bytes) -> _Line:
    return msgspec.json.decode(raw, type=_Line)


def _lines(path: Path) -> Iterable[bytes]:
    """What is asked: all lines but a recording's first."""
    return [line for line in _all_lines(path) if not line.startswith(FIRST_LINE)]


def _all_lines(path: Path) -> Iterable[bytes]:
    try:
        content = _decompressed(path) if path.suffix == ".zst" else path.read_bytes()
    except OSError as fault:
        raise ConfigError([f"{path}: cannot be read: {fault.strerror or fault}."]) from fault
    if path.name.removesuffix(".zst").endswith(".json"):
        try:
            whole = msgspec.json.decode(content, type=list[msgspec.Raw])
        except msgspec.DecodeError:
            pass  # one object, or many lines under the name of one document: read them as lines
        else:
            return _elements(whole)
    return [line for line in (line.strip() for line in content.splitlines()) if line]


def _elements(whole: Sequence[msgspec.Raw]) -> list[bytes]:
    """An array is a list of conversations, or, where its elements are messages, one conversation."""
    elements = [bytes(element).strip() for element in whole]
    try:
        one = bool(elements) and all(msgspec.json.decode(element, type=_Message) for element in elements)
    except msgspec.DecodeError:
        one = False
    return [b"[" + b",".join(elements) + b"]"] if one else elements


def _decompressed(path: Path) -> bytes:
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes())) as reader:
            return reader.read()
    except zstandard.ZstdError as fault:
        raise ConfigError([f"{path}: is not a zstd file: {fault}."]) from fault
