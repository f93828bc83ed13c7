"""Safety against over-refusal, as a curve over α, with every other defense as a point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import Markup

from sarsteer.evaluation.results import Arm, CurvePoint
from sarsteer.evaluation.summary import Summary
from sarsteer.report.svg import Box, marker, picture, place, shortened, tag
from sarsteer.stats.estimate import Estimate

WIDTH, HEIGHT = 400.0, 392.0
FRAME = Box(44, 14, 386, 346)
LABEL, SMALL = 12.5, 10.5
CROWD = 8
"""Defenses above which points bear numbers, told below the picture: names would hide each other, and colors repeat."""
NEAR = 11.0
"""Points closer than this, in pixels, share one label of numbers."""
ROW = 17.0
ROOM = 4.0
"""How much of a strength's label may be hidden before it is left out, in square pixels a letter."""


@dataclass(frozen=True)
class Point:
    """A pair of rates, with what stands beside it; ``main`` for a defense of the table, else a strength."""

    x: Estimate
    y: Estimate
    label: str
    series: int
    main: bool


def tradeoff(
    benchmark: str, arms: Sequence[Arm], curve: Sequence[CurvePoint], series: Mapping[str, int]
) -> Markup | None:
    """The panel of one benchmark; None where it has no safe, or no harmful, requests."""
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
    everything = [*singles, *strengths]  # a defense's own strength is drawn once, as the row of the table that it is
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
    in_the_way = [
        Box(_x(point.x.low, top), at(point)[1] - 1, _x(point.x.high, top), at(point)[1] + 1) for point in everything
    ]
    in_the_way += [box for line in lines.values() for box in _along(list(map(at, line)))]
    title = f"{benchmark}: harmful requests refused against safe requests refused"
    if not numbered:
        return picture(WIDTH, HEIGHT, title, *drawn, *_labels(everything, at, in_the_way))
    drawn += _labels([*_by_number(singles, at), *strengths], at, in_the_way)
    return picture(WIDTH, HEIGHT + ROW * -(-len(singles) // 2) + 14, title, *drawn, *_legend(singles))


def _by_number(points: Sequence[Point], at: Callable[[Point], tuple[float, float]]) -> list[Point]:
    """The points under their numbers; those that lie on one another under one label of all their numbers."""
    groups: list[list[tuple[int, Point]]] = []
    for number, point in enumerate(points, 1):
        near = next((group for group in groups if math.dist(at(group[0][1]), at(point)) < NEAR), None)
        if near is None:
            groups.append([(number, point)])
        else:
            near.append((number, point))
    return [replace(group[0][1], label=", ".join(str(number) for number, _ in group)) for group in groups]


def _legend(points: Sequence[Point]) -> list[Markup]:
    """What the numbers say, in two columns below the picture, down the first and then the second."""
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
    """The curve with each swept defense's own strength, which is a row of the table, in its place; by rising α."""
    own = [
        CurvePoint(arm.benchmark, arm.defense, float(alpha), arm.summary)
        for arm in arms
        if isinstance(alpha := arm.settings.get("alpha"), int | float)
        and arm.defense in {point.defense for point in curve}
        and (arm.defense, float(alpha)) not in {(point.defense, point.alpha) for point in curve}
    ]
    order = {name: i for i, name in enumerate(dict.fromkeys(point.defense for point in curve))}
    return sorted([*curve, *own], key=lambda point: (order[point.defense], point.alpha))


def _points(name: str | None, found: Sequence[tuple[str, Summary]], series: Mapping[str, int]) -> list[Point]:
    return [
        Point(s.rr_safe, s.rr_harmful, label, series[label if name is None else name], name is None)
        for label, s in found
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
        parts.append(tag("line", x1=FRAME.left, x2=FRAME.right, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", f"{100 * top * step / 5:g}", x=x, y=FRAME.bottom + 15, text_anchor="middle"))
        parts.append(tag("text", f"{20 * step}", x=FRAME.left - 6, y=y + 4, text_anchor="end"))
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
    """A line as small boxes, so that labels keep off it."""
    steps = [i / 12 for i in range(12)]
    middles = [(x + t * (u - x), y + t * (v - y)) for (x, y), (u, v) in pairwise(line) for t in steps]
    return [Box(x - 2, y - 2, x + 2, y + 2) for x, y in middles]


def _labels(
    points: Sequence[Point], at: Callable[[Point], tuple[float, float]], in_the_way: Sequence[Box]
) -> list[Markup]:
    where = [at(point) for point in points]
    taken = [*(Box(x - 6, y - 6, x + 6, y + 6) for x, y in where), *in_the_way]
    drawn = []
    for point, (x, y) in zip(points, where, strict=True):
        size = LABEL if point.main else SMALL
        text = shortened(point.label, 34)
        box, hidden = place(text, x, y, FRAME, taken, size)
        if not point.main and hidden > ROOM * len(text):
            continue  # a strength among many: its neighbours tell enough, and the numbers stand below
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
