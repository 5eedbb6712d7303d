from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from router.errors import ConfigError
from router.sim.traces import load_conversations
from router.sim.workload import Chat, Conversation, Prompt

TRACES = Path(__file__).resolve().parents[3] / "shared" / "traces"

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Two?"},
]


def load(folder: Path, *lines: object, name: str = "file.jsonl") -> tuple[Conversation, ...]:
    path = folder / name
    path.write_bytes(b"\n\n".join(msgspec.json.encode(line) for line in lines))
    return load_conversations(path)


def tokens(prompt: Prompt) -> list[int]:
    return msgspec.json.decode(prompt.members()[0].removeprefix(b'"prompt":'), type=list[int])


def test_each_assistant_message_is_a_turn_and_so_is_an_open_end(tmp_path: Path) -> None:
    (conversation,) = load(tmp_path, {"messages": MESSAGES, "tools": [{"type": "function"}]})
    chats = [ask.prompt for ask in conversation.asks]
    assert all(isinstance(chat, Chat) and chat.tools == b'[{"type":"function"}]' for chat in chats)
    assert [len(chat.messages) for chat in chats if isinstance(chat, Chat)] == [2, 4]


@pytest.mark.parametrize("shape", ["lines", "lists", "array", "one"])
def test_openai_messages_come_as_lines_or_as_one_document(tmp_path: Path, shape: str) -> None:
    if shape == "lines":
        conversations = load(tmp_path, {"messages": MESSAGES}, {"messages": MESSAGES})
    elif shape == "lists":
        conversations = load(tmp_path, MESSAGES, MESSAGES)
    elif shape == "array":
        conversations = load(tmp_path, [{"messages": MESSAGES}, MESSAGES], name="file.json")
    else:
        conversations = load(tmp_path, MESSAGES, name="file.json") * 2
    assert [len(conversation.asks) for conversation in conversations] == [2, 2]


def test_an_agent_log_is_grouped_by_session_and_its_time_begins_at_zero(tmp_path: Path) -> None:
    lines = [
        {
            "timestamp": 1_760_000_000_000_000 + number * 500_000,
            "input": f"p{number}",
            "output": "o" * 40,
            "session_id": s,
        }
        for number, s in enumerate("aba")
    ]
    first, second = load(tmp_path, *lines)
    assert [ask.at_seconds for ask in first.asks] == [0.0, 1.0]
    assert first.asks[0].prompt.path == "/v1/completions"
    assert first.asks[0].max_tokens == 10
    assert [ask.at_seconds for ask in second.asks] == [0.5]


def test_mooncake_prompts_are_equal_exactly_where_their_ids_are(tmp_path: Path) -> None:
    line = {"timestamp": 0, "input_length": 1200, "output_length": 5, "hash_ids": [0, 1, 5000]}
    other = {"timestamp": 9, "input_length": 1024, "output_length": 5, "hash_ids": [0, 4097]}
    first, second = (tokens(conversation.asks[0].prompt) for conversation in load(tmp_path, line, other))
    assert (len(first), len(second)) == (1200, 1024)
    assert first[:512] == second[:512]
    assert first[512:528] != second[512:528]


def test_prompts_known_by_their_length_share_nothing(tmp_path: Path) -> None:
    lines = [{"timestamp": at, "input_length": 600, "output_length": 5} for at in (0, 1500)]
    first, second = load(tmp_path, *lines)
    assert tokens(first.asks[0].prompt)[:16] != tokens(second.asks[0].prompt)[:16]
    assert second.asks[0].at_seconds == 1.5


@pytest.mark.parametrize("line", [{"hello": 1}, {"timestamp": 1}, [1, 2], {"messages": [{"content": "who?"}]}])
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, line: object) -> None:
    with pytest.raises(ConfigError, match=r"file\.jsonl: line 2 is no conversation"):
        load(tmp_path, {"messages": MESSAGES}, line)


def test_a_file_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_conversations(tmp_path / "no.jsonl")
    with pytest.raises(ConfigError, match="no conversation"):
        load(tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "requests"),
    [
        ("agent_miniswe_a", 260),
        ("agent_magagent_a", 443),
        ("tau_airline_gpt4o_a", 1163 + 100),  # each dialogue ends with the user's goodbye
        ("mooncake_conversation_a", 6758),
        ("azure2023_code_a", 5740),
    ],
)
def test_published_traces_load_whole(name: str, requests: int) -> None:
    path = TRACES / f"{name}.jsonl.zst"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    assert sum(len(conversation.asks) for conversation in load_conversations(path)) == requests
