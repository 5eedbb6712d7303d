"""A minute of what `make chaos` does for ten: real processes, everything goes wrong, and the rules hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from loadtest.chaos.judge import End
from loadtest.chaos.play import Terms, play

# Few requests and many troubles: most of this minute the machine has nothing to do.
TERMS = Terms(seed=1, seconds=36.0, replicas=3, per_second=4.0, troubles_per_minute=50.0, calm_requests=30)


@pytest.mark.timeout(900)  # of a machine with nothing left to give; it takes a minute
async def test_after_chaos_every_failure_was_allowed_and_nothing_is_left_and_predictions_are_exact(
    tmp_path: Path,
) -> None:
    run = await play(TERMS, tmp_path)
    assert run.faults() == []
    assert len({window.sort.name for window in run.windows}) >= 20
    ends = Counter(seen.end for seen in run.seen)
    assert ends[End.ANSWERED] >= 0.5 * len(run.seen)
    assert all(ends[end] for end in (End.HUNG_UP, End.TOLD_OFF, End.CUT)), ends
    assert [calm.is_right for calm in run.calms] == [True, True]
