"""What no policy can beat by much: one cache that every replica reads and nothing leaves, one queue for all of them.

Each request waits for the first replica that is free, in the order of arrival, and computes what no request before it
had. Decoding costs prefills nothing here. So the gap between a policy and this line is more than what is left to win.
"""

from __future__ import annotations

import heapq
from array import array
from dataclasses import dataclass
from itertools import count

from router.lab.capacity import STEP_TOKENS
from router.prompt.blocks import BlockHasher, TokenIds
from router.sim.timing import Timing
from router.sim.virtual import Arrival, Workload


@dataclass(frozen=True, slots=True)
class Ideal:
    hit_ratio: float
    ttft_seconds: dict[str, float]  # by request, in the order of arrival


def ideal(workload: Workload, timing: Timing, replicas: int, block_size_tokens: int) -> Ideal:
    hasher, seen = BlockHasher(), set[int]()
    free_at = [0.0] * replicas
    order = count()
    arrivals: list[tuple[float, int, Arrival]] = []
    answered: list[tuple[float, int, Arrival]] = []
    opening = workload.begin()
    following = next(opening, None)
    first_tokens: dict[str, float] = {}
    cached_tokens = prompt_tokens = 0
    while arrivals or answered or following is not None:
        now = min(arrivals[0][0] if arrivals else float("inf"), answered[0][0] if answered else float("inf"))
        if following is not None and following.at_seconds <= now:
            heapq.heappush(arrivals, (following.at_seconds, next(order), following))
            following = next(opening, None)
            continue
        if answered and answered[0][0] == now:
            _, _, arrival = heapq.heappop(answered)
            whole = arrival.prompt + array("I", arrival.answer)  # answers are cached too
            seen.update(hasher.hashes(TokenIds(whole.tobytes()), 0, block_size_tokens))
            for asked in workload.after(arrival, now):
                heapq.heappush(arrivals, (asked.at_seconds, next(order), asked))
            continue
        _, _, arrival = heapq.heappop(arrivals)
        length = len(arrival.prompt)
        hashes = hasher.hashes(TokenIds(arrival.prompt.tobytes()), 0, block_size_tokens)
        held = next((depth for depth, block in enumerate(hashes) if block not in seen), len(hashes))
        cached = min(held, (length - 1) // block_size_tokens) * block_size_tokens
        seen.update(hashes)
        cached_tokens, prompt_tokens = cached_tokens + cached, prompt_tokens + length
        seconds = sum(
            timing.step_seconds([(min(STEP_TOKENS, length - done), done)], 0, 0)
            for done in range(cached, length, STEP_TOKENS)
        )
        first_token = max(now, heapq.heappop(free_at)) + seconds
        heapq.heappush(free_at, first_token)
        first_tokens[arrival.request_id] = first_token - now
        ends = first_token + len(arrival.answer) * timing.step_seconds((), 1, length)
        heapq.heappush(answered, (ends, next(order), arrival))
    return Ideal(cached_tokens / max(1, prompt_tokens), first_tokens)
