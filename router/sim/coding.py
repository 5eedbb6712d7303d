"""A coding agent reading the standard library: conversations of real text that every Python carries.

Each conversation is one task: a long system prompt shared with others, tools, a question, then turn by turn the
agent's call to read a file and the piece of source it got. Which module, which lines and which question are drawn
from the seed; only the letters of the source differ between Python versions, never the shape.

Reads the installed standard library, and nothing else.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec

from router.sim.workload import Ask, Chat, Conversation

# Long modules that every Python from 3.11 on has, so that a patch release can't reorder what is read.
MODULES = (
    "argparse", "ast", "bdb", "calendar", "cmd", "codecs", "configparser", "contextlib", "copy", "csv", "dataclasses",
    "datetime", "difflib", "doctest", "enum", "filecmp", "fileinput", "fractions", "ftplib", "functools", "getopt",
    "gettext", "gzip", "heapq", "imaplib", "inspect", "ipaddress", "locale", "mailbox", "mimetypes", "netrc",
    "optparse", "os", "pdb", "pickle", "pickletools", "platform", "plistlib", "poplib", "pprint", "profile", "pstats",
    "pyclbr", "queue", "random", "sched", "selectors", "shelve", "shlex", "shutil", "smtplib", "socket", "socketserver",
    "ssl", "statistics", "string", "subprocess", "symtable", "tarfile", "tempfile", "textwrap", "threading", "timeit",
    "tokenize", "trace", "traceback", "turtle", "typing", "uuid", "warnings", "wave", "weakref", "webbrowser", "zipapp",
)  # fmt: skip

MAX_SOURCE_CHARACTERS = 40_000  # of each module: enough for long conversations, whatever the patch release added

QUESTIONS = (
    "Find out how {module} reports errors, and list every exception it can raise with the line that raises it.",
    "Explain the public interface of {module} to a newcomer, and point out what is easy to misuse.",
    "We see a slow path in {module}. Read it and say which function you would profile first, and why.",
    "Write a review of {module}: naming, dead code, and anything that a type checker would refuse.",
    "Which parts of {module} are not safe to call from several threads? Quote the lines.",
)

TOOLS = msgspec.json.encode(
    [
        {
            "type": "function",
            "function": {
                "name": "read_file",
                "description": "Read a piece of a file of the repository.",
                "parameters": {
                    "type": "object",
                    "properties": {"path": {"type": "string"}, "offset": {"type": "integer"}},
                    "required": ["path"],
                },
            },
        }
    ]
)


@dataclass(frozen=True, slots=True)
class Source:
    module: str
    text: str


@dataclass(frozen=True, slots=True)
class CodingAgent:
    """The shape of the conversations. Characters, since tokens depend on the tokenizer: of source, 3 to 4 make one."""

    conversations: int = 100
    turns: int = 7
    turn_characters: int = 3_000  # of source that each turn adds
    system_prompts: int = 4  # distinct ones: conversation i has number i modulo this
    system_characters: int = 2_000
    max_tokens: int = 12


def standard_library() -> tuple[Source, ...]:
    """The sources that the installed Python has of MODULES, in that order, each cut to MAX_SOURCE_CHARACTERS."""
    folder = Path(sysconfig.get_path("stdlib"))
    paths = [(module, folder / f"{module}.py") for module in MODULES]
    return tuple(
        Source(module, path.read_text(encoding="utf-8", errors="replace")[:MAX_SOURCE_CHARACTERS])
        for module, path in paths
        if path.exists()
    )


def coding_conversations(shape: CodingAgent, sources: Sequence[Source], seed: int) -> tuple[Conversation, ...]:
    """Conversations of that shape over those sources. The same arguments give the same bytes."""
    chance = Random(seed)
    systems = [_system_message(number, shape, sources) for number in range(shape.system_prompts)]
    return tuple(
        _conversation(number, systems[number % len(systems)], shape, sources, chance)
        for number in range(shape.conversations)
    )


def _conversation(
    number: int, system: bytes, shape: CodingAgent, sources: Sequence[Source], chance: Random
) -> Conversation:
    source = chance.choice(sources)
    question = chance.choice(QUESTIONS).format(module=source.module)
    # The ticket number makes every task its own: two conversations share the system prompt and no more.
    task = f"Ticket {chance.randrange(10**9)}. {question}"
    messages = [system, _message(role="user", content=task)]
    offset = chance.randrange(MAX_SOURCE_CHARACTERS)
    asks: list[Ask] = []
    for turn in range(shape.turns):
        # A first piece of source is read before the first turn, so that no prompt is trivially short.
        messages += _reading(f"call_{number}_{turn}", source, offset, shape.turn_characters)
        asks.append(Ask(Chat(tuple(messages), TOOLS), shape.max_tokens))
        offset += shape.turn_characters
    return Conversation(f"coding-{number}", tuple(asks))


def _reading(call_id: str, source: Source, offset: int, characters: int) -> list[bytes]:
    """The agent's call to read a piece of the source, and the piece. Wraps around at the end of a short file."""
    arguments = msgspec.json.encode({"path": f"Lib/{source.module}.py", "offset": offset}).decode()
    call = {"id": call_id, "type": "function", "function": {"name": "read_file", "arguments": arguments}}
    return [
        _message(role="assistant", content="", tool_calls=[call]),
        _message(role="tool", tool_call_id=call_id, content=_piece(source.text, offset, characters)),
    ]


def _system_message(number: int, shape: CodingAgent, sources: Sequence[Source]) -> bytes:
    # Begins with the team's name so that two system prompts differ from their first words on.
    head = (
        f"You are the coding agent of team {number}. Read before you answer, quote file and line, and never guess. "
        "House rules of the team follow, as a module that everyone has agreed to write like.\n\n"
    )
    text = sources[number % len(sources)].text
    return _message(role="system", content=head + _piece(text, 0, shape.system_characters))


def _piece(text: str, offset: int, characters: int) -> str:
    start = offset % len(text)
    repeats = 1 + (start + characters) // len(text)
    return (text * repeats)[start : start + characters]


def _message(**members: object) -> bytes:
    return msgspec.json.encode(members)
