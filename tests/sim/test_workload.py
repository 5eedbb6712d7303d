from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from router.sim.workload import Arrivals, Ask, Chat, Conversation, Text, at_rate, first, grows, recorded, schedule


def chat(*words: str) -> Chat:
    return Chat(tuple(msgspec.json.encode({"role": "user", "content": word}) for word in words))


def conversation(name: str = "c", turns: int = 3, at_seconds: float | None = None) -> Conversation:
    words = [f"{name} says {turn}" for turn in range(turns)]
    return Conversation(name, tuple(Ask(chat(*words[: turn + 1]), 8, at_seconds) for turn in range(turns)))


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 5), st.floats(0, 1))
def test_the_same_seed_gives_the_same_arrivals_and_turns_keep_their_order(
    seed: int, count: int, turns: int, spread: float
) -> None:
    conversations = [conversation(f"c{number}", turns) for number in range(count)]
    arrivals = Arrivals(starts_per_second=2, think_seconds=1, think_spread=spread)
    workload = schedule(conversations, arrivals, seed)
    assert workload == schedule(conversations, arrivals, seed)
    assert len(workload.turns) == count * turns
    times = [turn.at_seconds for turn in workload.turns]
    assert times == sorted(times)
    for name in {turn.conversation for turn in workload.turns}:
        numbers = [turn.number for turn in workload.turns if turn.conversation == name]
        assert numbers == list(range(turns))


def test_starts_come_at_the_asked_rate_on_the_whole() -> None:
    workload = schedule([conversation(f"c{n}", 1) for n in range(2000)], Arrivals(starts_per_second=10), seed=7)
    assert 9 < workload.requests_per_second < 11


def test_recorded_times_are_kept() -> None:
    conversations = [conversation("a", 1, 10.0), conversation("b", 1, 4.0)]
    assert [(turn.conversation, turn.at_seconds) for turn in recorded(conversations).turns] == [("b", 4.0), ("a", 10.0)]


def test_a_rate_stretches_the_gaps_and_begins_at_once() -> None:
    workload = recorded([conversation(name, 1, at) for name, at in (("a", 100.0), ("b", 101.0), ("c", 104.0))])
    assert [turn.at_seconds for turn in at_rate(workload, 0.25).turns] == [0.0, 2.0, 8.0]
    assert [turn.at_seconds for turn in at_rate(first(workload, 1), 5.0).turns] == [0.0]
    assert first(workload, 9) == workload


def test_a_body_is_json_that_asks_for_usage_when_it_streams() -> None:
    turn = schedule([Conversation("c", (Ask(Chat((b'{"role":"user"}',), b"[]"), 5),))], Arrivals(), 0).turns[0]
    assert turn.path == "/v1/chat/completions"
    assert msgspec.json.decode(turn.body("m")) == {
        "model": "m",
        "messages": [{"role": "user"}],
        "tools": [],
        "max_tokens": 5,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert "stream" not in msgspec.json.decode(turn.body("m", stream=False))


def test_a_text_goes_to_completions() -> None:
    turn = schedule([Conversation("c", (Ask(Text(b'"hello"'), 5),))], Arrivals(), 0).turns[0]
    assert turn.path == "/v1/completions"
    assert msgspec.json.decode(turn.body("m"))["prompt"] == "hello"


def test_a_conversation_grows_when_each_prompt_begins_with_the_last() -> None:
    assert grows(conversation(turns=4))
    assert not grows(Conversation("edited", (Ask(chat("a"), 1), Ask(chat("b", "c"), 1))))
