"""Safety against over-refusal, as a curve over α, with every other defense as a point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import Markup

from sarsteer.evaluation.results import Arm, CurvePoint
from sarsteer.evaluation.summary import Summary
from sarsteer.report.labels import Box, place_label
from sarsteer.report.svg import grid_line, marker, shortened, svg, tag
from sarsteer.stats.estimate import Estimate

WIDTH, HEIGHT = 400.0, 392.0
FRAME = Box(44, 14, 386, 346)
LABEL, SMALL = 12.5, 10.5
CROWD = 8
"""With more defenses than this, points have numbers and a legend: names would overlap, and colors repeat."""
NEAR = 11.0
"""Points closer than this, in pixels, share one label."""
ROW = 17.0
MAX_COVERED = 4.0
"""A strength's label that covers more than this, in square pixels per letter, is left out."""


@dataclass(frozen=True)
class Point:
    """A pair of rates with its label; ``main`` for a defense of the table, False for a swept strength."""

    x: Estimate
    y: Estimate
    label: str
    series: int
    main: bool


def tradeoff(
    benchmark: str, arms: Sequence[Arm], curve: Sequence[CurvePoint], series: Mapping[str, int]
) -> Markup | None:
    """The chart of one benchmark; None if it has no safe or no harmful requests.

    Args:
        benchmark: its name.
        arms: of this benchmark.
        curve: of this benchmark.
        series: the color and shape of each defense.

    """
    swept = {
        name: [point for point in whole_curve(arms, curve) if point.defense == name]
        for name in dict.fromkeys(point.defense for point in curve)
    }
    lines = {name: _points(name, [_named(p) for p in swept[name]], series) for name in swept}
    singles = _points(None, [(arm.defense, arm.summary) for arm in arms], series)
    strengths = [
        point for name in swept for point in _points(name, [_named(p) for p in curve if p.defense == name], series)
    ]
    numbered = len(singles) > CROWD
    everything = [*singles, *strengths]  # the strength of an arm of the table is drawn once, as that arm
    if not everything:
        return None
    top = _axis_end(max(point.x.high for point in everything))

    def at(point: Point) -> tuple[float, float]:
        return _x(point.x.value, top), _y(point.y.value)

    drawn = [_axes(top)]
    drawn += [_cross(point, top) for point in everything]
    for name, line in lines.items():
        ends = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, line))
        drawn.append(tag("polyline", points=ends, class_=f"line s{series[name] % 8}"))
    drawn += [
        tag(
            "g",
            tag("title", f"{point.label}: refuses {point.y} of harmful and {point.x} of safe requests"),
            marker(point.series, *at(point), size=5.5 if point.main else 3.2),
            class_=f"s{point.series % 8}",
        )
        for point in everything
    ]
    obstacles = [
        Box(_x(point.x.low, top), at(point)[1] - 1, _x(point.x.high, top), at(point)[1] + 1) for point in everything
    ]
    obstacles += [box for line in lines.values() for box in _along(list(map(at, line)))]
    title = f"{benchmark}: harmful requests refused against safe requests refused"
    if not numbered:
        return svg(WIDTH, HEIGHT, title, *drawn, *_labels(everything, at, obstacles))
    drawn += _labels([*_by_number(singles, at), *strengths], at, obstacles)
    return svg(WIDTH, HEIGHT + ROW * -(-len(singles) // 2) + 14, title, *drawn, *_legend(singles))


def _by_number(points: Sequence[Point], at: Callable[[Point], tuple[float, float]]) -> list[Point]:
    """The points labeled by number; points that overlap share one label with all their numbers."""
    groups: list[list[tuple[int, Point]]] = []
    for number, point in enumerate(points, 1):
        near = next((group for group in groups if math.dist(at(group[0][1]), at(point)) < NEAR), None)
        if near is None:
            groups.append([(number, point)])
        else:
            near.append((number, point))
    return [replace(group[0][1], label=", ".join(str(number) for number, _ in group)) for group in groups]


def _legend(points: Sequence[Point]) -> list[Markup]:
    """The names behind the numbers, in two columns below the chart."""
    drawn, rows = [], -(-len(points) // 2)
    for index, point in enumerate(points):
        x, y = FRAME.left - 32 + (WIDTH / 2) * (index // rows), HEIGHT + 16 + ROW * (index % rows)
        drawn.append(tag("g", marker(point.series, x + 26, y - 4, size=4.5), class_=f"s{point.series % 8}"))
        drawn.append(tag("text", str(index + 1), x=x + 16, y=y, text_anchor="end", class_="tick"))
        drawn.append(tag("text", shortened(point.label, 24), x=x + 36, y=y, class_=f"name s{point.series % 8}"))
    return drawn


def _named(point: CurvePoint) -> tuple[str, Summary]:
    return f"α {point.alpha:g}", point.summary


def whole_curve(arms: Sequence[Arm], curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    """The curve by rising α, with the strengths of the table's arms added."""
    from_table = [
        CurvePoint(arm.benchmark, arm.defense, float(alpha), arm.summary)
        for arm in arms
        if isinstance(alpha := arm.settings.get("alpha"), int | float)
        and arm.defense in {point.defense for point in curve}
        and (arm.defense, float(alpha)) not in {(point.defense, point.alpha) for point in curve}
    ]
    order = {name: i for i, name in enumerate(dict.fromkeys(point.defense for point in curve))}
    return sorted([*curve, *from_table], key=lambda point: (order[point.defense], point.alpha))


def _points(name: str | None, labeled: Sequence[tuple[str, Summary]], series: Mapping[str, int]) -> list[Point]:
    return [
        Point(s.rr_safe, s.rr_harmful, label, series[label if name is None else name], name is None)
        for label, s in labeled
        if s.rr_safe is not None and s.rr_harmful is not None and _finite(s.rr_safe) and _finite(s.rr_harmful)
    ]


def _finite(estimate: Estimate) -> bool:
    return all(map(math.isfinite, (estimate.value, estimate.low, estimate.high)))


def _axis_end(highest: float) -> float:
    return next((end for end in (0.1, 0.2, 0.5) if highest <= end), 1.0)


def _x(share: float, top: float) -> float:
    return FRAME.left + (FRAME.right - FRAME.left) * share / top


def _y(share: float) -> float:
    return FRAME.bottom - (FRAME.bottom - FRAME.top) * share


def _axes(top: float) -> Markup:
    parts = []
    for step in range(6):
        x, y = _x(top * step / 5, top), _y(step / 5)
        parts.append(tag("line", x1=x, x2=x, y1=FRAME.top, y2=FRAME.bottom, class_="grid"))
        parts.append(tag("text", f"{100 * top * step / 5:g}", x=x, y=FRAME.bottom + 15, text_anchor="middle"))
        parts.append(grid_line(FRAME.left, FRAME.right, y, f"{20 * step}"))
    parts.append(tag("line", x1=_x(0, top), y1=_y(0), x2=_x(top, top), y2=_y(top), class_="blind"))
    parts.append(
        tag("text", "safe requests refused, % (over-refusal) →", x=FRAME.right, y=HEIGHT - 8, text_anchor="end")
    )
    parts.append(
        tag(
            "text",
            "harmful requests refused, % →",
            x=11,
            y=FRAME.top,
            text_anchor="end",
            transform=f"rotate(-90 11 {FRAME.top:g})",
        )
    )
    return tag("g", *parts, class_="axes")


def _cross(point: Point, top: float) -> Markup:
    x, y = _x(point.x.value, top), _y(point.y.value)
    return tag(
        "g",
        tag("line", x1=_x(point.x.low, top), x2=_x(min(point.x.high, top), top), y1=y, y2=y),
        tag("line", x1=x, x2=x, y1=_y(point.y.low), y2=_y(point.y.high)),
        class_=f"cross s{point.series % 8}",
    )


def _along(line: Sequence[tuple[float, float]]) -> list[Box]:
    """A line as small boxes, so that labels do not cover it."""
    steps = [i / 12 for i in range(12)]
    middles = [(x + t * (u - x), y + t * (v - y)) for (x, y), (u, v) in pairwise(line) for t in steps]
    return [Box(x - 2, y - 2, x + 2, y + 2) for x, y in middles]


def _labels(
    points: Sequence[Point], at: Callable[[Point], tuple[float, float]], obstacles: Sequence[Box]
) -> list[Markup]:
    where = [at(point) for point in points]
    taken = [*(Box(x - 6, y - 6, x + 6, y + 6) for x, y in where), *obstacles]
    drawn = []
    for point, (x, y) in zip(points, where, strict=True):
        size = LABEL if point.main else SMALL
        text = shortened(point.label, 34)
        box, covered = place_label(text, x, y, FRAME, taken, size)
        if not point.main and covered > MAX_COVERED * len(text):
            continue  # one strength of many: its neighbors are labeled, and the page has a table of the numbers
        taken.append(box)
        anchor = "start" if box.left > x else "end" if box.right < x else "middle"
        edge = {"start": box.left, "end": box.right, "middle": (box.left + box.right) / 2}
        drawn.append(
            tag(
                "text",
                text,
                x=edge[anchor],
                y=box.bottom - 0.25 * size,
                text_anchor=anchor,
                class_=f"{'name' if point.main else 'strength'} s{point.series % 8}",
            )
        )
    return drawn
