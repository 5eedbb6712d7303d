"""Does a chat template take message content as text or as a list of parts?

vLLM decides it from the template's syntax tree, and what it decides is what the template gets, so the same search is
made here: parts, if the template loops over some message's `content`, over a variable named `content` outside macros,
or over a macro parameter that is given a message's content. Which variables hold messages follows from assignments and
from loops over them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from jinja2 import nodes


def takes_parts(template: nodes.Template) -> bool:
    """Whether the template iterates over content parts. A tree this search does not understand counts as text."""
    try:
        return _loops_over_content(template)
    except _Unusual:
        return False


class _Unusual(Exception):
    """A loop or assignment with several targets where one name is expected."""


def _loops_over_content(root: nodes.Template) -> bool:
    message_names = list(_message_names(root))
    macro_loops, content_params = _macros(root, message_names)
    for loop in root.find_all(nodes.For):
        if any(_is_access(loop.iter, name, "content") for name in message_names):
            _name_of(loop.target)
            return True
        if isinstance(loop.iter, nodes.Name):
            if loop.iter.name in content_params.get(id(loop), ()):
                return True
            if loop.iter.name == "content" and id(loop) not in macro_loops:
                return True
    return False


def _macros(root: nodes.Template, message_names: list[str]) -> tuple[set[int], dict[int, set[str]]]:
    """Ids of the loops inside macros, and for each the macro parameters that are given a message's content."""
    inside: set[int] = set()
    params: dict[int, set[str]] = {}

    def is_content(node: nodes.Node) -> bool:
        return any(_is_access(node, name, "content") for name in message_names)

    for macro in root.find_all(nodes.Macro):
        names = [arg.name for arg in macro.args]
        given: set[str] = set()
        for call in root.find_all(nodes.Call):
            if not (isinstance(call.node, nodes.Name) and call.node.name == macro.name):
                continue
            given |= {name for name, arg in zip(names, call.args, strict=False) if is_content(arg)}
            given |= {kwarg.key for kwarg in call.kwargs if kwarg.key in names and is_content(kwarg.value)}
        for loop in macro.find_all(nodes.For):
            inside.add(id(loop))
            if given:
                params[id(loop)] = given
    return inside, params


def _message_names(root: nodes.Template) -> Iterator[str]:
    """Names of loop variables that run over `messages` or over what was assigned from it."""
    lists = ["messages"]
    waiting = deque(lists)
    while waiting:
        name = waiting.popleft()
        for assign in root.find_all(nodes.Assign):
            if _is_access(assign.node, name):
                target = _name_of(assign.target)
                if target != name and target not in lists:
                    lists.append(target)
                    waiting.append(target)
    for loop in root.find_all(nodes.For):
        if any(_is_access(loop.iter, name) for name in lists):
            yield _name_of(loop.target)


def _name_of(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise _Unusual
    return target.name


def _is_access(node: nodes.Node, name: str, key: str | None = None) -> bool:
    """Whether `node` reads `name` (or `name.key`), looking through filters, tests and slices."""
    if isinstance(node, nodes.Filter):
        return node.node is not None and _is_access(node.node, name, key)
    if isinstance(node, nodes.Test):
        return _is_access(node.node, name, key)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        # The slice of a message's content is content; without a key, a slice of the list is the list.
        return _is_access(node.node, name, key)
    if key is None:
        return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name
    if isinstance(node, nodes.Getitem):
        return _is_access(node.node, name) and isinstance(node.arg, nodes.Const) and node.arg.value == key
    return isinstance(node, nodes.Getattr) and _is_access(node.node, name) and node.attr == key
