"""Trims full recordings of a real vLLM 0.32.0 and a real SGLang 0.5.23 into the compact frame files beside this script.

`python tests/frames/make.py RECORDINGS` where RECORDINGS holds `vllm_kv_events` with the folders named in SOURCES, a
JSONL file per scenario, and SGLANG_SOURCE. vLLM's state carries over from scenario to scenario, so a file keeps a run
of scenarios from the very first on; SGLang's is one run.

Lines by `kind`, each with `t` in seconds: `scenario` and `note` (text), `request` (tag, path, body without its prompt),
`event` (topic, seq, payload_hex), `response` (tag, prompt_token_ids, cached_tokens, completion_tokens),
`replay_request` (start_seq), `replay_frame` (frames_hex as a DEALER sees them). Payloads and replay frames are exact
bytes. The first replay, of the whole buffer, is left out: its payloads are those of the events. SGLang does not tell
the tokens of a prompt: those of a response are the request's own, and a chat's are missing.

The transcripts of split requests (`pd_*`) hold `http_request` and `http_response` of both legs, and `bootstrap_query`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any  # recorded JSON has no type worth naming

# target: (folder of the recording, last scenario kept)
SOURCES = {
    "vllm_a_block32.jsonl": ("a_block32_int_sha256_lora", "12"),
    "vllm_b_block64.jsonl": ("b_block64_bytes_sha256cbor", "06"),
    "vllm_legacy.jsonl": ("a_legacy_array_derived", "06"),
}
SGLANG_SOURCE, SGLANG_TARGET = "sglang_kv_events/sglang_0.5.23_page16.jsonl", "sglang_page16.jsonl"
TRANSCRIPTS = {
    "pd_nixl.jsonl": "vllm_0.32.0_nixl_pull.jsonl",
    "pd_mooncake.jsonl": "vllm_0.32.0_mooncake_tcp.jsonl",
}
REPLAYED = 3  # of SGLang's replayed batches, the first; and the end marker
LEFT_OUT_OF_BODIES = ("prompt", "messages", "temperature", "seed")


def trimmed(line: dict[str, Any]) -> dict[str, Any] | None:
    """One recorded line with only what tests read; None where nothing of it is read."""
    kind, out = line["kind"], {"kind": line["kind"], "t": line["t"]}
    if kind in ("scenario", "note"):
        return out | {"text": line.get("name") or line["text"]}
    if kind == "event":
        return out | {key: line[key] for key in ("topic", "seq", "payload_hex")}
    if kind == "replay_request":
        return out | {"start_seq": line["start_seq"]}
    if kind == "replay_frame":
        return out | {"frames_hex": line["frames_hex"]}
    if kind == "request" and line["method"] == "POST":
        body = {key: value for key, value in (line["body"] or {}).items() if key not in LEFT_OUT_OF_BODIES}
        return out | {"tag": line["tag"], "path": line["path"], "body": body}
    if kind == "response" and "tag" in line:
        found = {
            "tag": line["tag"],
            "prompt_token_ids": line.get("prompt_token_ids"),
            "cached_tokens": line.get("cached_tokens"),
            "completion_tokens": (line.get("usage") or {}).get("completion_tokens"),
        }
        return out | {key: value for key, value in found.items() if value is not None}
    return None


def trimmed_lines(folder: Path, last_scenario: str) -> Iterator[dict[str, Any]]:
    """All kept lines of a recording in order; scenarios without traffic are skipped."""
    in_full_replay = False
    for path in sorted(folder.glob("*.jsonl")):
        if not "01" <= path.name[:2] <= last_scenario:
            continue
        for text in path.read_text().splitlines():
            line = trimmed(json.loads(text))
            if line is None:
                continue
            if line["kind"] == "replay_request":
                in_full_replay = line["start_seq"] == 0
            if not (in_full_replay and line["kind"].startswith("replay")):
                yield line
    if last_scenario < "11":
        yield from tail_replay(folder)


def tail_replay(folder: Path) -> Iterator[dict[str, Any]]:
    """The replay of the last few batches, for a file whose scenarios end before it."""
    (path,) = folder.glob("11_*.jsonl")
    lines = [trimmed(json.loads(text)) for text in path.read_text().splitlines()]
    start = next(i for i, line in enumerate(lines) if line and line.get("start_seq"))
    yield {"kind": "note", "t": 0, "text": "the replays below were recorded later, after scenarios left out here"}
    yield from (line for line in lines[start:] if line)


def sglang_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The kept lines of the SGLang recording."""
    prompts: dict[str, list[int]] = {}
    replayed = 0
    for text in file.read_text().splitlines():
        line = json.loads(text)
        kind, out = line["kind"], {"kind": line["kind"], "t": line["t"]}
        if kind == "request" and line["method"] == "POST" and "tokenize" not in line["path"]:
            body = dict(line["body"] or {})
            prompts[line["tag"]] = body.pop("input_ids", [])
            kept = {name: value for name, value in body.items() if name in ("cache_salt", "extra_key", "stream")}
            yield out | {"tag": line["tag"], "path": line["path"], "body": kept}
        elif kind == "response" and isinstance(line["json"], dict) and "meta_info" in line["json"]:
            told = {name: line["json"]["meta_info"][name] for name in ("cached_tokens", "completion_tokens")}
            yield out | {"tag": line["tag"], "prompt_token_ids": prompts[line["tag"]]} | told
        elif kind == "event":
            yield out | {name: line[name] for name in ("topic", "seq", "payload_hex")}
        elif kind == "replay_frame":
            replayed += 1
            if replayed <= REPLAYED or line["frames_hex"][-2] == "f" * 16:
                yield out | {"frames_hex": line["frames_hex"]}


def transcript_lines(file: Path) -> Iterator[dict[str, Any]]:
    """What a driver sent to both legs and got, in its order."""
    kept: dict[str, tuple[str, ...]] = {"bootstrap_query": ("url", "body")}
    kept["http_request"] = ("role", "label", "path", "body")
    kept["http_response"] = ("role", "label", "status", "body")
    for text in file.read_text().splitlines():
        line = json.loads(text)
        if line["kind"] in kept and "reference" not in line.get("label", ""):
            yield {"kind": line["kind"], "t": line["t"]} | {name: line[name] for name in kept[line["kind"]]}


def write(target: str, lines: Iterator[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (Path(__file__).parent / target).write_text(text)


def main(recordings: Path) -> None:
    for target, (folder, last_scenario) in SOURCES.items():
        write(target, trimmed_lines(recordings / "vllm_kv_events" / folder, last_scenario))
    write(SGLANG_TARGET, sglang_lines(recordings / SGLANG_SOURCE))
    for target, name in TRANSCRIPTS.items():
        write(target, transcript_lines(recordings / "pd_transcripts" / name))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
