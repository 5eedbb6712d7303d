"""A tiny chat model for a real engine: random weights, the tokenizer that ships with Homing, and adapters for it.

Nothing is downloaded and nothing but numpy is needed: weights are written in the safetensors format by hand. The model
is a Qwen2 of two layers whose answers mean nothing, but depend on the whole prompt, as a cache's contents must.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from router.sim.text import SHIPPED_TOKENIZER

Weights = Mapping[str, npt.NDArray[np.float32]]

HIDDEN, FEED_FORWARD, LAYERS, HEADS, KEY_VALUE_HEADS = 128, 256, 2, 4, 2
CONTEXT_TOKENS = 8192
ADAPTER_RANK = 4
SPREAD = 0.3  # of the random weights; wide, or every prompt gets the same answer
ADAPTED = ("q_proj", "v_proj")


def make_model(folder: Path, *, seed: int = 20240607) -> None:
    """Write the model and its tokenizer. The same seed writes the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in SHIPPED_TOKENIZER.iterdir():
        shutil.copyfile(file, folder / file.name)
    tokenizer_file = folder / "tokenizer.json"
    content = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "NFC"}  # transformers gives it to every Qwen2, whatever this file says
    tokenizer_file.write_text(json.dumps(content), encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    vocabulary: int = tokenizer.get_vocab_size(with_added_tokens=True)
    special = {
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
    }
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "dtype": "float32",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "max_position_embeddings": CONTEXT_TOKENS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": None,
        **special,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "generation_config.json").write_text(json.dumps(special))
    write_safetensors(folder / "model.safetensors", _weights(vocabulary, np.random.default_rng(seed)))


def make_adapter(folder: Path, *, seed: int) -> None:
    """Write a LoRA adapter of the model."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": ADAPTER_RANK,
        "lora_alpha": 2 * ADAPTER_RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(ADAPTED),
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    chance = np.random.default_rng(seed)
    weights = {}
    for layer in range(LAYERS):
        for name in ADAPTED:
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{at}.lora_A.weight"] = _random(chance, ADAPTER_RANK, HIDDEN)
            weights[f"{at}.lora_B.weight"] = _random(chance, _attention_rows(name), ADAPTER_RANK)
    write_safetensors(folder / "adapter_model.safetensors", weights)


def write_safetensors(file: Path, weights: Weights) -> None:
    """Length of the header (u64, little-endian), header as JSON, then the arrays one after the other."""
    header, end = {}, 0
    for name, array in weights.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)  # arrays begin at a multiple of eight bytes
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(head)) + head)
        for array in weights.values():
            out.write(array.astype("<f4").tobytes())


def _weights(vocabulary: int, chance: np.random.Generator) -> Weights:
    weights = {
        "model.embed_tokens.weight": _random(chance, vocabulary, HIDDEN),
        "model.norm.weight": np.ones(HIDDEN, dtype=np.float32),
        "lm_head.weight": _random(chance, vocabulary, HIDDEN),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj"):
            weights[f"{at}.self_attn.{name}.weight"] = _random(chance, _attention_rows(name), HIDDEN)
            weights[f"{at}.self_attn.{name}.bias"] = np.zeros(_attention_rows(name), dtype=np.float32)
        weights[f"{at}.self_attn.o_proj.weight"] = _random(chance, HIDDEN, HIDDEN)
        weights[f"{at}.mlp.gate_proj.weight"] = _random(chance, FEED_FORWARD, HIDDEN)
        weights[f"{at}.mlp.up_proj.weight"] = _random(chance, FEED_FORWARD, HIDDEN)
        weights[f"{at}.mlp.down_proj.weight"] = _random(chance, HIDDEN, FEED_FORWARD)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{at}.{norm}.weight"] = np.ones(HIDDEN, dtype=np.float32)
    return weights


def _attention_rows(name: str) -> int:
    return HIDDEN if name == "q_proj" else HIDDEN // HEADS * KEY_VALUE_HEADS


def _random(chance: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.float32]:
    return (chance.standard_normal((rows, columns)) * SPREAD).astype(np.float32)
