"""Trains the small tokenizer that ships in the package: `python -m router.sim.train_tokenizer [TARGET]`.

A byte-level BPE of 8,192 entries over the sources of the Python standard library, with the special tokens and the
ChatML template (tools included) that Qwen models use. It exists so that the demo and the tests need no download; text
from the standard library is what the demo's conversations are about. Training is deterministic for one Python
version's sources; the trained files are committed, so nothing depends on running this again.
"""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY_TOKENS = 8192
CORPUS_BYTES = 12_000_000
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Added as Qwen3 adds them: matched whole in any text, yet kept when decoding skips special tokens.
TOOL_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# The pattern of Qwen2 and Qwen3: runs of letters with at most one sign before them, single digits, lines apart.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = Path(__file__).parent / "tokenizer" / "chat_template.jinja"


def corpus() -> Iterator[str]:
    """The standard library's modules in order of their path, up to the budget; tests and packages left out."""
    library = Path(sysconfig.get_path("stdlib"))
    spent_bytes = 0
    for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).as_posix()):
        if {"test", "tests", "site-packages", "idlelib", "lib2to3"} & set(path.parts[len(library.parts) :]):
            continue
        text = path.read_bytes().decode("utf-8", errors="ignore")
        spent_bytes += len(text)
        if spent_bytes > CORPUS_BYTES:
            return
        yield text


def train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_TOKENS - len(SPECIAL_TOKENS) - len(TOOL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in TOOL_TOKENS])
    return tokenizer


def main(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = train()
    (target / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "model_max_length": 131072,
        "chat_template": TEMPLATE.read_text(encoding="utf-8"),
    }
    (target / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TEMPLATE.parent)
