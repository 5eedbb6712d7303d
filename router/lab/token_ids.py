"""Made-up token ids: two prompts are equal exactly where their source says they are.

An unsigned 32-bit id is split in halves: prompts below, answers above. Sources that number their runs of tokens use
`run_of`; sources whose sessions grow by themselves give each session a stretch of ids of its own.
"""

from __future__ import annotations

from array import array

import numpy as np

RUN_TOKENS = 1 << 17
FIRST_ANSWER_TOKEN = 1 << 31
LONGEST_ANSWER = 1 << 14


def tokens_from(first: int, count: int) -> array[int]:
    ids = array("I")
    ids.frombytes(np.arange(first, first + count, dtype=np.uint32).tobytes())
    return ids


def run_of(number: int, tokens: int) -> array[int]:
    """`tokens` ids that no run of another number has."""
    return tokens_from(number * RUN_TOKENS, tokens)


def answer_of(number: int, tokens: int) -> range:
    first = FIRST_ANSWER_TOKEN + number * LONGEST_ANSWER % FIRST_ANSWER_TOKEN
    return range(first, first + max(1, tokens))
