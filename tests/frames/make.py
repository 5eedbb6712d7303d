"""Trims full recordings of a real vLLM 0.32.0 into the compact frame files beside this script.

`python tests/frames/make.py RECORDINGS` where RECORDINGS holds the folders named in SOURCES, a JSONL file per scenario.
The engine's state carries over from scenario to scenario, so a file keeps a run of scenarios from the very first on.

Lines by `kind`, each with `t` in seconds: `scenario` and `note` (text), `request` (tag, path, body without its prompt),
`event` (topic, seq, payload_hex), `response` (tag, prompt_token_ids, cached_tokens, completion_tokens),
`replay_request` (start_seq), `replay_frame` (frames_hex as a DEALER sees them). Payloads and replay frames are exact
bytes. The first replay, of the whole buffer, is left out: its payloads are those of the events.
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


def main(recordings: Path) -> None:
    for target, (folder, last_scenario) in SOURCES.items():
        lines = trimmed_lines(recordings / folder, last_scenario)
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        (Path(__file__).parent / target).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
