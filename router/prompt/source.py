"""Finding a model's tokenizer and template at start-up, never at request time (R 3.1).

Everything that keeps a model from a local source is a reason to be printed, not an error: its prompts are then read by
the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import msgspec

from router.prompt.blocks import TokenIds, pack_tokens
from router.prompt.local import LocalTokens, read_chat
from router.prompt.parity import Parity
from router.prompt.probes import PROBES
from router.prompt.request import Endpoint
from router.prompt.segments import SegmentCache
from router.prompt.template import Chat, ChatTemplate, Refused
from router.prompt.tokenizer import LoadedTokenizer, load_tokenizer

_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "config.json")

# Model types and files of engines that do not render the Jinja template: harmony, and Mistral's own encoder.
_HARMONY_MARKS = ("<|channel|>", "<|start|>")
_MISTRAL_FILES = ("tekken.json", "params.json")

_SPECIALS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# Classes that put BOS before a text by `add_bos_token`, whatever tokenizer.json says.
_BOS_BY_CONFIG = ("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast")


@dataclass(frozen=True, slots=True)
class NotLocal:
    """Why a model is not read locally."""

    reason: str


def find_tokenizer(setting: str, model_root: str | None) -> Path | NotLocal:
    """The folder that holds the tokenizer. `setting`: "auto", a folder, or a Hugging Face model id.

    "auto" takes the model's root, as the engine tells it, for a folder or else for a model id. An id is looked up in
    the Hugging Face cache and, unless HF_HUB_OFFLINE is set, the hub, with HF_TOKEN where set. May take seconds: for
    start-up and for worker threads.
    """
    name = model_root if setting == "auto" else setting
    if not name:
        return NotLocal("the engine does not tell the model's root; name a folder or model id with --tokenizer")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        return NotLocal(f"{name} is not a folder on this machine")
    return _from_hub(name)


def _from_hub(model_id: str) -> Path | NotLocal:
    try:
        cached = huggingface_hub.try_to_load_from_cache(model_id, _FILES[0])
    except ValueError as error:
        return NotLocal(f"{model_id} is neither a folder nor a model id ({_first_line(error)})")
    if isinstance(cached, str):
        return Path(cached).parent
    found: Path | None = None
    missing: Exception | None = None
    for file in _FILES:
        try:
            path = huggingface_hub.hf_hub_download(model_id, file, etag_timeout=5.0)
        except Exception as error:
            # The client raises many kinds: no such model, no such file, offline, no network, no permission.
            missing = missing or error
            if file == _FILES[0]:
                break
        else:
            found = Path(path).parent
    if found is None:
        return NotLocal(f"{model_id}: no tokenizer.json in the Hugging Face cache or hub ({_first_line(missing)})")
    return found


def load_local(
    folder: Path, wall_seconds: Callable[[], float], *, cache_bytes: int = 192 << 20
) -> LocalTokens | NotLocal:
    """The local token source of the model in `folder`. Takes seconds: two tokenizers are loaded and compared."""
    if not (folder / "tokenizer.json").is_file():
        return NotLocal(f"{folder} has no tokenizer.json")
    if any((folder / file).is_file() for file in _MISTRAL_FILES):
        return NotLocal(f"{folder} is read by Mistral's own encoder, not by tokenizer.json")
    try:
        config = _read_json(folder / "tokenizer_config.json")
        specials = _special_tokens(_read_json(folder / "special_tokens_map.json") | config)
        source = _template_source(folder, config)
        if source is not None and all(mark in source for mark in _HARMONY_MARKS):
            return NotLocal(f"{folder} is a harmony model: engines do not render its chat template")
        loaded = load_tokenizer(folder / "tokenizer.json", cache_bytes // 3)
    except (OSError, ValueError) as error:
        return NotLocal(_first_line(error))
    encoder = SegmentCache(loaded.encoder, loaded.cuts, cache_bytes - cache_bytes // 3)
    template, note = _load_template(source, specials, wall_seconds)
    return LocalTokens(
        encoder=encoder,
        prefix=_prefix(loaded, encoder, config, specials),
        suffix=loaded.suffix,
        template=template,
        parity=Parity(),
        note=f"{loaded.note}; {note}",
    )


def _load_template(
    source: str | None, specials: Mapping[str, str], wall_seconds: Callable[[], float]
) -> tuple[ChatTemplate | None, str]:
    if source is None:
        return None, "no chat template"
    try:
        template = ChatTemplate(source, specials, wall_seconds)
    except Refused as error:
        return None, str(error)
    difference = template.prove(probe_chats(template))
    return template, "minijinja" if difference is None else f"jinja2 ({difference})"


def probe_chats(template: ChatTemplate) -> list[Chat]:
    """The chats of the parity probes as this template gets them: what the renderers are compared on."""
    read = (
        read_chat(probe.request("probe"), template, frozenset()) for probe in PROBES if probe.endpoint is Endpoint.CHAT
    )
    return [chat for chat in read if isinstance(chat, Chat)]


def _prefix(
    loaded: LoadedTokenizer, encoder: SegmentCache, config: Mapping[str, Any], specials: Mapping[str, str]
) -> TokenIds:
    if config.get("tokenizer_class") in _BOS_BY_CONFIG and "bos_token" in specials:
        if config.get("add_bos_token") is True:
            return encoder.encode(specials["bos_token"])
        if config.get("add_bos_token") is False:
            return pack_tokens(())
    return loaded.prefix


def _template_source(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    written = config.get("chat_template")
    if isinstance(written, list):
        named = {entry.get("name"): entry.get("template") for entry in written if isinstance(entry, dict)}
        written = named.get("default")
    return written if isinstance(written, str) else None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    tokens = {}
    for name in _SPECIALS:
        token = config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            tokens[name] = token
    return tokens


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"{file}: {error}") from error


def _first_line(error: Exception | None) -> str:
    return str(error).strip().split("\n", 1)[0]
