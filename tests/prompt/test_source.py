from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from router.prompt.blocks import pack_tokens, unpack_tokens
from router.prompt.local import LocalTokens
from router.prompt.prompt import Tokenized
from router.prompt.source import NotLocal, find_tokenizer, load_local
from tests.prompt.makers import CHATML, WALL_SECONDS, chat, completion, folder, loaded, shipped, user


def load(path: Path) -> LocalTokens | NotLocal:
    return load_local(path, lambda: WALL_SECONDS)


def copied(tmp_path: Path, **config: Any) -> Path:
    """The shipped tokenizer with another configuration beside it."""
    shutil.copy(shipped() / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def ids(local: LocalTokens, text: str = "hello", **fields: Any) -> list[int]:
    read = local.read(completion(text, **fields))
    assert isinstance(read, Tokenized)
    return list(unpack_tokens(read.tokens))


def test_auto_takes_the_models_root_for_a_folder(tmp_path: Path) -> None:
    assert find_tokenizer("auto", str(tmp_path)) == tmp_path
    assert find_tokenizer(str(tmp_path), None) == tmp_path


@pytest.mark.parametrize(("setting", "root"), [("auto", None), ("auto", "/no/such/folder"), ("./none", None)])
def test_where_there_is_no_folder_the_reason_is_told(setting: str, root: str | None) -> None:
    found = find_tokenizer(setting, root)
    assert isinstance(found, NotLocal)
    assert found.reason


def test_a_model_id_is_looked_up_in_the_hugging_face_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit = "0" * 40
    snapshot = tmp_path / "models--local--tiny" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (tmp_path / "models--local--tiny" / "refs").mkdir()
    (tmp_path / "models--local--tiny" / "refs" / "main").write_text(commit)
    shutil.copy(shipped() / "tokenizer.json", snapshot)
    assert find_tokenizer("local/tiny", None) == snapshot
    assert isinstance(find_tokenizer("auto", "local/absent"), NotLocal)


def test_the_shipped_tokenizer_loads_with_the_fast_parts() -> None:
    assert loaded(shipped()).note == "fastokens; minijinja"


def test_a_template_file_beside_the_tokenizer_wins_over_the_configuration(tmp_path: Path) -> None:
    path = copied(tmp_path, chat_template="{{ raise_exception('no') }}")
    (path / "chat_template.jinja").write_text(CHATML)
    assert isinstance(loaded(path).read(chat([user("a")])), Tokenized)


def test_of_named_templates_the_default_is_taken(tmp_path: Path) -> None:
    path = copied(
        tmp_path,
        chat_template=[{"name": "rag", "template": "{{ x.y.z }}"}, {"name": "default", "template": CHATML}],
        bos_token={"content": "<|endoftext|>"},
    )
    assert isinstance(loaded(path).read(chat([user("a")])), Tokenized)


def test_without_a_template_only_completions_are_read(tmp_path: Path) -> None:
    local = loaded(copied(tmp_path))
    assert local.template is None
    assert isinstance(local.read(completion("a")), Tokenized)
    assert not isinstance(local.read(chat([user("a")])), Tokenized)


def test_a_tokenizer_of_the_llama_class_adds_bos_as_its_configuration_says(tmp_path: Path) -> None:
    bare = ids(loaded(shipped()), add_special_tokens=False)
    local = loaded(
        copied(tmp_path, tokenizer_class="LlamaTokenizerFast", add_bos_token=True, bos_token="<|endoftext|>")
    )
    assert ids(local) == [*ids(loaded(shipped()), "<|endoftext|>"), *bare]
    assert ids(local, add_special_tokens=False) == bare


@pytest.mark.shared
def test_mistral_adds_its_bos_to_completions_and_not_to_chats() -> None:
    local = loaded(folder("mistral_v3"))
    assert ids(local)[0] == 1
    assert ids(local, add_special_tokens=False)[0] != 1
    read = local.read(chat([user("a")]))
    assert isinstance(read, Tokenized)
    assert read.tokens.startswith(pack_tokens([1]))  # the template's own, once
    assert list(unpack_tokens(read.tokens)).count(1) == 1


@pytest.mark.shared
def test_harmony_models_begin_with_the_engine() -> None:
    found = load(folder("gpt_oss_o200k"))
    assert isinstance(found, NotLocal)
    assert "harmony" in found.reason


def test_models_of_mistrals_own_encoder_begin_with_the_engine(tmp_path: Path) -> None:
    path = copied(tmp_path)
    (path / "tekken.json").write_text("{}")
    assert isinstance(load(path), NotLocal)


@pytest.mark.parametrize(("file", "text"), [("tokenizer.json", "{"), ("tokenizer_config.json", "[]")])
def test_a_file_that_cannot_be_read_is_a_reason_naming_it(tmp_path: Path, file: str, text: str) -> None:
    path = copied(tmp_path)
    (path / file).write_text(text)
    found = load(path)
    assert isinstance(found, NotLocal)
    assert file in found.reason


def test_a_folder_without_a_tokenizer_is_a_reason(tmp_path: Path) -> None:
    assert isinstance(load(tmp_path), NotLocal)
