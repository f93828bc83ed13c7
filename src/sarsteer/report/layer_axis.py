"""The axes that charts over decoder layers share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from sarsteer.report.svg import grid_line, marker, tag

WIDTH, HEIGHT = 400.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 388.0, 12.0, 204.0


def column(layer: int, layers: Sequence[int]) -> float:
    """The horizontal position of a layer."""
    first, last = layers[0], layers[-1]
    margin = 0.5 * (RIGHT - LEFT) / max(1, len(layers))
    return LEFT + margin + (RIGHT - LEFT - 2 * margin) * (layer - first) / max(1, last - first)


def layer_axis(layers: Sequence[int]) -> Markup:
    """The horizontal axis, with the numbers of the layers."""
    every = max(1, math.ceil(len(layers) / 12))
    return tag(
        "g",
        tag("line", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM, class_="grid"),
        *(
            tag("text", str(number), x=column(number, layers), y=BOTTOM + 15, text_anchor="middle")
            for number in layers[::every]
        ),
        tag("text", "decoder layer →", x=RIGHT, y=BOTTOM + 31, text_anchor="end"),
        class_="axes",
    )


def level(y: float, text: str) -> Markup:
    """A horizontal grid line with its label."""
    return tag("g", grid_line(LEFT, RIGHT, y, text), class_="axes")


def legend(entries: Sequence[tuple[str, int]], height: float) -> list[Markup]:
    """Names with their markers, in a row below a chart of this height."""
    drawn, x = [], LEFT
    for name, series in entries:
        drawn.append(tag("g", marker(series, x + 5, height + 8, 3.6), class_=f"s{series}"))
        drawn.append(tag("text", name, x=x + 15, y=height + 12, class_="tick"))
        x += 32 + 7 * len(name)
    return drawn
