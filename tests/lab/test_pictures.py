"""The lab's pictures are what they say: well-formed, every policy in them, marks where the figures are."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from router.lab.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Line, lines
from router.lab.over_time import OverTime
from router.lab.pictures import first_tokens, hits_over_time, load_over_time, sustainable


def drawn(svg: str) -> list[list[tuple[float, float]]]:
    """The points of every line."""
    return [
        [(float(x), float(y)) for x, y in (point.split(",") for point in points.split())]
        for points in re.findall(r'<polyline [^>]*points="([^"]+)"', svg)
    ]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")]


def test_a_point_lies_where_its_axes_put_it_and_never_outside() -> None:
    x, y = Axis("seconds", 0.0, 10.0), Axis("open", 0.0, 4.0)
    ((corner, middle, beyond),) = drawn(lines("t", x, y, [Line("a", [(0.0, 0.0), (5.0, 2.0), (99.0, 99.0)])]))
    assert corner == (LEFT, HEIGHT - BOTTOM)
    assert middle == pytest.approx(((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2), abs=0.1)
    assert beyond == (WIDTH - RIGHT, TOP)


def test_a_gap_is_not_drawn_over() -> None:
    x, y = Axis("s", 0.0, 10.0), Axis("n", 0.0, 4.0)
    runs = drawn(lines("t", x, y, [Line("a", [(0.0, 1.0), (1.0, 1.0), (2.0, None), (3.0, 1.0), (4.0, 1.0)])]))
    assert [len(run) for run in runs] == [2, 2]


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("", 0.0, 1.0, percent=True), ["0%", "20%", "40%", "60%", "80%", "100%"]),
        (Axis("", 0.0, 52.0), ["0", "20", "40"]),
        (Axis("", 0.04, 3.0, logarithmic=True), ["0.05", "0.1", "0.2", "0.5", "1", "2"]),
    ],
)
def test_ticks_are_round(axis: Axis, ticks: list[str]) -> None:
    assert [axis.told(tick) for tick in axis.ticks()] == ticks


def test_the_slower_policy_lies_to_the_right() -> None:
    fast, slow = [0.1 + 0.001 * n for n in range(200)], [0.4 + 0.004 * n for n in range(200)]
    svg = first_tokens("conversation <95%>", {"ours": fast, "theirs & co": slow})
    left, right = drawn(svg)
    assert all(a[0] < b[0] for a, b in zip(left[1:-1], right[1:-1], strict=True))
    assert [point[1] for point in left] == sorted((point[1] for point in left), reverse=True), "a distribution rises"
    assert {"ours", "theirs & co", "conversation <95%>"} <= set(texts(svg))


def test_hits_and_the_busiest_replica_are_drawn_over_time() -> None:
    run = OverTime(2.0, [0.5, None, 1.0, 1.0], [1.0, 2.0, 3.0, 2.0], [2, 4, 6, 4])
    assert [len(points) for points in drawn(hits_over_time("t", {"ours": run}))] == [1, 2]
    (load,) = drawn(load_over_time("t", {"ours": run}))
    assert min(load, key=lambda point: point[1]) == load[2]


def test_bars_are_as_long_as_what_they_say() -> None:
    svg = sustainable("conversation", "requests/s sustained", {"ours": 8.0, "theirs": 4.0})
    ours, theirs = (float(width) for width in re.findall(r'<rect x="[^"]+" y="[^"]+" width="([\d.]+)"', svg))
    assert ours == pytest.approx(2 * theirs)
    assert {"8", "4", "conversation, requests/s sustained"} <= set(texts(svg))
