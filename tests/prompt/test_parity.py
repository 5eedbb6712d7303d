from __future__ import annotations

import json

import pytest

from router.prompt.blocks import TokenIds, pack_tokens, unpack_tokens
from router.prompt.local import LocalTokens
from router.prompt.parity import Parity, Verdict, compare
from router.prompt.probes import PROBES, Probe
from router.prompt.prompt import Feature, Tokenized, Unpredicted
from router.prompt.request import Endpoint
from tests.prompt.makers import chat, completion, loaded, shipped, user


def probe(name: str = "p", feature: Feature | None = None) -> Probe:
    return Probe(name, Endpoint.CHAT, {"messages": [user("a")]}, feature)


@pytest.mark.parametrize(
    ("ours", "theirs", "place"),
    [([1, 2, 3], [1, 2, 3], None), ([1, 2, 3], [1, 9, 3], 1), ([1, 2], [1, 2, 3], 2), ([], [5], 0), ([1, 2], [1], 1)],
)
def test_the_first_place_where_ids_part_is_told(ours: list[int], theirs: list[int], place: int | None) -> None:
    divergence = compare("p", pack_tokens(ours), theirs)
    assert (None if divergence is None else divergence.place) == place


def test_refusing_together_is_agreement_and_refusing_alone_is_not() -> None:
    assert compare("p", None, None) is None
    assert "only the engine" in str(compare("p", None, [1]))
    assert "refuses" in str(compare("p", TokenIds(b""), None))


def test_a_source_is_unproven_until_every_probe_is_answered() -> None:
    parity = Parity([probe("a"), probe("b")])
    verdicts = []
    for one in parity.probes:
        parity.judge(one, pack_tokens([1]), [1])
        verdicts.append(parity.verdict)
    assert verdicts == [Verdict.UNPROVEN, Verdict.PASSED]


def test_a_basic_probe_that_differs_fails_the_source_and_tells_where() -> None:
    parity = Parity([probe("a")])
    parity.judge(parity.probes[0], pack_tokens([1, 2]), [1, 3])
    assert parity.verdict is Verdict.FAILED
    assert str(parity.divergences[0]) == "probe 'a' differs from token 1: ours (2,), the engine's (3,)"


def test_a_feature_that_differs_is_left_to_the_engine_and_a_restart_forgets_it() -> None:
    parity = Parity([probe("a"), probe("t", Feature.TOOLS)])
    parity.judge(parity.probes[1], pack_tokens([1]), [2])
    parity.judge(parity.probes[0], pack_tokens([1]), [1])
    assert (parity.verdict, parity.broken) == (Verdict.PASSED, frozenset((Feature.TOOLS,)))
    parity.restart()
    assert (parity.verdict, parity.broken, parity.divergences) == (Verdict.UNPROVEN, frozenset(), ())


def test_the_probes_cover_every_feature_and_are_bodies_for_the_tokenize_endpoint() -> None:
    assert {one.feature for one in PROBES} == {None, *Feature}
    assert len({one.name for one in PROBES}) == len(PROBES)
    for one in PROBES:
        body = json.loads(one.tokenize_body("m"))
        assert body["model"] == "m"
        assert ("prompt" in body) == (one.endpoint is Endpoint.COMPLETIONS)


def engine_ids(engine: LocalTokens, one: Probe) -> list[int] | None:
    """What an engine with this tokenizer answers to a probe."""
    read = engine.read(one.request("m"))
    return list(unpack_tokens(read.tokens)) if isinstance(read, Tokenized) else None


def test_a_source_whose_engine_reads_alike_passes() -> None:
    local, engine = loaded(shipped()), loaded(shipped())
    for one in local.parity.probes:
        local.judge(one, engine_ids(engine, one))
    assert (local.parity.verdict, local.parity.divergences) == (Verdict.PASSED, ())


def test_requests_with_a_broken_feature_are_left_to_the_engine() -> None:
    local, engine = loaded(shipped()), loaded(shipped())
    for one in local.parity.probes:
        ids = engine_ids(engine, one)
        local.judge(one, [0, *(ids or ())] if one.feature in (Feature.TOOLS, Feature.COMPLETION) else ids)
    assert local.parity.broken == {Feature.TOOLS, Feature.COMPLETION}
    assert local.parity.verdict is Verdict.PASSED
    assert isinstance(local.read(chat([user("a")])), Tokenized)
    assert local.read(chat([user("a")], tools=[])) is Unpredicted.ENGINE_SPECIFIC
    assert local.read(chat([{"role": "tool", "content": "a", "tool_call_id": "1"}])) is Unpredicted.ENGINE_SPECIFIC
    assert local.read(completion("a")) is Unpredicted.ENGINE_SPECIFIC
    assert isinstance(local.read(completion([1, 2])), Tokenized)
