"""Chat templates rendered as Hugging Face transformers render them, which is what engines do.

jinja2 is the reference. It holds the GIL for milliseconds on a long chat, so `minijinja` renders instead where a check
at start-up proves that the two agree on a set of conversations, and only for requests of the shapes that were proven;
whatever it raises is tried again with jinja2. minijinja prints and trims a few values differently (booleans, none,
some floats, control characters): the check covers what a template does with them; `_is_plain` and `_has_separator`
keep the rest away from it.

To continue a final message, a tag is put behind its content, and the text is cut where the tag came out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import minijinja
import msgspec
from jinja2.sandbox import ImmutableSandboxedEnvironment

from router.prompt.content_format import takes_parts
from router.prompt.messages import Message

# Arguments a template always gets; a request may not replace them through chat_template_kwargs.
RESERVED = frozenset(("messages", "tools", "documents", "add_generation_prompt"))

_NAME = "chat"

# Methods that change lists and dicts. The sandbox of the reference forbids them; minijinja, which only hides names with
# an underscore, would let a template change the messages.
_MUTATORS = re.compile(
    r"""[.'"](append|clear|discard|extend|insert|pop|popitem|remove|reverse|setdefault|sort|update)\b"""
)

# The very tag of transformers, since a template may look at its letters. The space tells whether the template trims.
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class Refused(Exception):
    """The template cannot or will not render these messages. An engine with this template refuses them too."""


class Chat(msgspec.Struct, frozen=True, gc=False):
    """What one rendering is made from. `extra` are chat_template_kwargs and the like.

    `odd_floats` says that minijinja would write some float in it otherwise.
    """

    messages: Sequence[Message]
    tools: Sequence[Message] | None = None
    documents: Sequence[Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    extra: Mapping[str, Any] = msgspec.field(default_factory=dict)
    odd_floats: bool = False


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the model wrote; it renders as its body."""

    tags = {"generation"}  # noqa: RUF012  # the base class declares it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class ChatTemplate:
    """One model's chat template. Rendering is thread-safe; only `prove`, at start-up, changes anything.

    `special_tokens` are the tokens the template may name (bos_token and so on); `wall_seconds` is what strftime_now
    tells, in the machine's time zone, as the engine does. Raises Refused for a template that cannot be compiled.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], wall_seconds: Callable[[], float]) -> None:
        def strftime_now(form: str) -> str:
            return datetime.fromtimestamp(wall_seconds(), tz=UTC).astimezone().strftime(form)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = strftime_now
        try:
            tree = environment.parse(source)
            self._reference = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise Refused(f"the chat template cannot be compiled: {error}") from error
        self.source = source
        self.takes_parts = takes_parts(tree)
        self.knows_developer = '"developer"' in source or "'developer'" in source
        self._special_tokens = dict(special_tokens)
        self._fast = _compile_fast(source, strftime_now)
        self.minds_odd_floats = True  # whether its chats have to tell about them: until proven otherwise

    @property
    def is_fast(self) -> bool:
        """Whether minijinja renders the plain requests."""
        return self._fast is not None

    def prove(self, chats: Sequence[Chat]) -> str | None:
        """Compare the renderers on `chats`; keep minijinja only if all agree. Returns the first difference found."""
        minds_odd_floats = False
        for chat in chats if self._fast is not None else ():
            reference = _outcome(lambda chat=chat: self.render_reference(chat))  # type: ignore[misc]
            fast = _outcome(lambda chat=chat: self._render_fast(chat))  # type: ignore[misc]
            # Where the reference refuses, a fast failure is tried again with the reference: no difference.
            if fast is None or fast == reference:
                continue
            if chat.odd_floats:
                minds_odd_floats = True
                continue
            self._fast, self.minds_odd_floats = None, False
            return _difference(reference, fast)
        self.minds_odd_floats = minds_odd_floats
        return None if self.is_fast else "not for minijinja"

    def render(self, chat: Chat) -> str:
        """The prompt text. Raises Refused when the template raises."""
        if self._fast is not None and _is_plain(chat):
            try:
                text = self._render_fast(chat)
            except Refused:
                return self.render_reference(chat)
            if not _has_separator(text):
                return text
        return self.render_reference(chat)

    def render_reference(self, chat: Chat) -> str:
        """The same by jinja2 alone."""
        try:
            text = self._reference.render(**self._arguments(chat))
        except Exception as error:
            # Templates run arbitrary expressions over arbitrary messages, so any exception can come out of one.
            raise Refused(str(error)) from error
        return _cut_final(text, chat) if chat.continue_final_message else text

    def _render_fast(self, chat: Chat) -> str:
        assert self._fast is not None
        try:
            text = self._fast.render_template(_NAME, **self._arguments(chat))
        except Exception as error:
            raise Refused(str(error)) from error
        return _cut_final(text, chat) if chat.continue_final_message else text

    def _arguments(self, chat: Chat) -> dict[str, Any]:
        return {
            **self._special_tokens,
            **chat.extra,
            "messages": _tagged(chat.messages)[0] if chat.continue_final_message else chat.messages,
            "tools": chat.tools,
            "documents": chat.documents,
            "add_generation_prompt": chat.add_generation_prompt,
        }


def _is_plain(chat: Chat) -> bool:
    """Whether a request has a shape the check at start-up covers: at most switches beside messages and tools."""
    if chat.documents is not None or chat.odd_floats:
        return False
    return not chat.extra or all(isinstance(value, bool) for value in chat.extra.values())


def _has_separator(text: str) -> bool:
    """Whether it holds one of four characters that Python trims as white space and Rust does not.

    Where the renderers would part because of one, it is still there.
    """
    return "\x1c" in text or "\x1d" in text or "\x1e" in text or "\x1f" in text


def _outcome(render: Callable[[], str]) -> str | None:
    try:
        return render()
    except Refused:
        return None


def _difference(reference: str | None, fast: str) -> str:
    if reference is None:
        return "minijinja renders what jinja2 refuses"
    at = next(
        (i for i, (a, b) in enumerate(zip(reference, fast, strict=False)) if a != b), min(len(reference), len(fast))
    )
    return f"jinja2 gives {reference[at : at + 40]!r}, minijinja {fast[at : at + 40]!r}"


def _compile_fast(source: str, strftime_now: Callable[[str], str]) -> minijinja.Environment | None:
    if _MUTATORS.search(source):
        return None
    environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.auto_escape_callback = lambda _: False
    environment.add_filter("tojson", _tojson)
    environment.add_global("raise_exception", _raise_exception)
    environment.add_global("strftime_now", strftime_now)
    try:
        environment.add_template(_NAME, source)
    except minijinja.TemplateError:
        return None
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Without the HTML escapes of jinja2's own filter, as transformers has it.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tagged(messages: Sequence[Message]) -> tuple[Sequence[Message], str]:
    """The messages with the tag behind the last one's content, or the last text in it, and what it stands behind."""
    content = messages[-1]["content"] if messages else None
    if isinstance(content, str):
        return (*messages[:-1], {**messages[-1], "content": content + _TAG}), content
    parts = [*content] if isinstance(content, list) else []
    place = max((place for place, part in enumerate(parts) if "text" in part), default=None)
    if place is None:
        raise Refused("there is no final message to continue")
    text: str = parts[place]["text"]
    parts[place] = {**parts[place], "text": text + _TAG}
    return (*messages[:-1], {**messages[-1], "content": parts}), text


def _cut_final(text: str, chat: Chat) -> str:
    """The text up to the end of the last message's content, so that the model goes on with it."""
    place = text.rfind(_TAG.rstrip())
    if place < 0 or _tagged(chat.messages)[1].strip() not in text:
        raise Refused("the final message is not in the rendered chat, so it cannot be continued")
    # Without its space, the template trims what it prints.
    return text[:place] if text.startswith(_TAG, place) else text[:place].rstrip()
