"""What a live probe brought (a unique prompt twice, then salted), and where its blocks stand in our own hash chain.

Three things have to agree, and each is known from another side: the tokens (we read the prompt as the router would),
the events (the engine names the blocks it stored), and the usage (the engine tells what it found). The first prompt's
event must carry exactly our tokens; hashed by our own chain, what was heard must predict what the second finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from router.doctor.hear import Heard, Replayed
from router.events.kinds import EngineHash, Stored
from router.index.base import Tier
from router.prompt.blocks import TOKEN_BYTES, TokenIds, child_hash, count_tokens, root_hash, unpack_tokens

GRAM_TOKENS = 4  # runs of so many tokens are compared to find the probe's event among others
SHARED_GRAMS = 8  # so many in common are no accident: the probe's words are random


@dataclass(frozen=True, slots=True)
class Answered:
    """One completion's usage. None: absent or null. `fault` tells why there is no answer."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    status: int | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """Everything one live probe brought. `tokens` are ours; None where nobody could read the prompt."""

    model: str
    hash_seed: int
    tokens: TokenIds | None
    read_by: str  # "local" or "engine"
    salt: str
    first: Answered
    second: Answered
    salted: Answered
    heard: tuple[Heard, ...] = ()  # live, from before the first prompt until the last event
    replayed: Replayed | None = None  # from the first batch heard on


@dataclass(frozen=True, slots=True)
class Placed:
    """The probe's blocks as the events tell them. Counts are blocks."""

    block_size_tokens: int
    ours: tuple[int, ...]  # our own chain over the probe's tokens
    announced: frozenset[int]  # our hashes of every block heard
    skipped_blocks: int  # leading blocks already cached before: never announced again

    @property
    def held_blocks(self) -> int:
        """Leading blocks that must be in the cache now."""
        count = self.skipped_blocks
        while count < len(self.ours) and self.ours[count] in self.announced:
            count += 1
        return count

    @property
    def complete(self) -> bool:
        return self.held_blocks == len(self.ours)


def stored_runs(heard: Iterable[Heard]) -> Iterator[Stored]:
    for message in heard:
        for event in message.batch.events if message.batch is not None else ():
            if isinstance(event, Stored) and event.tier is Tier.GPU:
                yield event


def place(
    tokens: TokenIds,
    heard: Iterable[Heard],
    model: str,
    hash_seed: int,
    *,
    cached_tokens: int = 0,
    salt: str | None = None,
) -> Placed | None:
    """Hash what was heard as the index would, and the probe likewise. None: no stored run was heard.

    `cached_tokens` of the prompt were found when it was first sent. A run whose parent was announced before we listened
    can be ours only behind those.
    """
    runs = list(stored_runs(heard))
    if not runs:
        return None
    size = Counter(run.block_size_tokens for run in runs).most_common(1)[0][0]
    ours = chain(tokens, root_hash(hash_seed, model, None, salt), size)
    skipped = min(cached_tokens // size, len(ours))
    names: dict[EngineHash, int] = {}
    announced: set[int] = set()
    for run in runs:
        if run.parent is None:
            parent = root_hash(hash_seed, model, run.adapter, run.salt)
        elif run.parent in names:
            parent = names[run.parent]
        elif skipped and run.adapter is None:
            parent = ours[skipped - 1]
        else:
            continue
        step = run.block_size_tokens * TOKEN_BYTES
        for number, name in enumerate(run.names):
            extra = run.extras[number] if run.extras else b""
            parent = child_hash(parent, run.tokens[number * step : (number + 1) * step], extra)
            names[name] = parent
            announced.add(parent)
    return Placed(size, tuple(ours), frozenset(announced), skipped)


def chain(tokens: TokenIds, root: int, block_size_tokens: int) -> list[int]:
    """Our hashes of the full blocks."""
    step = block_size_tokens * TOKEN_BYTES
    hashes: list[int] = []
    for start in range(0, len(tokens) // step * step, step):
        root = child_hash(root, tokens[start : start + step])
        hashes.append(root)
    return hashes


def predicted_tokens(placed: Placed, tokens: TokenIds) -> int:
    """The hit rule (R 4.1)."""
    size = placed.block_size_tokens
    return size * min(placed.held_blocks, (count_tokens(tokens) - 1) // size)


def most_alike(tokens: TokenIds, heard: Iterable[Heard]) -> Stored | None:
    """The stored run that has most in common with the probe; None where none has enough to be the probe's."""
    grams = _grams(tokens)
    best: Stored | None = None
    most = SHARED_GRAMS - 1
    for run in stored_runs(heard):
        shared = len(grams & _grams(run.tokens))
        if shared > most:
            best, most = run, shared
    return best


def first_difference(ours: TokenIds, theirs: TokenIds) -> int | None:
    """The first place where two token runs part; None where one is the other's beginning."""
    for at, (one, other) in enumerate(zip(unpack_tokens(ours), unpack_tokens(theirs), strict=False)):
        if one != other:
            return at
    return None


def _grams(tokens: TokenIds) -> set[bytes]:
    width = GRAM_TOKENS * TOKEN_BYTES
    return {tokens[at : at + width] for at in range(0, len(tokens) - width + 1, TOKEN_BYTES)}


def gaps(heard: Sequence[Heard]) -> tuple[tuple[int, int], ...]:
    """Runs of numbers missing between live messages, first and last of each."""
    numbers = sorted({message.sequence for message in heard})
    return tuple((a + 1, b - 1) for a, b in pairwise(numbers) if b != a + 1)
