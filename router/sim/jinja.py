"""Chat templates as `transformers` 5.19 compiles them, and what vLLM 0.32.0 finds out about one by reading it.

A template either takes a message's content as one text or goes through its parts. vLLM tells by the template's syntax
tree: one that loops over content, under whatever name, takes parts. What it overlooks is overlooked here too.

To continue a final message, a mark is put behind its text, and the rendered prompt is cut where the mark came out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any  # parsers and JSON of jinja2's

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from router.sim.chat import Malformed

# The space behind tells whether the template trims what it prints. Letters only: nothing a template would alter.
MARK = "HereTheFinalMessageGoesOn "


def jinja_environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment


def marked(chat: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The chat with the mark behind its final text, and that text. Raises Malformed where there is no text."""
    if not chat:
        raise Malformed("there is no message to continue")
    content = chat[-1]["content"]
    if isinstance(content, str):
        return [*map(dict, chat[:-1]), {**chat[-1], "content": content + MARK}], content
    place = max((place for place, part in enumerate(content) if "text" in part), default=None)
    if place is None:
        raise Malformed("the final message has no text to continue")
    text: str = content[place]["text"]
    parts = [*content[:place], {**content[place], "text": text + MARK}, *content[place + 1 :]]
    return [*map(dict, chat[:-1]), {**chat[-1], "content": parts}], text


def cut_at_mark(rendered: str, final: str) -> str:
    """The rendered text up to the mark. Raises Malformed where the template did not show all of the final text."""
    place = rendered.rfind(MARK.rstrip())
    if place < 0 or final.strip() not in rendered:
        raise Malformed("the chat template does not show the final message as it is, so it cannot be continued")
    return rendered[:place] if rendered.startswith(MARK, place) else rendered[:place].rstrip()


def takes_parts(tree: nodes.Template) -> bool:
    """Whether the template goes through a message's content part by part."""
    try:
        lists = _names_of_messages(tree)
        loops = list(tree.find_all(nodes.For))
        turns = [_name(loop.target) for loop in loops if any(_reads(loop.iter, name) for name in lists)]
        in_macros = _content_in_macros(tree, turns)
        return any(_is_content(loop.iter, turns) or _is_named_content(loop, in_macros) for loop in loops)
    except _Unclear:
        return False


class _Unclear(Exception):
    """A target that is no plain name, at which vLLM gives up and takes content for text."""


def _names_of_messages(tree: nodes.Template) -> list[str]:
    """`messages`, and every name set to it or to something drawn from it by filters and slices."""
    names = ["messages"]
    for name in names:  # grows on the way
        for assign in tree.find_all(nodes.Assign):
            if _reads(assign.node, name) and (alias := _name(assign.target)) not in names:
                names.append(alias)
    return names


def _content_in_macros(tree: nodes.Template, turns: Sequence[str]) -> dict[int, set[str]]:
    """By the id of each loop inside a macro: the macro's arguments that are given a message's content somewhere."""
    found: dict[int, set[str]] = {}
    for macro in tree.find_all(nodes.Macro):
        names = [argument.name for argument in macro.args]
        given: set[str] = set()
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
                by_place = zip(names, call.args, strict=False)
                by_name = (
                    (keyword.key, keyword.value) for keyword in call.kwargs if isinstance(keyword, nodes.Keyword)
                )
                pairs = [*by_place, *((name, value) for name, value in by_name if name in names)]
                given |= {name for name, value in pairs if _is_content(value, turns)}
        for loop in macro.find_all(nodes.For):
            found[id(loop)] = given or found.get(id(loop), set())
    return found


def _is_content(node: nodes.Node, turns: Sequence[str]) -> bool:
    return any(_reads(node, turn, "content") for turn in turns)


def _is_named_content(loop: nodes.For, in_macros: Mapping[int, set[str]]) -> bool:
    """Whether it loops over a name that stands for content: by that very name, or as a macro's argument."""
    return isinstance(loop.iter, nodes.Name) and loop.iter.name in in_macros.get(id(loop), {"content"})


def _reads(node: nodes.Node | None, name: str, member: str | None = None) -> bool:
    """Whether an expression is the variable, or its member, perhaps filtered, tested or sliced."""
    while isinstance(node, nodes.Filter | nodes.Test) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    if member is not None:
        by_key = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == member
        if not by_key and not (isinstance(node, nodes.Getattr) and node.attr == member):
            return False
        assert isinstance(node, nodes.Getitem | nodes.Getattr)
        node = node.node
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name


def _name(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise _Unclear
    return target.name


class _Generation(Extension):
    """Templates mark assistant text with `{% generation %}`; for rendering the mark means no more than a scope."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads a plain class attribute

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)
