from __future__ import annotations

from router.gateway.lag import LoopLag


def test_the_worst_delay_is_shown_until_it_is_fifteen_seconds_old() -> None:
    lag = LoopLag()
    for at, late in ((0.0, 0.001), (1.0, 0.3), (2.0, 0.002), (10.0, 0.05)):
        lag.note(at, late)
    assert lag.worst_seconds() == 0.3
    lag.note(17.0, 0.001)
    assert lag.worst_seconds() == 0.05
    lag.note(40.0, 0.001)
    assert lag.worst_seconds() == 0.001
