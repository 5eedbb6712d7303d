"""Token source and parity, judged: do we read prompts as the engine does, and if not, why most likely?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from router.doctor.finding import Check, Finding, failed, passed, skipped, warned
from router.doctor.flags import flags_of
from router.prompt.parity import Divergence
from router.prompt.probes import PROBES
from router.prompt.prompt import Feature
from router.prompt.request import Endpoint
from router.prompt.source import NotLocal

Texts = Callable[[Sequence[int]], str]  # token ids in words

_FEATURES: Mapping[Feature, str] = {
    Feature.COMPLETION: "what stands before a plain text: BOS, or another tokenizer",
    Feature.TOOLS: "tool definitions, or tool arguments that are strings on one side and objects on the other",
    Feature.PARTS: "content parts: one side flattens them to text",
    Feature.REASONING: "reasoning of earlier turns: one side drops it",
    Feature.DEVELOPER: "the developer role",
    Feature.CONTINUATION: "continue_final_message",
    Feature.SWITCHES: "template arguments such as enable_thinking",
}
_BY_NAME = {probe.name: probe for probe in PROBES}
_SETTING = "tokens.tokenizer, --tokenizer or models[].tokenizer"


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison over all parity probes brought. `asked` is less than all where the engine fell silent."""

    divergences: tuple[Divergence, ...]
    asked: int


@dataclass(frozen=True, slots=True)
class EngineReads:
    """What the engine's own tokenizing endpoint takes."""

    text: bool
    chat: bool
    path: str


def judge_source(
    found: str | NotLocal | None, reads: EngineReads, *, wanted: str, compared: Compared | None
) -> Finding:
    """`found`: a note on the local tokenizer, why there is none, or None where the configuration wants none.

    `wanted` is tokens.source: auto, engine or none.
    """
    if wanted == "none":
        return warned(
            Check.TOKEN_SOURCE,
            "none, as configured: Homing routes by load and session only",
            "Set tokens.source to auto.",
        )
    if isinstance(found, str):
        if compared is not None and _basic(compared.divergences):
            fallback = f"; the engine's {reads.path} is asked instead" if reads.chat else ", nor does the engine tell"
            found = f"{found}, but it reads otherwise than the engine (see parity){fallback}"
            return warned(Check.TOKEN_SOURCE, found, f"Let {_SETTING} name what the engine runs with.")
        return passed(Check.TOKEN_SOURCE, f"local: {found}")
    why = "configured" if found is None else found.reason
    if reads.chat:
        if found is None or "harmony" in why or "Mistral" in why:
            return passed(Check.TOKEN_SOURCE, f"the engine's own {reads.path} ({why})")
        return warned(
            Check.TOKEN_SOURCE,
            f"the engine's own {reads.path}, one more call for each prompt: {why}",
            f"Let {_SETTING} name a folder with the model's tokenizer.json, or a hub id this machine can load.",
        )
    part = "answers for plain texts only" if reads.text else "does not answer"
    return failed(
        Check.TOKEN_SOURCE,
        f"none: {reads.path} {part}, and {why}: prompts cannot be predicted",
        f"Let {_SETTING} name a folder with the model's tokenizer.json.",
    )


def judge_parity(engine: str, compared: Compared | None, texts: Texts, theirs: Texts, why_not: str) -> Finding:
    """`texts` and `theirs` put ids into our words and into the engine's."""
    if compared is None or not compared.asked:
        return skipped(Check.PARITY, why_not or "the engine answered no probe")
    parted = compared.divergences
    if not parted:
        return passed(Check.PARITY, f"{compared.asked} of {len(PROBES)} probes asked, all read alike")
    basic = _basic(parted)
    shown = _shown(first_shown(compared), texts, theirs)
    told = f"{len(parted)} of {compared.asked} probes differ; {shown}; likely {likely_cause(parted)}"
    if basic:
        return failed(Check.PARITY, told, _mend(engine, parted))
    return warned(
        Check.PARITY,
        told,
        f"Nothing breaks: requests that use it are read by the engine. To read them here, let {_SETTING} name the "
        "very files of the engine's release.",
    )


def first_shown(compared: Compared) -> Divergence:
    """Of the divergences (at least one) the one that is shown."""
    return (_basic(compared.divergences) or list(compared.divergences))[0]


def likely_cause(divergences: Sequence[Divergence]) -> str:
    """Of the first divergences of each kind, the reason that explains them most simply."""
    basic = _basic(divergences)
    if not basic:
        features = sorted({_FEATURES[f] for d in divergences if (f := _feature(d)) is not None})
        return "; ".join(features)
    chats = [d for d in basic if _endpoint(d) is Endpoint.CHAT]
    texts = [d for d in divergences if _endpoint(d) is not Endpoint.CHAT]
    if chats and all(d.note == "the engine refuses it" for d in chats):
        return "the engine takes no chats to tokenize: it has no chat template, or its endpoint knows only texts"
    if chats and all(d.note == "only the engine renders it" for d in chats):
        return "our folder has no chat template, and the engine has one"
    if (basic or texts) and all(_one_more(d) for d in (*chats[:3], *texts[:3])):
        return "BOS: one side puts one more token at the beginning"
    if texts and any(not _one_more(d) for d in texts):
        return "another tokenizer (other ids for the same plain text)"
    return "another chat template (plain texts are read alike)"


def _mend(engine: str, divergences: Sequence[Divergence]) -> str:
    flags, cause = flags_of(engine), likely_cause(divergences)
    if "BOS" in cause:
        return (
            f"Let {_SETTING} name the engine's own folder, with its tokenizer_config.json (add_bos_token) and template."
        )
    if "template" in cause:
        return (
            f"Put the template {flags.title} runs with (its --chat-template) as chat_template.jinja into the folder "
            f"{_SETTING} names."
        )
    return f"Let {_SETTING} name the tokenizer {flags.title} runs with; look at its {flags.tokenizer}."


def _basic(divergences: Sequence[Divergence]) -> list[Divergence]:
    return [divergence for divergence in divergences if _feature(divergence) is None]


def _feature(divergence: Divergence) -> Feature | None:
    probe = _BY_NAME.get(divergence.probe)
    return None if probe is None else probe.feature


def _endpoint(divergence: Divergence) -> Endpoint | None:
    probe = _BY_NAME.get(divergence.probe)
    return None if probe is None else probe.endpoint


def _one_more(divergence: Divergence) -> bool:
    """Whether one side has just one more token than the other, at the very beginning."""
    ours, theirs = divergence.ours, divergence.theirs
    if divergence.note or divergence.place > 1 or len(ours) < 2 or len(theirs) < 2:
        return False
    return ours[1:] == theirs[: len(ours) - 1] or theirs[1:] == ours[: len(theirs) - 1]


def _shown(divergence: Divergence, texts: Texts, theirs: Texts) -> str:
    if divergence.note:
        return f"'{divergence.probe}': {divergence.note}"
    return (
        f"'{divergence.probe}' from token {divergence.place}: ours {texts(divergence.ours)}, "
        f"the engine's {theirs(divergence.theirs)}"
    )
