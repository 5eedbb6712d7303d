"""How deep each replica's copy of a prompt goes, without walking the prompt.

Along one prompt the set of slots that can reach a block only shrinks (R 4.2 keeps reachable masks prefix-closed), so
the depths where it changes are found by bisection: about log2(blocks) probes for each distinct depth, however many
replicas share it. A probe is one dict lookup in a table of millions: three or four cache misses where the prompt was
not looked up lately, and then those are most of the cost.

Two ways to bisect. `depths` asks nothing of the masks but that they shrink, and shares probes between the groups.
`table_depths` lets `bisect` drive the probes, which halves the cost of a warm one, because sets that shrink are also
numbers that shrink; it needs masks without bits of slots that are no longer live.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from router.fleet.replica import FloatArray
from router.index.slots import ROW_BITS
from router.prompt.blocks import BlockHashes

# Slots (as a mask) that share a depth (in blocks). A list of groups covers each asked slot once.
Group: TypeAlias = tuple[int, int]

# Block hash and a default to the mask of who can reach it; bits below `ROW_BITS` are ignored.
MaskOf: TypeAlias = Callable[[int, int], int]

# After this many distinct depths a sample of the whole prompt pays.
_FEW = 8
_SAMPLES = 64


def depths(mask_of: MaskOf, hashes: BlockHashes, slots: int, start: int = 0) -> list[Group]:
    """Groups covering `slots`, by the depth at which they fall off, ascending; all hold the blocks before `start`.

    Where masks are not prefix-closed an answer is still between the end of the unbroken run and the deepest block held.
    """
    end = len(hashes)
    if start >= end:
        return [(start, slots)]
    here = mask_of(hashes[start], 0) & slots
    if not here:
        return [(start, slots)]
    groups = [(start, slots ^ here)] if here != slots else []
    low = start  # the last block known to be held by all of `here`
    known = [(end, 0), (end - 1, mask_of(hashes[end - 1], 0) & here)]  # probes beyond `low`, nearest last
    while here:
        high, there = known[-1]
        there &= here
        if there == here:
            low = high
            known.pop()
            continue
        while high - low > 1:
            middle = (low + high) >> 1
            mask = mask_of(hashes[middle], 0) & here
            if mask == here:
                low = middle
            else:
                high = middle
                there = mask
                known.append((middle, mask))
        groups.append((high, here ^ there))
        here = there
        low = high
    return groups


def table_depths(values: dict[int, int], hashes: BlockHashes, slots: int) -> list[Group]:
    """As `depths` from the start, over a table whose masks have bits of `slots` only.

    Raises KeyError where the prompt has a gap and, below it, blocks that are in the table but reached by nobody.
    """
    end = len(hashes)
    here = values.get(hashes[0], 0) & slots if end else 0
    if not here:
        return [(0, slots)]
    groups = [(0, slots ^ here)] if here != slots else []
    # The two usual ends first: nobody has it (above), or all who have some have all that is there.
    value_of = values.__getitem__
    # From the deepest block up, so that what is looked for ascends: in the table or not, then the masks as numbers.
    upward = memoryview(hashes)[::-1]
    first = 0 if upward[0] in values else bisect_left(upward, True, key=values.__contains__)
    if value_of(upward[first]) & here == here:
        return [*groups, (end - first, here)]
    last = end  # all of `here` hold the blocks from `last` on up
    low, step, sample = first, end, []
    while here:
        if len(groups) == _FEW:
            step = (last - first) // _SAMPLES + 1
            sample = list(map(value_of, upward[first:last:step]))
        if sample:
            nearest = bisect_left(sample, here)
            low = first + max(0, (nearest - 1) * step + 1)
            last = min(last, first + nearest * step)
        last = bisect_left(upward, here, low, last, key=value_of)
        there = value_of(upward[last - 1]) & here if last > first else 0
        groups.append((end - last, here ^ there))
        here = there
    return groups


def by_slot(groups: Sequence[Group], slot_count: int, unit: int = 1) -> FloatArray:
    """Depth per slot times `unit`, 0 where no group has it."""
    if slot_count <= 4 * len(groups) + 32:
        told = [0] * slot_count
        for depth, mask in groups:
            if depth:
                rest = mask >> ROW_BITS
                while rest:
                    slot = rest.bit_length() - 1
                    told[slot] = depth * unit
                    rest ^= 1 << slot
        return np.array(told, np.float64)
    # Many slots, few groups: one vector operation for all.
    width = (slot_count + 7) >> 3
    masks = b"".join([(mask >> ROW_BITS).to_bytes(width, "little") for _, mask in groups])
    bits = np.unpackbits(np.frombuffer(masks, np.uint8), bitorder="little").reshape(len(groups), width * 8)
    return np.array([depth * unit for depth, _ in groups], np.float64) @ bits
