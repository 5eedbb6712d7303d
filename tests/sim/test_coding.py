from __future__ import annotations

import msgspec

from router.sim.coding import CodingAgent, Source, coding_conversations, standard_library
from router.sim.workload import Chat, Conversation, grows

SOURCES = (Source("short", "def f():\n    return 1\n"), Source("long", "x = 'homing'\n" * 2000))
SHAPE = CodingAgent(conversations=6, turns=3, turn_characters=500, system_prompts=2, system_characters=300)


def prompt(conversation: Conversation, turn: int) -> Chat:
    chat = conversation.asks[turn].prompt
    assert isinstance(chat, Chat)
    return chat


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    assert coding_conversations(SHAPE, SOURCES, 1) == coding_conversations(SHAPE, SOURCES, 1)
    assert coding_conversations(SHAPE, SOURCES, 1) != coding_conversations(SHAPE, SOURCES, 2)


def test_conversations_grow_turn_by_turn_with_calls_and_pieces_of_source() -> None:
    for conversation in coding_conversations(SHAPE, SOURCES, 1):
        assert grows(conversation)
        last = [msgspec.json.decode(message) for message in prompt(conversation, 2).messages]
        assert [message["role"] for message in last] == ["system", "user", *["assistant", "tool"] * 3]
        assert [len(message["content"]) for message in last if message["role"] == "tool"] == [500] * 3
        calls = [message["tool_calls"][0] for message in last if message["role"] == "assistant"]
        answers = [message["tool_call_id"] for message in last if message["role"] == "tool"]
        assert [call["id"] for call in calls] == answers
        assert "offset" in msgspec.json.decode(calls[0]["function"]["arguments"])


def test_conversations_share_a_system_prompt_and_no_more() -> None:
    first, second, third, *_ = (prompt(c, 0).messages for c in coding_conversations(SHAPE, SOURCES, 1))
    assert first[0] == third[0] != second[0]
    assert first[1] != third[1]


def test_the_shape_does_not_depend_on_what_the_sources_say() -> None:
    other = tuple(Source(source.module, source.text.upper() + "pass\n") for source in SOURCES)
    lengths = [
        [
            [len(m) for m in prompt(c, 2).messages if b"tool_call_id" not in m][1:]
            for c in coding_conversations(SHAPE, s, 1)
        ]
        for s in (SOURCES, other)
    ]
    assert lengths[0] == lengths[1]


def test_every_python_carries_enough_to_read() -> None:
    sources = standard_library()
    assert len(sources) > 50
    assert all(source.text for source in sources)
