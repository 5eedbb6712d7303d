from __future__ import annotations

from itertools import islice

import msgspec

from loadtest.talks import Talk, TalkShape, agents, people
from router.sim.coding import Source
from router.sim.workload import Chat, Turn

SOURCES = (Source("first", "def first(): ...\n" * 9), Source("second", "def second(): ...\n" * 9))
SHAPE = TalkShape(turns=3, turn_characters=40, system_prompts=2, system_characters=60)


def messages(turn: Turn) -> tuple[bytes, ...]:
    assert isinstance(turn.prompt, Chat)
    return turn.prompt.messages


def held(talk: Talk, answer: str = "indeed") -> list[Turn]:
    """The whole talk, every turn answered the same."""
    turns = []
    while (turn := talk.next_turn()) is not None:
        turns.append(turn)
        talk.heard(answer)
    return turns


def test_a_chat_goes_on_from_what_was_really_answered() -> None:
    first, second, third = held(next(people(SHAPE, SOURCES, seed=1)))
    assert messages(second)[: len(messages(first))] == messages(first)
    assert msgspec.json.decode(messages(second)[-2]) == {"role": "assistant", "content": "indeed"}
    assert messages(third)[: len(messages(second))] == messages(second)


def test_users_of_a_kind_share_system_prompts_and_no_more() -> None:
    for kind in (people, agents):
        talks = [held(talk) for talk in islice(kind(SHAPE, SOURCES, 1), 6)]
        systems = {messages(turns[0])[0] for turns in talks}
        openings = {messages(turns[0])[:2] for turns in talks}
        assert len(systems) == SHAPE.system_prompts
        assert len(openings) == len(talks)


def test_an_agents_turns_were_fixed_before() -> None:
    one, other = (held(next(agents(SHAPE, SOURCES, seed=1)), answer) for answer in ("yes", "no"))
    assert [turn.body("m") for turn in one] == [turn.body("m") for turn in other]
    assert len(one) == SHAPE.turns
    assert messages(one[2])[: len(messages(one[1]))] == messages(one[1])


def test_the_same_seed_asks_the_same_and_another_shares_its_system_prompts_alone() -> None:
    def asked(seed: int) -> list[tuple[bytes, ...]]:
        return [messages(turn) for talk in islice(people(SHAPE, SOURCES, seed), 4) for turn in held(talk)]

    assert asked(1) == asked(1)
    assert [one[0] for one in asked(1)] == [one[0] for one in asked(2)]
    assert not {one[1] for one in asked(1)} & {one[1] for one in asked(2)}
