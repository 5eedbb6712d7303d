"""How a conversation begins: its first messages as bytes, found without reading the rest of them."""

from __future__ import annotations

import re

from router.prompt.request import InferenceRequest

# One step over what can stand inside an element: a string, a bracket, or a run of anything else. Unrolled, so that a
# long string is one step of the engine and not one per character.
_STEP = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]|,|[^"\[\]{},]+', re.DOTALL)
_OPENINGS, _CLOSINGS, _COMMA = (b"[", b"{"), (b"]", b"}"), b","


# Messages that stay the same through a conversation and rarely are the same in two (R 6.1).
OPENING_MESSAGES = 2


def opening(request: InferenceRequest) -> bytes | None:
    """The first two messages of a chat, as the client wrote them; None for anything without messages."""
    messages = request.members.raw("messages")
    return None if messages is None else first_elements(messages, OPENING_MESSAGES)


def first_elements(array: bytes | memoryview, count: int) -> bytes:
    """The text from the first element to the end of element `count`, or of the last where there are fewer.

    `array` must be a valid JSON array. Costs time for the elements taken only.
    """
    depth = 0
    start = end = 0
    for match in _STEP.finditer(array):
        step = match[0]
        if step in _OPENINGS:
            depth += 1
            if depth == 1:
                start = end = match.end()
        elif step in _CLOSINGS:
            depth -= 1
            if depth == 0:
                end = match.start()
                break
        elif step == _COMMA and depth == 1:
            count -= 1
            if count == 0:
                end = match.start()
                break
    return bytes(array[start:end]).strip()
