from __future__ import annotations

from collections.abc import Sequence

import pytest

from router.doctor.finding import Status
from router.doctor.tokens import Compared, EngineReads, judge_parity, judge_source, likely_cause
from router.prompt.parity import Divergence
from router.prompt.probes import PROBES
from router.prompt.prompt import Feature
from router.prompt.source import NotLocal

CHAT, TEXT = "plain", "completion"
BOTH = EngineReads(text=True, chat=True, path="/tokenize")


def words(ids: Sequence[int]) -> str:
    return " ".join(f"<{number}>" for number in ids)


def part(
    probe: str, ours: Sequence[int] = (), theirs: Sequence[int] = (), place: int = 5, note: str = ""
) -> Divergence:
    return Divergence(probe, place, tuple(ours), tuple(theirs), note)


def of(feature: Feature) -> Divergence:
    return part(next(probe.name for probe in PROBES if probe.feature is feature), (1, 2), (3, 4))


@pytest.mark.parametrize(
    ("divergences", "cause"),
    [
        ([part(CHAT, (1, 2, 3), (9, 8, 7))], "another chat template"),
        ([part(CHAT, (1, 2, 3), (9, 8, 7)), part(TEXT, (1, 2), (3, 4))], "another tokenizer"),
        ([part(CHAT, (1, 2, 3, 4), (2, 3, 4, 5), 0)], "BOS"),
        ([part(CHAT, (2, 3, 4, 5), (1, 2, 3, 4), 1), part(TEXT, (2, 3), (1, 2), 0)], "BOS"),
        ([part(CHAT, note="only the engine renders it")], "no chat template, and the engine has one"),
        ([part(CHAT, note="the engine refuses it")], "takes no chats"),
        ([of(Feature.TOOLS)], "strings on one side and objects on the other"),
        ([of(Feature.PARTS)], "content parts"),
        ([of(Feature.COMPLETION)], "BOS, or another tokenizer"),
        ([of(Feature.REASONING), of(Feature.DEVELOPER)], "developer"),
    ],
)
def test_the_likeliest_cause_is_named(divergences: list[Divergence], cause: str) -> None:
    assert cause in likely_cause(divergences)


def test_every_feature_has_its_cause() -> None:
    for feature in Feature:
        if any(probe.feature is feature for probe in PROBES):
            assert likely_cause([of(feature)])


def test_parity_shows_the_first_divergent_tokens_in_words_and_a_feature_is_only_a_warning() -> None:
    wrong = judge_parity("vllm", Compared((part(CHAT, (1, 2), (3, 4)),), 31), words, words, "")
    assert wrong.status is Status.FAIL
    assert "from token 5: ours <1> <2>, the engine's <3> <4>" in wrong.found
    assert judge_parity("vllm", Compared((of(Feature.TOOLS),), 31), words, words, "").status is Status.WARN
    assert judge_parity("vllm", Compared((), 31), words, words, "").status is Status.PASS
    assert judge_parity("vllm", None, words, words, "no source").found == "no source"


def test_models_that_engines_do_not_render_are_read_by_the_engine_without_reproach() -> None:
    harmony = NotLocal("m is a harmony model: engines do not render its chat template")
    assert judge_source(harmony, BOTH, wanted="auto", compared=None).status is Status.PASS
    absent = judge_source(NotLocal("no folder"), BOTH, wanted="auto", compared=None)
    assert absent.status is Status.WARN
    assert "no folder" in absent.found
    texts = EngineReads(text=True, chat=False, path="/tokenize")
    assert judge_source(harmony, texts, wanted="auto", compared=None).status is Status.FAIL


def test_a_local_source_that_differs_is_told_with_what_happens_instead() -> None:
    compared = Compared((part(CHAT, (1, 2), (3, 4)),), 31)
    assert "asked instead" in judge_source("fast", BOTH, wanted="auto", compared=compared).found
    assert judge_source("fast", BOTH, wanted="auto", compared=Compared((), 31)).status is Status.PASS
