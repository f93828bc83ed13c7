"""Rates over one setting: lines with bands for the intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from sarsteer.evaluation.summary import Summary
from sarsteer.report.svg import grid_line, marker, svg, tag
from sarsteer.stats.estimate import Estimate

WIDTH, HEIGHT = 400.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 34.0, 318.0, 12.0, 252.0
LINES = (("asr", "ASR", 6), ("rr_harmful", "RR harmful", 1), ("rr_safe", "RR safe", 2), ("brr", "BRR", 3))
"""The lines: attribute of ``Summary``, name, color and shape."""
LABEL_HEIGHT = 14.0
"""The least distance between the names at the ends of the lines."""


def setting_chart(
    symbol: str, points: Sequence[tuple[float, Summary]], standard: float, undefended: Estimate | None
) -> Markup:
    """The chart of one setting.

    Args:
        symbol: of the setting, such as ``"α"``.
        points: its values in rising order, with the results at each.
        standard: the paper's value.
        undefended: attack success without a defense, drawn as a dashed line.

    """
    values = [value for value, _ in points]
    low, high = min(values), max(values)

    def across(value: float) -> float:
        return LEFT + 12 + (RIGHT - LEFT - 24) * ((value - low) / (high - low) if high > low else 0.5)

    drawn = [_axes(symbol, values, across, standard)]
    if undefended is not None:
        y = _height(undefended.value)
        drawn.append(tag("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="blind"))
    ends: list[tuple[float, str, int]] = []
    for key, title, series in LINES:
        known = [(across(value), estimate) for value, summary in points if (estimate := _finite(summary, key))]
        if not known:
            continue
        upper = " ".join(f"{x:.1f},{_height(e.high):.1f}" for x, e in known)
        lower = " ".join(f"{x:.1f},{_height(e.low):.1f}" for x, e in reversed(known))
        drawn.append(tag("polygon", points=f"{upper} {lower}", class_=f"band s{series}"))
        line = " ".join(f"{x:.1f},{_height(e.value):.1f}" for x, e in known)
        drawn.append(tag("polyline", points=line, class_=f"line s{series}"))
        drawn += [
            tag("g", tag("title", f"{title}: {e}"), marker(series, x, _height(e.value), 3.2), class_=f"s{series}")
            for x, e in known
        ]
        ends.append((_height(known[-1][1].value), title, series))
    drawn += _names(ends)
    return svg(WIDTH, HEIGHT, f"Rates by {symbol}", *drawn)


def _finite(summary: Summary, key: str) -> Estimate | None:
    estimate: Estimate | None = getattr(summary, key)
    numbers = () if estimate is None else (estimate.value, estimate.low, estimate.high)
    return estimate if all(map(math.isfinite, numbers)) else None


def _height(share: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * share


def _axes(symbol: str, values: Sequence[float], across: Callable[[float], float], standard: float) -> Markup:
    parts = []
    for step in range(6):
        parts.append(grid_line(LEFT, RIGHT, _height(step / 5), f"{20 * step}"))
    last = -math.inf
    for value in values:
        x, text = across(value), f"{value:g}"
        parts.append(tag("line", x1=x, x2=x, y1=BOTTOM, y2=BOTTOM + 4, class_="grid"))
        if x - last >= 7 * len(text) + 6 or value == standard:
            parts.append(tag("text", text, x=x, y=BOTTOM + 17, text_anchor="middle"))
            last = x
    if standard in values:
        x = across(standard)
        parts.append(tag("line", x1=x, x2=x, y1=TOP, y2=BOTTOM, class_="grid standard"))
    parts.append(tag("text", f"{symbol} →", x=RIGHT, y=BOTTOM + 36, text_anchor="end"))
    return tag("g", *parts, class_="axes")


def _names(ends: Sequence[tuple[float, str, int]]) -> list[Markup]:
    """The name of each line at its end, moved apart when lines end close together."""
    drawn, above = [], -math.inf
    ordered = sorted(ends)
    room = BOTTOM - LABEL_HEIGHT * (len(ordered) - 1)
    for index, (y, title, series) in enumerate(ordered):
        at = max(min(y, room + LABEL_HEIGHT * index), above + LABEL_HEIGHT)
        above = at
        drawn.append(tag("text", title, x=RIGHT + 6, y=at + 4, class_=f"name s{series}"))
    return drawn
